//! memcached: its lines (`doc/protocol.txt`), and its binary protocol (`protocol-binary.txt`).

use super::{
    Message,
    bytes::{be16, be32, line},
};

const PORT: u16 = 11211;
const BINARY_REQUEST: u8 = 0x80;
const BINARY_HEADER: usize = 24;
const OPCODE_MAX: u8 = 0x22;
/// Commands that no other known protocol has on this port.
const COMMANDS: &[&str] = &[
    "get",
    "gets",
    "gat",
    "gats",
    "mg",
    "ms",
    "md",
    "ma",
    "mn",
    "me",
    "version",
    "stats",
    "delete",
    "incr",
    "decr",
    "touch",
    "flush_all",
    "verbosity",
];
const STORING: &[&str] = &["set", "add", "replace", "append", "prepend", "cas"];

/// A command.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    let bytes = message.bytes;
    if !message.sent {
        return None;
    }
    if bytes.first() == Some(&BINARY_REQUEST) {
        return is_binary(message).unwrap_or(false).then_some(None);
    }
    let line = line(bytes)?;
    let mut words = line.split(' ');
    let command = words.next()?;
    if STORING.contains(&command) {
        // key, flags, expiry, length, and as many bytes behind it
        let words: Vec<&str> = words.collect();
        let number = |word: &&str| word.trim_start_matches('-').parse::<u32>().is_ok();
        let fits = (4..=6).contains(&words.len()) && words[1..4].iter().all(number);
        let bytes: usize = words.get(3)?.parse().ok()?;
        let whole = message.len == line.len() + 2 + bytes + 2;
        return (fits && (whole || message.port == PORT)).then_some(None);
    }
    (message.port == PORT && COMMANDS.contains(&command)).then_some(None)
}

/// A request whose lengths agree with each other and with the message's.
fn is_binary(message: &Message<'_>) -> Option<bool> {
    let bytes = message.bytes;
    let (key, extras) = (be16(bytes, 2)?, usize::from(*bytes.get(4)?));
    let body = be32(bytes, 8)?;
    Some(
        *bytes.get(1)? <= OPCODE_MAX
            && bytes.get(5) == Some(&0)
            && key + extras <= body
            && body.checked_add(BINARY_HEADER)? == message.len,
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, sent};

    #[test]
    fn what_is_stored_is_told_from_lines_of_others() {
        let name = Some(("memcached", None));
        assert_eq!(heard(&sent(b"set a 0 60 2\r\nhi\r\n", 1)), name);
        assert_eq!(heard(&sent(b"set a = 1\r\n", 1)), None);
        assert_eq!(heard(&sent(b"set a 1 2 3\n", 1)), None);
        assert_eq!(heard(&sent(b"get a\r\n", 1)), None);
        assert_eq!(heard(&sent(b"get a\r\n", 11211)), name);
        let mut noop = [0; 24];
        (noop[0], noop[1]) = (0x80, 0x0a);
        assert_eq!(heard(&sent(&noop, 1)), name);
    }
}
