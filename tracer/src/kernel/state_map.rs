//! Bytes kept in a BPF map, which can be pinned where files can't be.

use std::{io, path::Path};

use aya::maps::{Array, Map, MapData};

/// Bytes of one map value.
const PART: usize = 16 << 10;
/// Most parts: 64 MiB.
const PARTS_MAX: usize = 4096;

/// One map value: the first begins with the length of all.
type Part = [u8; PART];

/// Keeps these bytes in a new map, pinned at `path`.
///
/// # Errors
/// The kernel's, or `InvalidInput` when they are too many.
pub fn write(bytes: &[u8], path: &Path) -> io::Result<()> {
    let whole = [&(bytes.len() as u64).to_le_bytes(), bytes].concat();
    let parts = whole.len().div_ceil(PART);
    if parts > PARTS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut map: Array<MapData, Part> = Array::create(parts as u32, 0).map_err(io::Error::other)?;
    for (index, chunk) in (0u32..).zip(whole.chunks(PART)) {
        let mut part: Part = [0; PART];
        part[..chunk.len()].copy_from_slice(chunk);
        map.set(index, part, 0).map_err(io::Error::other)?;
    }
    map.pin(path).map_err(io::Error::other)
}

/// The bytes of a pinned map.
///
/// # Errors
/// The kernel's, or `InvalidData` when it is no such map.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let map = MapData::from_pin(path).map_err(io::Error::other)?;
    // another kind, or values of another size
    let map: Array<MapData, Part> = Array::try_from(Map::Array(map))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let mut whole = Vec::new();
    for part in map.iter() {
        whole.extend_from_slice(&part.map_err(io::Error::other)?);
    }
    let (length, bytes) = whole
        .split_first_chunk::<8>()
        .ok_or(io::ErrorKind::InvalidData)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let bytes = bytes.get(..length).ok_or(io::ErrorKind::InvalidData)?;
    Ok(bytes.to_vec())
}
