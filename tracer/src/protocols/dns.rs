//! Answers of DNS servers (RFC 1035 section 4): which addresses a name has. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a process asked for, and what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The name that was asked for, lower case, without the last dot.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How long they hold, seconds: the least of all records'.
    pub ttl_seconds: u32,
}

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
/// Records of one answer that are looked at.
const RECORDS_MAX: usize = 32;
/// Labels of one name.
const LABELS_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 253;

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(two.try_into().ok()?))
}

/// An answer that names addresses; `None` for anything else. The bytes may be cut off anywhere: what is
/// there whole counts.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Resolved> {
    let flags = number(bytes, 2)?;
    // a response to a plain query, without an error
    if flags & 0xf80f != 0x8000 || number(bytes, 4)? != 1 {
        return None;
    }
    let (name, after) = name_at(bytes, HEADER)?;
    let kind = number(bytes, after)?;
    if !matches!(kind, TYPE_A | TYPE_AAAA) || number(bytes, after + 2)? != CLASS_IN {
        return None;
    }
    let mut at = after + 4;
    let mut found = Resolved {
        name,
        addresses: Vec::new(),
        ttl_seconds: u32::MAX,
    };
    for _ in 0..usize::from(number(bytes, 6)?).min(RECORDS_MAX) {
        let Some((ttl, address, next)) = record(bytes, at) else {
            break;
        };
        found.ttl_seconds = found.ttl_seconds.min(ttl);
        found.addresses.extend(address);
        at = next;
    }
    (!found.addresses.is_empty() && is_name(&found.name)).then_some(found)
}

/// A record's time to live, its address where it has one, and where the next begins.
fn record(bytes: &[u8], at: usize) -> Option<(u32, Option<IpAddr>, usize)> {
    let at = passed(bytes, at)?;
    let (kind, class) = (number(bytes, at)?, number(bytes, at + 2)?);
    let ttl = u32::from(number(bytes, at + 4)?) << 16 | u32::from(number(bytes, at + 6)?);
    let len = usize::from(number(bytes, at + 8)?);
    let data = bytes.get(at + 10..at + 10 + len)?;
    if class != CLASS_IN || !matches!(kind, TYPE_A | TYPE_AAAA | TYPE_CNAME) {
        return None;
    }
    let address = match kind {
        TYPE_A => Some(IpAddr::from(Ipv4Addr::from(
            <[u8; 4]>::try_from(data).ok()?,
        ))),
        TYPE_AAAA => Some(IpAddr::from(Ipv6Addr::from(
            <[u8; 16]>::try_from(data).ok()?,
        ))),
        _ => None,
    };
    Some((ttl, address, at + 10 + len))
}

/// The name at `at`, which is not compressed, and where what follows begins.
fn name_at(bytes: &[u8], at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut at = at;
    for _ in 0..LABELS_MAX {
        let len = usize::from(*bytes.get(at)?);
        if len == 0 {
            return Some((name, at + 1));
        }
        if len > 63 {
            return None;
        }
        let label = std::str::from_utf8(bytes.get(at + 1..at + 1 + len)?).ok()?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&label.to_ascii_lowercase());
        at += 1 + len;
    }
    None
}

/// Where what follows a name begins, which may end in a reference.
fn passed(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at;
    for _ in 0..LABELS_MAX {
        let len = usize::from(*bytes.get(at)?);
        match len {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            _ => at += 1 + len,
        }
    }
    None
}

fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer() -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0];
        bytes.extend(b"\x03API\x04test\0\0\x01\0\x01");
        // an alias, then an address of it
        bytes.extend(b"\xc0\x0c\0\x05\0\x01\0\0\x01\x2c\0\x07\x04edge\xc0\x10");
        bytes.extend(b"\xc0\x2a\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x07");
        bytes
    }

    #[test]
    fn an_answer_names_addresses() {
        let found = read(&answer()).unwrap();
        assert_eq!(found.name, "api.test");
        assert_eq!(found.addresses, [IpAddr::from([10, 0, 0, 7])]);
        assert_eq!(found.ttl_seconds, 60);
    }

    #[test]
    fn errors_queries_and_what_is_cut_name_none() {
        let mut query = answer();
        query[2] = 1;
        assert_eq!(read(&query), None);
        let mut error = answer();
        error[3] = 0x83;
        assert_eq!(read(&error), None);
        let whole = answer();
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), None, "{end}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = read(&bytes);
            let mut begun = answer();
            begun.extend(bytes);
            let _ = read(&begun);
        }
    }
}
