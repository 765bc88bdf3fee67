//! What is in pinned BPF maps.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use anyhow::{Context, Result};

// enum bpf_cmd of linux/bpf.h.
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// Map types (enum bpf_map_type) with one value for each processor.
const PER_CPU: [u32; 4] = [5, 6, 10, 21];

/// The beginning of struct bpf_map_info.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Info {
    kind: u32,
    id: u32,
    key_bytes: u32,
    value_bytes: u32,
}

/// Keys and values of every map pinned in a directory, by name.
///
/// # Errors
/// When one can't be read.
pub fn contents(directory: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            all.extend(contents(&path)?);
            continue;
        }
        let object = open(&path).with_context(|| path.display().to_string())?;
        let what = fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
        if what.to_string_lossy().ends_with("bpf-map") {
            let bytes = dump(&object).with_context(|| path.display().to_string())?;
            all.push((path.display().to_string(), bytes));
        }
    }
    Ok(all)
}

/// The system call, with an attribute of 64-bit words.
fn bpf(command: libc::c_int, attribute: &mut [u64; 4]) -> io::Result<i32> {
    // SAFETY: the attribute and whatever it points to live as long as the call, and have the size
    // that the kernel reads and writes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attribute.as_mut_ptr(),
            size_of_val(attribute),
        )
    };
    match i32::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // pathname; bpf_fd, file_flags
    let descriptor = bpf(OBJ_GET, &mut [path.as_ptr() as u64, 0, 0, 0])?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn dump(map: &OwnedFd) -> Result<Vec<u8>> {
    let descriptor = u64::try_from(map.as_raw_fd())?;
    let mut info = Info::default();
    // bpf_fd, info_len; info
    let asked = descriptor | (size_of::<Info>() as u64) << 32;
    bpf(OBJ_GET_INFO_BY_FD, &mut [asked, &raw mut info as u64, 0, 0])?;
    let mut all = Vec::new();
    if info.key_bytes == 0 {
        return Ok(all);
    }
    let values = match PER_CPU.contains(&info.kind) {
        true => possible_processors()? * info.value_bytes.next_multiple_of(8) as usize,
        false => info.value_bytes as usize,
    };
    let mut key: Option<Vec<u8>> = None;
    let (mut next, mut value) = (vec![0u8; info.key_bytes as usize], vec![0u8; values]);
    loop {
        let known = key.as_ref().map_or(0, |key| key.as_ptr() as u64);
        // map_fd; key; next_key or value; flags
        let mut attribute = [descriptor, known, next.as_mut_ptr() as u64, 0];
        match bpf(MAP_GET_NEXT_KEY, &mut attribute) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(all),
            Err(error) => return Err(error).context("the next key"),
        }
        all.extend(&next);
        let mut attribute = [
            descriptor,
            next.as_ptr() as u64,
            value.as_mut_ptr() as u64,
            0,
        ];
        match bpf(MAP_LOOKUP_ELEM, &mut attribute) {
            Ok(_) => all.extend(&value),
            // gone meanwhile, or of a kind that gives its values to the kernel only
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => {
            }
            Err(error) => return Err(error).context("a value"),
        }
        key = Some(next.clone());
    }
}

/// Processors that there may ever be: `0-3` or `0`.
fn possible_processors() -> Result<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit(['-', ',']).next().unwrap_or("0");
    Ok(last.parse::<usize>()? + 1)
}
