//! Whether a process is there, told apart from not being able to look.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::parse;

/// What is known of a process's being alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Alive; it started at this time, in clock ticks since boot.
    Alive(u64),
    /// Gone, or only its zombie is left (which holds no descriptor any more).
    Ended,
    /// Nothing could be read, for want of descriptors or memory.
    Unknown,
}

impl Presence {
    /// Looks at a process.
    #[must_use]
    pub fn of(pid: u32) -> Presence {
        Presence::from_stat(fs::read(format!("/proc/{pid}/stat")))
    }

    /// From what reading `/proc/PID/stat` gave: only that there is no such process means that it has
    /// ended.
    #[must_use]
    pub fn from_stat(stat: io::Result<Vec<u8>>) -> Presence {
        match stat {
            Ok(text) => match parse::stat(&String::from_utf8_lossy(&text)) {
                Some(stat) if !stat.ended() => Presence::Alive(stat.start_ticks),
                _ => Presence::Ended,
            },
            Err(error) if is_gone(&error) => Presence::Ended,
            Err(_) => Presence::Unknown,
        }
    }
}

/// Whether an error of reading below `/proc/PID` means that there is no such process: `ENOENT` of
/// its directory, `ESRCH` of a file in it.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// Whether an error says that there is no room now, and nothing about what was looked for.
#[must_use]
pub fn is_shortage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR)
    )
}

/// Descriptors that are enough for everything with a bound of its own.
const DESCRIPTORS: u64 = 65_536;

/// Raises the number of descriptors that this process may have, as far as it may: files of watched
/// programs are kept open, and probes are descriptors. Returns what it is now.
pub fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current?;
    let wanted = limit
        .maximum
        .map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if current >= wanted {
        return Some(current);
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => Some(wanted),
        Err(_) => Some(current),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_there_being_no_such_process_means_that_it_ended() {
        let error = |code| Presence::from_stat(Err(io::Error::from_raw_os_error(code)));
        assert_eq!(error(libc::ENOENT), Presence::Ended);
        assert_eq!(error(libc::ESRCH), Presence::Ended);
        for code in [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOMEM,
            libc::EACCES,
            libc::EINTR,
        ] {
            assert_eq!(error(code), Presence::Unknown);
        }
        assert!(matches!(Presence::of(std::process::id()), Presence::Alive(ticks) if ticks > 0));
        assert_eq!(Presence::of(u32::MAX), Presence::Ended);
    }
}
