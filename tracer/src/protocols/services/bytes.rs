//! Numbers and texts at places in bytes that may end anywhere.

/// The bytes at `at`.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn be16(bytes: &[u8], at: usize) -> Option<usize> {
    array(bytes, at).map(|found| usize::from(u16::from_be_bytes(found)))
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Option<usize> {
    array(bytes, at).map(|found| u32::from_be_bytes(found) as usize)
}

pub(super) fn le24(bytes: &[u8], at: usize) -> Option<usize> {
    let [a, b, c] = array(bytes, at)?;
    Some(u32::from_le_bytes([a, b, c, 0]) as usize)
}

pub(super) fn le32(bytes: &[u8], at: usize) -> Option<usize> {
    array(bytes, at).map(|found| u32::from_le_bytes(found) as usize)
}

/// The text of `len` bytes at `at`, where it is there whole.
pub(super) fn text(bytes: &[u8], at: usize, len: usize) -> Option<&str> {
    std::str::from_utf8(bytes.get(at..at.checked_add(len)?)?).ok()
}

/// The text at `at` that a zero ends, where it is there whole, and where the next begins.
pub(super) fn zero_ended(bytes: &[u8], at: usize) -> Option<(&str, usize)> {
    let rest = bytes.get(at..)?;
    let len = rest.iter().position(|&byte| byte == 0)?;
    Some((std::str::from_utf8(&rest[..len]).ok()?, at + len + 1))
}

/// Whether the bytes begin with a text, whatever the case of its letters.
pub(super) fn begins(bytes: &[u8], with: &str) -> bool {
    bytes
        .get(..with.len())
        .is_some_and(|first| first.eq_ignore_ascii_case(with.as_bytes()))
}

/// The first line without its end, where that is there.
pub(super) fn line(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let line = &bytes[..end];
    std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).ok()
}
