//! PostgreSQL's frontend/backend protocol, version 3 ("Message Formats" in its documentation).

use super::{
    Message,
    bytes::{be32, zero_ended},
};

const VERSION_3: usize = 3 << 16;
/// With the minor versions that a client may ask for; 3.2 is the latest.
const LATEST: usize = VERSION_3 + 9;
const CANCEL: usize = 80_877_102;
const TLS: usize = 80_877_103;
const GSSAPI: usize = 80_877_104;
const PORT: u16 = 5432;
/// Types of messages that a client sends after its start: query, parse, bind, execute, sync,
/// describe, password.
const TYPES: &[u8] = b"QPBESDp";

/// The start-up packet, what may come before it, or a later message.
pub(super) fn read(message: &Message<'_>) -> Option<Option<String>> {
    let bytes = message.bytes;
    if !message.sent {
        return None;
    }
    if be32(bytes, 0)? == message.len {
        return match be32(bytes, 4)? {
            TLS | GSSAPI if message.len == 8 => Some(None),
            CANCEL if message.len == 16 => Some(None),
            VERSION_3..=LATEST => database(bytes),
            _ => None,
        };
    }
    // of a connection that began earlier
    let typed = message.port == PORT
        && TYPES.contains(bytes.first()?)
        && (4..message.len).contains(&be32(bytes, 1)?);
    typed.then_some(None)
}

/// The parameter `database` of a start-up packet.
fn database(bytes: &[u8]) -> Option<Option<String>> {
    let mut at = 8;
    // names and values in turn; a name that is no word is another protocol's
    for _ in 0..16 {
        let Some((name, value_at)) = zero_ended(bytes, at) else {
            break;
        };
        if name.is_empty() {
            break;
        }
        if !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.'))
        {
            return None;
        }
        let Some((value, next)) = zero_ended(bytes, value_at) else {
            break;
        };
        if name == "database" {
            return Some(Some(value.to_owned()));
        }
        at = next;
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{heard, received, sent};

    fn startup(parameters: &str) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, 0, 3, 0, 0];
        bytes.extend(parameters.bytes());
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_be_bytes());
        bytes
    }

    #[test]
    fn the_database_is_in_the_start_up_packet() {
        let bytes = startup("user\0app\0database\0orders\0application_name\0x\0\0");
        let expected = Some(("postgres", Some("orders".to_owned())));
        assert_eq!(heard(&sent(&bytes, 5432)), expected);
        assert_eq!(heard(&sent(&bytes, 6000)), expected);
        assert_eq!(heard(&received(&bytes, 5432)), None);
        let none = startup("user\0app\0\0");
        assert_eq!(heard(&sent(&none, 5432)), Some(("postgres", None)));
        let long = startup(&format!("user\0{}\0database\0orders\0\0", "u".repeat(150)));
        assert_eq!(heard(&sent(&long, 5432)), Some(("postgres", None)));
    }

    #[test]
    fn encryption_is_asked_for_first() {
        let ask = [0, 0, 0, 8, 4, 210, 22, 47];
        assert_eq!(heard(&sent(&ask, 6000)), Some(("postgres", None)));
    }

    #[test]
    fn of_an_earlier_connection_the_port_has_to_agree() {
        let query = b"Q\0\0\0\x0eselect 1;\0";
        assert_eq!(heard(&sent(query, 5432)), Some(("postgres", None)));
        assert_eq!(heard(&sent(query, 5433)), None);
    }
}
