//! What was missed and is not made up for yet.
//!
//! A descriptor scan visits every socket that a target process holds: what events missed is in the
//! kernel's map after it, or is counted as without room. So losses before a scan are healed by it,
//! except for those it finds again.

use tracer_ebpf::Counter;

use super::target::Watched;
use crate::kernel::probes::Probes;

/// Losses as of the last scan.
#[derive(Debug, Default)]
pub struct Losses {
    /// Descriptors of target processes whose socket found no room.
    unstored: u64,
    /// Sockets dropped before the scan began.
    dropped_before: u64,
    /// Processes missed that were looked for.
    processes_before: u64,
    /// Processes that found no room even then.
    processes: u64,
}

/// Sockets that could not be stored when they were opened, since loading.
pub fn dropped(probes: &Probes) -> u64 {
    probes.counter(Counter::SocketMapFull) + probes.counter(Counter::SocketMapBusy)
}

impl Losses {
    /// A scan has ended that found no room for `unstored` sockets; `dropped` before it began.
    pub fn scanned(&mut self, unstored: u32, dropped: u64) {
        self.unstored = u64::from(unstored);
        self.dropped_before = dropped;
    }

    /// Looks for processes of the target that the kernel's list had no room for.
    pub fn heal_targets(&mut self, target: &Watched, probes: &Probes) {
        let missed = probes.counter(Counter::TargetMapFull);
        if missed > self.processes_before || self.processes > 0 {
            self.processes_before = missed;
            self.processes = target.enlist_descendants(probes);
        }
    }

    /// Open sockets that found no room at the last scan.
    pub fn unstored(&self) -> u64 {
        self.unstored
    }

    /// Losses that no scan has made up for yet.
    pub fn unhealed(&self, probes: &Probes) -> u64 {
        let missed = probes.counter(Counter::TargetMapFull);
        self.unstored
            + dropped(probes).saturating_sub(self.dropped_before)
            + missed.saturating_sub(self.processes_before)
            + self.processes
    }

    /// What is missing now, as sentences.
    pub fn sentences(&self, max_sockets: u64) -> Vec<String> {
        let mut sentences = Vec::new();
        if self.unstored > 0 {
            sentences.push(format!(
                "{} open sockets are not tracked: there is room for {max_sockets} at one time; \
                 raise it with --max-sockets",
                self.unstored
            ));
        }
        if self.processes > 0 {
            sentences.push(format!(
                "{} processes of the target are not watched: there are too many",
                self.processes
            ));
        }
        sentences
    }
}
