//! SMTP and LMTP (RFC 5321): what a client says first. (The server's greeting could be one of FTP.)

use super::{
    Message,
    bytes::{begins, line},
};

const FIRST: &[&str] = &["EHLO ", "LHLO "];
/// What others may say, too; then the port has to be one of SMTP's.
const OLD: &str = "HELO ";
const PORTS: &[u16] = &[25, 465, 587, 1025, 2525];

/// The client's first line.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    let says = |word: &str| begins(message.bytes, word);
    let greets =
        FIRST.iter().any(|word| says(word)) || (says(OLD) && PORTS.contains(&message.port));
    let named =
        message.sent && greets && line(message.bytes).is_some_and(|line| line.len() > OLD.len());
    named.then_some(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, received, sent};

    #[test]
    fn a_client_says_hello() {
        assert_eq!(heard(&sent(b"EHLO me.test\r\n", 25)), Some(("smtp", None)));
        assert_eq!(heard(&sent(b"helo me\r\n", 2525)), Some(("smtp", None)));
        assert_eq!(heard(&sent(b"helo me\r\n", 9000)), None);
        assert_eq!(heard(&sent(b"EHLO", 25)), None);
        assert_eq!(heard(&received(b"220 mail.test ESMTP\r\n", 25)), None);
    }
}
