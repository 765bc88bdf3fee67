//! Kafka's protocol: the header of a request (<https://kafka.apache.org/protocol>).

use super::{
    Message,
    bytes::{be16, be32, text},
};

const PORTS: std::ops::RangeInclusive<u16> = 9092..=9099;
/// `ApiVersions`, with which clients begin.
const API_VERSIONS: usize = 18;
const VERSION_MAX: usize = 20;
const KEY_MAX: usize = 80;

/// A request.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    let bytes = message.bytes;
    if !message.sent || be32(bytes, 0)?.checked_add(4)? != message.len {
        return None;
    }
    let (key, version) = (be16(bytes, 4)?, be16(bytes, 6)?);
    let id_len = be16(bytes, 12)?;
    let id = text(bytes, 14, id_len)?;
    let fits = version <= VERSION_MAX
        && !id.is_empty()
        && id.bytes().all(|byte| byte.is_ascii_graphic())
        && 14 + id_len <= message.len;
    let begins = key == API_VERSIONS && version < 8 && be16(bytes, 8)? == 0;
    let known = PORTS.contains(&message.port) && key <= KEY_MAX;
    (fits && (begins || known)).then_some(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, sent};

    #[test]
    fn a_client_asks_for_versions_first() {
        let first = b"\0\0\0\x14\0\x12\0\0\0\0\0\x01\0\x0akafka-cli-";
        assert_eq!(heard(&sent(first, 1)), Some(("kafka", None)));
        let other = b"\0\0\0\x14\0\x03\0\0\0\0\0\x01\0\x0akafka-cli-";
        assert_eq!(heard(&sent(other, 1)), None);
        assert_eq!(heard(&sent(other, 9092)), Some(("kafka", None)));
    }
}
