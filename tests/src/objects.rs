//! What of a process lives in the kernel: its BPF programs, maps and links.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context, Result};

/// The kinds, with their line in `/proc/PID/fdinfo` and the command that opens one by its id
/// (`enum bpf_cmd` of linux/bpf.h).
const KINDS: [(Kind, &str, libc::c_int); 3] = [
    (Kind::Program, "prog_id:", 13),
    (Kind::Map, "map_id:", 14),
    (Kind::Link, "link_id:", 30),
];

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A program.
    Program,
    /// A map.
    Map,
    /// A link, which keeps a program attached.
    Link,
}

/// Objects by kind and id. The kernel does not give an id again before they wrap around.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects(pub BTreeSet<(Kind, u32)>);

impl Objects {
    /// Those to which a process has descriptors; none where it is gone.
    #[must_use]
    pub fn of(pid: u32) -> Objects {
        let mut objects = Objects::default();
        let entries = fs::read_dir(format!("/proc/{pid}/fdinfo"));
        for entry in entries.into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            objects.0.extend(named_in(&text));
        }
        objects
    }

    /// Those that are pinned below a directory, and the programs that pinned links keep.
    ///
    /// # Errors
    /// When the directory can't be read, or a pin in it can't be opened.
    pub fn pinned(directory: &Path) -> Result<Objects> {
        let mut objects = Objects::default();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                objects.0.extend(Objects::pinned(&path)?.0);
                continue;
            }
            let pin = open_pin(&path).with_context(|| path.display().to_string())?;
            let info = format!("/proc/self/fdinfo/{}", pin.as_raw_fd());
            objects.0.extend(named_in(&fs::read_to_string(info)?));
        }
        Ok(objects)
    }

    /// How many of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.0.iter().filter(|(of, _)| *of == kind).count()
    }

    /// Those that still exist.
    ///
    /// # Errors
    /// When the kernel does not say (no privilege).
    pub fn alive(&self) -> Result<Objects> {
        let mut alive = Objects::default();
        for &(kind, id) in &self.0 {
            if exists(kind, id)? {
                alive.0.insert((kind, id));
            }
        }
        Ok(alive)
    }
}

/// What the lines of a descriptor's `fdinfo` name.
fn named_in(text: &str) -> Vec<(Kind, u32)> {
    let mut named = Vec::new();
    for line in text.lines() {
        for (kind, name, _) in KINDS {
            let id = line.strip_prefix(name);
            let id = id.and_then(|id| id.trim().parse().ok());
            named.extend(id.map(|id| (kind, id)));
        }
    }
    named
}

fn open_pin(path: &Path) -> Result<OwnedFd> {
    /// Of `enum bpf_cmd`.
    const OBJ_GET: libc::c_int = 7;
    let name = CString::new(path.as_os_str().as_bytes())?;
    // The union bpf_attr: the path's address, bpf_fd and file_flags.
    let attribute: [u64; 2] = [name.as_ptr() as u64, 0];
    // SAFETY: the kernel reads the attribute and the path, which live long enough.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            OBJ_GET,
            attribute.as_ptr(),
            size_of_val(&attribute),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(result)?) })
}

/// Whether an object is still in the kernel.
///
/// # Errors
/// When the kernel does not say (no privilege).
pub fn exists(kind: Kind, id: u32) -> Result<bool> {
    let command = KINDS.iter().find(|(of, ..)| *of == kind);
    let (_, name, command) = command.context("an unknown kind")?;
    // The union bpf_attr of linux/bpf.h: the id, next_id, open_flags.
    let attribute: [u32; 3] = [id, 0, 0];
    // SAFETY: the kernel reads the given number of bytes of the attribute, which lives long enough.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            *command,
            attribute.as_ptr(),
            size_of_val(&attribute),
        )
    };
    if result >= 0 {
        // SAFETY: the kernel has just given this descriptor to us alone.
        drop(unsafe { OwnedFd::from_raw_fd(i32::try_from(result)?) });
        return Ok(true);
    }
    match io::Error::last_os_error() {
        // a link is kept for a moment after its last user has gone, and can't be had then
        error if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EAGAIN)) => Ok(false),
        error => Err(error).with_context(|| format!("asking for {name} {id}")),
    }
}
