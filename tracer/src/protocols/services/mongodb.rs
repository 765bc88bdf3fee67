//! MongoDB's wire protocol: `OP_MSG`, and the `OP_QUERY` that older drivers begin with.

use super::{Message, bytes};

const OP_QUERY: usize = 2004;
const OP_COMPRESSED: usize = 2012;
const OP_MSG: usize = 2013;
const HEADER: usize = 16;
/// Elements of a document that are looked at.
const ELEMENTS_MAX: usize = 16;
/// What commands about the connection itself name.
const ADMIN: &str = "admin";

/// A message of a client.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    let data = message.bytes;
    if !message.sent || bytes::le32(data, 0)? != message.len || bytes::le32(data, 8)? != 0 {
        return None;
    }
    let database = match bytes::le32(data, 12)? {
        // flags, and the body as one section
        OP_MSG if bytes::le32(data, HEADER)? & !0x1_0003 == 0 => match data.get(HEADER + 4)? {
            0 => document_of(data, HEADER + 5),
            1 => None,
            _ => return None,
        },
        OP_QUERY => {
            let (collection, _) = bytes::zero_ended(data, HEADER + 4)?;
            let (database, _) = collection.split_once('.')?;
            Some(database)
        }
        OP_COMPRESSED if message.len > HEADER + 9 => None,
        _ => return None,
    };
    Some(database.filter(|name| *name != ADMIN).map(str::to_owned))
}

/// The text `$db` of the document at `at`, as far as elements can be passed over.
fn document_of(data: &[u8], at: usize) -> Option<&str> {
    let mut at = at + 4;
    for _ in 0..ELEMENTS_MAX {
        let kind = *data.get(at)?;
        let (name, value) = bytes::zero_ended(data, at + 1)?;
        let len = match kind {
            // double, date, timestamp, long
            0x01 | 0x09 | 0x11 | 0x12 => 8,
            // text
            0x02 => {
                let len = bytes::le32(data, value)?;
                if name == "$db" {
                    return bytes::text(data, value + 4, len.checked_sub(1)?);
                }
                4 + len
            }
            // document, array
            0x03 | 0x04 => bytes::le32(data, value)?,
            // bytes
            0x05 => 5 + bytes::le32(data, value)?,
            // id, boolean, null, integer, decimal
            0x07 => 12,
            0x08 => 1,
            0x0a => 0,
            0x10 => 4,
            0x13 => 16,
            _ => return None,
        };
        at = value.checked_add(len)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, sent};

    fn message(database: &str) -> Vec<u8> {
        let mut document = vec![0, 0, 0, 0, 0x02];
        document.extend(b"find\0\x07\0\0\0orders\0");
        document.extend(b"\x03filter\0\x05\0\0\0\0");
        document.extend(b"\x02$db\0");
        document.extend((database.len() as u32 + 1).to_le_bytes());
        document.extend(database.bytes());
        document.extend([0, 0]);
        let mut bytes = vec![
            0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xdd, 7, 0, 0, 0, 0, 0, 0, 0,
        ];
        bytes.extend(document);
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    #[test]
    fn a_command_names_its_database() {
        let expected = Some(("mongodb", Some("shop".to_owned())));
        assert_eq!(heard(&sent(&message("shop"), 27017)), expected);
        assert_eq!(heard(&sent(&message("admin"), 1)), Some(("mongodb", None)));
    }

    #[test]
    fn older_drivers_begin_with_a_query() {
        let mut bytes = vec![
            0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xd4, 7, 0, 0, 0, 0, 0, 0,
        ];
        bytes.extend(b"admin.$cmd\0\0\0\0\0\xff\xff\xff\xff\x05\0\0\0\0");
        bytes[0] = bytes.len() as u8;
        assert_eq!(heard(&sent(&bytes, 1)), Some(("mongodb", None)));
    }
}
