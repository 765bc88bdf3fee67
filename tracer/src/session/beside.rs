//! The parts of a session that say what a socket is about.

use std::sync::Arc;

use super::{call_paths::CallPaths, processes::Processes, requests::Requests};
use crate::{kernel::probes::Probes, model::Site, runtimes::Runtimes};

/// The other parts of a session, as far as a socket is looked at with them.
#[derive(Debug)]
pub struct Beside<'a> {
    /// The kernel's maps.
    pub probes: &'a Probes,
    /// Who opens and holds sockets.
    pub processes: &'a mut Processes,
    /// Where in the program.
    pub paths: &'a mut CallPaths,
    /// What for.
    pub requests: &'a mut Requests,
    /// What the programs' own runtimes know.
    pub runtimes: &'a mut Runtimes,
}

impl Beside<'_> {
    /// A stack with names; `None` for no stack.
    pub fn site(&mut self, number: u32) -> Option<Arc<Site>> {
        self.paths.site(number, self.runtimes)
    }

    /// The stack behind what the kernel noted of a socket.
    pub fn settle(&mut self, sk: u64, noted: u32) -> u32 {
        self.paths.pending.settle(sk, noted)
    }
}
