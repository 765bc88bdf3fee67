//! DNS over TCP (RFC 1035 section 4.2.2): a query behind its length.

use super::{Message, bytes::be16};

const PORT: u16 = 53;
const HEADER: usize = 12;
/// Of the flags of a query: answer, operation, and the bits that only answers have.
const NEVER: usize = 0xf84f;

/// A query, or its length alone, which some send first.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    let bytes = message.bytes;
    if !message.sent || message.port != PORT {
        return None;
    }
    let len = be16(bytes, 0)?;
    if len < HEADER + 5 {
        return None;
    }
    if message.len == 2 {
        return (len <= 512).then_some(None);
    }
    let query = be16(bytes, 4)? & NEVER == 0 && be16(bytes, 6)? == 1 && be16(bytes, 8)? == 0;
    (query && len + 2 <= message.len).then_some(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, sent};

    #[test]
    fn a_query_behind_its_length() {
        let query = b"\0\x18\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03api\x03test\0\0\x01\0\x01";
        let mut bytes = query.to_vec();
        bytes[1] = (bytes.len() - 2) as u8;
        assert_eq!(heard(&sent(&bytes, 53)), Some(("dns", None)));
        assert_eq!(heard(&sent(&bytes, 5300)), None);
        bytes[4] = 0x81;
        assert_eq!(heard(&sent(&bytes, 53)), None);
    }
}
