//! What the kernel counts of loaded programs: runs, and the time in them, while it is asked to.

use std::{
    collections::BTreeMap,
    ffi::{CStr, c_long},
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::{Context as _, Result};

// include/uapi/linux/bpf.h
const BPF_PROG_GET_FD_BY_ID: c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: c_long = 15;
const BPF_ENABLE_STATS: c_long = 32;
/// Bytes of `struct bpf_prog_info` that are asked for, and where its members are.
const INFO_BYTES: usize = 224;
const NAME: std::ops::Range<usize> = 64..80;
const RUN_NS: usize = 192;
const RUNS: usize = 200;
/// Number of the system call.
#[cfg(target_arch = "x86_64")]
const SYS_BPF: c_long = 321;
#[cfg(not(target_arch = "x86_64"))]
const SYS_BPF: c_long = 280;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// One program: nanoseconds in it, and runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Runs {
    /// Time in it, nanoseconds.
    pub ns: u64,
    /// How often it ran.
    pub runs: u64,
}

/// The kernel keeps statistics as long as this lives (5.8).
pub struct Stats {
    _enabled: OwnedFd,
}

impl Stats {
    /// Asks it to.
    pub fn enable() -> Result<Self> {
        // type 0: run time
        let fd = bpf(BPF_ENABLE_STATS, &mut [0; 4]).context("BPF_ENABLE_STATS")?;
        Ok(Self {
            _enabled: owned(fd),
        })
    }

    /// The programs of which a process has descriptors, by name.
    pub fn of(&self, pid: u32) -> Result<BTreeMap<String, Runs>> {
        let folder = format!("/proc/{pid}/fdinfo");
        let mut ids: Vec<u32> = fs::read_dir(&folder)
            .context(folder)?
            // closed meanwhile
            .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
            .filter_map(|text| {
                let line = text
                    .lines()
                    .find_map(|line| line.strip_prefix("prog_id:"))?;
                line.trim().parse().ok()
            })
            .collect();
        // a program and its link
        ids.sort_unstable();
        ids.dedup();
        let mut all: BTreeMap<String, Runs> = BTreeMap::new();
        for id in ids {
            // one that is gone has no numbers
            let Ok((name, now)) = info(id) else { continue };
            let sum = all.entry(name).or_default();
            sum.ns += now.ns;
            sum.runs += now.runs;
        }
        Ok(all)
    }
}

/// Name and numbers of a program.
fn info(id: u32) -> io::Result<(String, Runs)> {
    let mut which = [0; 16];
    which[..4].copy_from_slice(&id.to_ne_bytes());
    let program = owned(bpf(BPF_PROG_GET_FD_BY_ID, &mut which)?);
    let mut info = [0u8; INFO_BYTES];
    let mut where_to = [0; 16];
    where_to[..4].copy_from_slice(&program.as_raw_fd().to_ne_bytes());
    where_to[4..8].copy_from_slice(&(INFO_BYTES as u32).to_ne_bytes());
    where_to[8..].copy_from_slice(&(info.as_mut_ptr() as u64).to_ne_bytes());
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut where_to)?;
    let name = CStr::from_bytes_until_nul(&info[NAME]).unwrap_or_default();
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&info[at..at + 8]);
        u64::from_ne_bytes(bytes)
    };
    let runs = Runs {
        ns: number(RUN_NS),
        runs: number(RUNS),
    };
    Ok((name.to_string_lossy().into_owned(), runs))
}

fn bpf(command: c_long, attributes: &mut [u8]) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes no more than the length that it is told; an address in the
    // attributes is that of a buffer that lives as long as the call.
    let result = unsafe { syscall(SYS_BPF, command, attributes.as_mut_ptr(), attributes.len()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as RawFd)
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just given it to us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
