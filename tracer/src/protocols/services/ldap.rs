//! LDAP (RFC 4511): a bind request, or the wish for TLS.

use super::Message;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIND: u8 = 0x60;
const SEARCH: u8 = 0x63;
const EXTENDED: u8 = 0x77;
const VERSION_3: &[u8] = &[INTEGER, 1, 3];
/// StartTLS (RFC 4511 section 4.14.1), as an extended request names it.
const START_TLS: &[u8] = b"\x80\x161.3.6.1.4.1.1466.20037";
const PORT: u16 = 389;

/// A client's message.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    if !message.sent {
        return None;
    }
    let (rest, len) = value(message.bytes, SEQUENCE)?;
    if message.bytes.len() - rest.len() + len != message.len {
        return None;
    }
    let (number, number_len) = value(rest, INTEGER)?;
    if !(1..=4).contains(&number_len) {
        return None;
    }
    let operation = number.get(number_len..)?;
    let kind = *operation.first()?;
    let (body, _) = value(operation, kind)?;
    match kind {
        BIND if body.starts_with(VERSION_3) => Some(None),
        EXTENDED if body.starts_with(START_TLS) => Some(None),
        SEARCH if message.port == PORT => Some(None),
        _ => None,
    }
}

/// What follows the head of a value of this type, and its length (X.690 section 8.1.3).
fn value(bytes: &[u8], kind: u8) -> Option<(&[u8], usize)> {
    let [first, len, rest @ ..] = bytes else {
        return None;
    };
    if *first != kind {
        return None;
    }
    match *len {
        short @ 0..0x80 => Some((rest, usize::from(short))),
        long => {
            let digits = usize::from(long & 0x7f);
            let number = rest.get(..digits).filter(|_| (1..=4).contains(&digits))?;
            let len = number.iter().fold(0, |sum, &b| sum << 8 | usize::from(b));
            Some((&rest[digits..], len))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, sent};

    #[test]
    fn a_client_binds() {
        let bind = b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00";
        assert_eq!(heard(&sent(bind, 1)), Some(("ldap", None)));
        let long = b"\x30\x84\0\0\0\x10\x02\x01\x01\x60\x84\0\0\0\x07\x02\x01\x03\x04\x00\x80\x00";
        assert_eq!(heard(&sent(long, 1)), Some(("ldap", None)));
        assert_eq!(heard(&sent(b"\x30\x05\x02\x01\x01\x42\x00", 389)), None);
    }
}
