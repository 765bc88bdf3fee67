//! What the kernel counts of loaded programs.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya_obj::generated::{bpf_attr__bindgen_ty_9, bpf_cmd, bpf_prog_info};

use super::bpf::{attributes, bpf};

/// One program's statistics since it was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProgramStats {
    /// Time spent in it, nanoseconds; 0 unless the kernel keeps statistics.
    pub run_ns: u64,
    /// Runs; 0 unless the kernel keeps statistics.
    pub runs: u64,
    /// Events it was not run for, because it was running on that CPU (5.12).
    pub recursion_misses: u64,
}

/// Asks the kernel.
///
/// # Errors
/// The kernel's.
pub fn program_stats(fd: BorrowedFd<'_>) -> io::Result<ProgramStats> {
    // SAFETY: plain integers, for which all-zero is a value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attributes = attributes();
    attributes.info = bpf_attr__bindgen_ty_9 {
        bpf_fd: fd.as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<bpf_prog_info>()).unwrap_or(0),
        info: (&raw mut info) as u64,
    };
    // an older kernel fills in less
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(ProgramStats {
        run_ns: info.run_time_ns,
        runs: info.run_cnt,
        recursion_misses: info.recursion_misses,
    })
}
