//! MQTT: the packet CONNECT (MQTT 5.0 section 3.1, 3.1.1 section 3.1).

use super::{Message, bytes::text};

const CONNECT: u8 = 0x10;

/// The client's first packet.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    let bytes = message.bytes;
    if !message.sent || bytes.first() != Some(&CONNECT) {
        return None;
    }
    // the length of the rest: seven bits in a byte
    let digits = bytes.get(1..5)?.iter().position(|byte| byte & 0x80 == 0)? + 1;
    let rest = (bytes[1..=digits].iter().rev()).fold(0, |sum, b| sum << 7 | usize::from(b & 0x7f));
    let at = 1 + digits;
    if at + rest < 12 || at + rest > message.len {
        return None;
    }
    let named = match bytes.get(at..at + 2)? {
        [0, 4] => text(bytes, at + 2, 4)? == "MQTT" && matches!(bytes.get(at + 6), Some(4 | 5)),
        [0, 6] => text(bytes, at + 2, 6)? == "MQIsdp" && bytes.get(at + 8) == Some(&3),
        _ => false,
    };
    named.then_some(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, sent};

    #[test]
    fn a_client_connects() {
        let connect = b"\x10\x0f\0\x04MQTT\x04\x02\0\x3c\0\x03abc";
        assert_eq!(heard(&sent(connect, 1)), Some(("mqtt", None)));
        let old = b"\x10\x11\0\x06MQIsdp\x03\x02\0\x3c\0\x03abc";
        assert_eq!(heard(&sent(old, 1)), Some(("mqtt", None)));
        assert_eq!(
            heard(&sent(b"\x10\x0f\0\x04MQTX\x04\x02\0\x3c\0\x03abc", 1)),
            None
        );
    }
}
