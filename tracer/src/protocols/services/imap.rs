//! IMAP (RFC 9051): the server's greeting, or a client's first command behind its tag.

use super::{
    Message,
    bytes::{begins, line},
};

const GREETINGS: &[&str] = &["* OK", "* PREAUTH"];
/// What a greeting says that can be no other protocol's.
const VERSION: &str = "IMAP4rev";
const PORTS: &[u16] = &[143, 993, 1143];
/// Commands that come before, or instead of, who asks; nobody else has one behind a tag.
const START_TLS: &str = "STARTTLS";
const COMMANDS: &[&str] = &["CAPABILITY", "LOGIN", "AUTHENTICATE", "ID", "NOOP"];
const TAG_BYTES_MAX: usize = 16;

/// The server's greeting, or a line of the client's.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    let usual = PORTS.contains(&message.port);
    if !message.sent {
        let greets = GREETINGS.iter().any(|word| begins(message.bytes, word));
        let text = String::from_utf8_lossy(message.bytes);
        return (greets && (usual || text.contains(VERSION))).then_some(None);
    }
    let (tag, rest) = line(message.bytes)?.split_once(' ')?;
    let is_tag = (1..=TAG_BYTES_MAX).contains(&tag.len())
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    let command = rest.split(' ').next().unwrap_or(rest);
    let is = |word: &&str| command.eq_ignore_ascii_case(word);
    let known = rest.eq_ignore_ascii_case(START_TLS) || (usual && COMMANDS.iter().any(is));
    (is_tag && known).then_some(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, received, sent};

    #[test]
    fn a_server_greets_and_a_client_has_tags() {
        let imap = Some(("imap", None));
        assert_eq!(heard(&received(b"* OK ready\r\n", 143)), imap);
        assert_eq!(heard(&received(b"* OK ready\r\n", 5000)), None);
        let version = b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n";
        assert_eq!(heard(&received(version, 5000)), imap);
        assert_eq!(heard(&sent(b"a1 STARTTLS\r\n", 5000)), imap);
        assert_eq!(heard(&sent(b"A.2 capability\r\n", 143)), imap);
        assert_eq!(heard(&sent(b"a1 CAPABILITY\r\n", 5000)), None);
        assert_eq!(heard(&sent(b"STARTTLS\r\n", 143)), None);
        assert_eq!(heard(&sent(b"a1 STARTTLS", 143)), None);
    }
}
