//! How the loaded programs are doing.

use std::os::fd::AsFd as _;

use super::Probes;
use crate::kernel::stats::{ProgramStats, program_stats};

impl Probes {
    /// What the kernel counts of each loaded program.
    #[must_use]
    pub fn stats(&self) -> Vec<(String, ProgramStats)> {
        self.ebpf
            .programs()
            .filter_map(|(name, program)| {
                let fd = program.fd().ok()?;
                Some((name.to_owned(), program_stats(fd.as_fd()).ok()?))
            })
            .collect()
    }

    /// Events that programs were not run for because they were running already.
    #[must_use]
    pub fn recursion_misses(&self) -> u64 {
        self.stats().iter().map(|(_, s)| s.recursion_misses).sum()
    }
}
