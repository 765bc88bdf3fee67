//! AMQP 0-9-1 and 1.0: the protocol header; of 0-9-1 the virtual host of `connection.open`.

use super::{
    Message,
    bytes::{be16, be32, text},
};

/// What stands before the payload of a frame of 0-9-1.
const FRAME_HEADER: usize = 7;
const METHOD: u8 = 1;
const FRAME_END: u8 = 0xce;
/// Class and methods.
const CONNECTION: usize = 10;
const START_OK: usize = 11;
const SECURE_OK: usize = 21;
const TUNE_OK: usize = 31;
const OPEN: usize = 40;
/// Frames of one message that are looked at.
const FRAMES_MAX: usize = 4;

/// The header, or what a client answers to the server's first frames.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    if !message.sent {
        return None;
    }
    if let Some(version) = message.bytes.strip_prefix(b"AMQP") {
        return matches!(
            version,
            [0, 0, 9, 1] | [1, 1, 0, 9] | [0 | 2 | 3, 1, 0, 0, ..]
        )
        .then_some(None);
    }
    let (mut rest, mut any) = (message.bytes, false);
    for _ in 0..FRAMES_MAX {
        if rest.first() != Some(&METHOD) || be16(rest, 1) != Some(0) {
            break;
        }
        let (len, class) = (be32(rest, 3)?, be16(rest, FRAME_HEADER)?);
        let method = be16(rest, FRAME_HEADER + 2)?;
        if class != CONNECTION || !matches!(method, START_OK | SECURE_OK | TUNE_OK | OPEN) {
            break;
        }
        let whole = rest.len() > FRAME_HEADER + len;
        if whole && rest.get(FRAME_HEADER + len) != Some(&FRAME_END) {
            break;
        }
        any = true;
        if method == OPEN {
            let name_len = usize::from(*rest.get(FRAME_HEADER + 4)?);
            let name = text(rest, FRAME_HEADER + 5, name_len)?;
            // the default one
            return Some(Some(name.to_owned()).filter(|name| name != "/"));
        }
        match rest.get(FRAME_HEADER + len + 1..) {
            Some(next) => rest = next,
            None => break,
        }
    }
    any.then_some(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, sent};

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![1, 0, 0];
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        bytes.push(0xce);
        bytes
    }

    #[test]
    fn the_header_and_the_virtual_host() {
        assert_eq!(heard(&sent(b"AMQP\0\0\x09\x01", 1)), Some(("amqp", None)));
        assert_eq!(heard(&sent(b"AMQP\x03\x01\0\0", 1)), Some(("amqp", None)));
        assert_eq!(heard(&sent(b"AMQPlike", 1)), None);
        let tune = frame(&[0, 10, 0, 31, 0, 0, 0, 0, 0, 1, 0, 60]);
        let open = frame(b"\0\x0a\0\x28\x04shop\0\0");
        let expected = Some(("amqp", Some("shop".to_owned())));
        assert_eq!(heard(&sent(&open, 1)), expected);
        assert_eq!(heard(&sent(&[tune, open].concat(), 1)), expected);
        let default = frame(b"\0\x0a\0\x28\x01/\0\0");
        assert_eq!(heard(&sent(&default, 1)), Some(("amqp", None)));
    }
}
