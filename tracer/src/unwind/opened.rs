//! Opening what processes have mapped, and saying which privilege it took where that was refused.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    io::Read as _,
    ops::Range,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
};

use crate::procs::{capabilities, is_shortage, maps::Mapping};

/// Longest list of mappings that is read.
pub(super) const MAPS_BYTES_MAX: u64 = 32 << 20;
/// Processes that are named; of more, the number is told.
const NAMED_MAX: usize = 3;
/// Processes that are remembered.
const PROCESSES_MAX: usize = 1 << 14;

/// The file behind a mapping.
#[derive(Debug)]
pub(super) enum Opened {
    /// That very file.
    File(File),
    /// It is no file, or can't be reached by any name.
    Absent,
    /// The kernel says that this process may not open it.
    Denied,
}

/// Reads the list of mappings of a process.
///
/// # Errors
/// When the process is gone, or another's whose mappings this process may not see.
pub(super) fn read_maps(tgid: u32) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(format!("/proc/{tgid}/maps"))?;
    file.take(MAPS_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// Opens the file behind a mapping, and no other.
///
/// # Errors
/// When there are no descriptors or no memory to open it now.
pub(super) fn open(tgid: u32, mapping: &Mapping) -> io::Result<Opened> {
    let Range { start, end } = mapping.range;
    let mut denied = false;
    let mut regular = |path: &str| -> io::Result<Option<File>> {
        match open_regular(path) {
            Err(error) if is_shortage(&error) => Err(error),
            Err(error) => {
                denied |= error.kind() == io::ErrorKind::PermissionDenied;
                Ok(None)
            }
            Ok(opened) => Ok(opened),
        }
    };
    if let Some(file) = regular(&format!("/proc/{tgid}/map_files/{start:x}-{end:x}"))? {
        return Ok(Opened::File(file));
    }
    let same = |file: &File| {
        file.metadata().is_ok_and(|m| {
            let device = (rustix::fs::major(m.dev()), rustix::fs::minor(m.dev()));
            m.ino() == mapping.inode && device == mapping.device
        })
    };
    if !mapping.deleted {
        let by_name = regular(&format!("/proc/{tgid}/root{}", mapping.path))?;
        if let Some(file) = by_name.filter(same) {
            return Ok(Opened::File(file));
        }
    }
    if let Some(file) = regular(&format!("/proc/{tgid}/exe"))?.filter(same) {
        return Ok(Opened::File(file));
    }
    Ok(if denied {
        Opened::Denied
    } else {
        Opened::Absent
    })
}

/// A device or a pipe is never opened: that could have effects, or block.
fn open_regular(path: &str) -> io::Result<Option<File>> {
    if !std::fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    Ok(Some(file))
}

/// Why what is another user's can't be read: the privileges that this process lacks, or another
/// reason of the kernel's.
#[must_use]
pub(super) fn denied() -> String {
    let lacking = capabilities::lacking(&[
        "CAP_SYS_PTRACE",
        "CAP_DAC_READ_SEARCH",
        "CAP_CHECKPOINT_RESTORE",
    ]);
    match lacking.is_empty() {
        true => "permission denied".to_owned(),
        false => format!(
            "permission denied (this process lacks {})",
            lacking.join(" and ")
        ),
    }
}

/// What of processes can't be read for want of privileges.
#[derive(Debug, Default)]
pub(super) struct Closed {
    processes: BTreeMap<u32, &'static str>,
}

impl Closed {
    /// The mappings of a process could not be read.
    pub(super) fn mappings(&mut self, tgid: u32, error: &io::Error) {
        if error.kind() == io::ErrorKind::PermissionDenied {
            self.note(
                tgid,
                "its mappings can't be read, so its call sites are unknown",
            );
        }
    }

    /// Looks whether the memory of a process can be read.
    pub(super) fn memory(&mut self, tgid: u32) {
        match File::open(format!("/proc/{tgid}/mem")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.note(
                    tgid,
                    "its memory can't be read, so what its runtime knows is not seen",
                );
            }
            _ => self.forget(tgid),
        }
    }

    fn note(&mut self, tgid: u32, what: &'static str) {
        if self.processes.len() < PROCESSES_MAX {
            self.processes.insert(tgid, what);
        }
    }

    /// The process is gone, or can be read.
    pub(super) fn forget(&mut self, tgid: u32) {
        self.processes.remove(&tgid);
    }

    /// As sentences.
    pub(super) fn sentences(&self) -> impl Iterator<Item = String> {
        let why = (!self.processes.is_empty()).then(denied);
        let why = why.unwrap_or_default();
        let more = self.processes.len().saturating_sub(NAMED_MAX);
        let more = (more > 0).then(|| format!("{more} more processes can't be read: {why}"));
        let named = self.processes.iter().take(NAMED_MAX);
        named
            .map(move |(tgid, what)| format!("process {tgid}: {what}: {why}"))
            .chain(more)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use std::io;

    use super::{Closed, Opened, open, read_maps};
    use crate::procs::maps;

    #[test]
    fn our_own_files_are_opened() {
        let own = std::process::id();
        let text = read_maps(own).unwrap();
        let mapping = maps::parse(&text)
            .into_iter()
            .find(|m| m.executable && m.inode != 0)
            .unwrap();
        assert!(matches!(open(own, &mapping).unwrap(), Opened::File(_)));
    }

    #[test]
    fn a_few_processes_are_named_and_the_rest_is_counted() {
        let mut closed = Closed::default();
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        for pid in 1..=10 {
            closed.mappings(pid, &denied);
            closed.mappings(pid + 100, &io::Error::from_raw_os_error(libc::ENOENT));
        }
        let said: Vec<String> = closed.sentences().collect();
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[0].starts_with("process 1: its mappings"), "{said:?}");
        assert!(said[3].starts_with("7 more processes"), "{said:?}");
        (1..=10).for_each(|pid| closed.forget(pid));
        assert_eq!(closed.sentences().count(), 0);
    }
}
