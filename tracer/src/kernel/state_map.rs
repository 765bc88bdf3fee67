//! Bytes kept in a BPF map, which can be pinned where files can't be.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::maps::{Table, bpf};

// commands and map types of bpf(2), include/uapi/linux/bpf.h
const MAP_CREATE: i32 = 0;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const MAP_TYPE_ARRAY: u32 = 2;

/// Bytes of one map value.
const PART: usize = 16 << 10;
/// Most parts: 64 MiB.
const PARTS_MAX: u64 = 4096;

/// One map value: the first begins with the length of all.
type Part = [u8; PART];

/// `union bpf_attr` of `BPF_MAP_CREATE`, as far as it is needed.
#[repr(C)]
#[derive(Default)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
    numa: u32,
    name: [u8; 16],
}

/// `union bpf_attr` of `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

/// A new map with these bytes.
///
/// # Errors
/// The kernel's, or `InvalidInput` when they are too many.
pub fn write(bytes: &[u8]) -> io::Result<OwnedFd> {
    let whole: Vec<u8> = (bytes.len() as u64)
        .to_le_bytes()
        .iter()
        .chain(bytes)
        .copied()
        .collect();
    let parts = whole.len().div_ceil(PART) as u64;
    if parts > PARTS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut create = Create {
        map_type: MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: PART as u32,
        max_entries: parts as u32,
        ..Create::default()
    };
    create.name[..5].copy_from_slice(b"STATE");
    let fd = bpf(MAP_CREATE, &mut create)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let map = unsafe { OwnedFd::from_raw_fd(fd) };
    let table: Table<u32, Part> = Table::new(&map)?;
    for (index, chunk) in (0u32..).zip(whole.chunks(PART)) {
        let mut part: Part = [0; PART];
        part[..chunk.len()].copy_from_slice(chunk);
        table.set(&index, &part)?;
    }
    Ok(map)
}

/// Pins a map.
///
/// # Errors
/// The kernel's.
pub fn pin(fd: RawFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut object = Object {
        path: path.as_ptr() as u64,
        fd: fd.cast_unsigned(),
        flags: 0,
    };
    bpf(OBJ_PIN, &mut object).map(drop)
}

/// A pinned object.
///
/// # Errors
/// The kernel's.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut object = Object {
        path: path.as_ptr() as u64,
        ..Object::default()
    };
    let fd = bpf(OBJ_GET, &mut object)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The bytes of a pinned map.
///
/// # Errors
/// The kernel's, or `InvalidData` when it is no such map.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let map = open(path)?;
    let info = aya::maps::MapData::from_fd(map.try_clone()?).and_then(|map| map.info());
    let info = info.map_err(io::Error::other)?;
    if (info.key_size(), info.value_size()) != (4, PART as u32) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let table: Table<u32, Part> = Table::new(&map)?;
    let mut whole = Vec::new();
    for index in 0..info.max_entries() {
        let part = table.get(&index)?.ok_or(io::ErrorKind::InvalidData)?;
        whole.extend_from_slice(&part);
    }
    let (length, bytes) = whole
        .split_first_chunk::<8>()
        .ok_or(io::ErrorKind::InvalidData)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let bytes = bytes.get(..length).ok_or(io::ErrorKind::InvalidData)?;
    Ok(bytes.to_vec())
}
