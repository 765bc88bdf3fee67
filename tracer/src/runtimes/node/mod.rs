//! Node.js, and what else has V8 in it: event loops on libuv, and the frames of JavaScript.
//!
//! [`metadata`] reads what an executable says of its V8, [`layout`] makes of it where everything
//! is, and [`walker`] explains frames by it: [`heap`] reads objects, [`functions`] names them,
//! [`code`] finds compiled code, [`positions`] reads the tables of lines, [`places`] says where to
//! look. [`awaits`] tells who waits for what runs. [`handles`], [`objects`] and [`clients`] read what its HTTP client knows of connections.
//! `engines` finds the processes.

pub mod awaits;
pub mod clients;
pub mod code;
mod engines;
mod event_loops;
pub mod functions;
pub mod handles;
pub mod heap;
pub mod layout;
pub mod metadata;
pub mod objects;
pub mod places;
pub mod positions;
pub mod promises;
pub mod walker;

#[cfg(any(test, fuzzing))]
mod fuzz;
#[cfg(any(test, fuzzing))]
mod samples;
#[cfg(test)]
mod tests;

#[cfg(any(test, fuzzing))]
pub use self::fuzz::walk_hostile;

use std::{io, sync::Arc};

use tracer_ebpf::{RuntimePlan, STACK_NONE, UrlAsked, UrlKey};

use self::{engines::Engines, event_loops::EventLoops};
use super::{
    Runtime,
    view::{Copied, InView, Interleaved},
};
use crate::{
    kernel::{
        maps::Table as KernelTable,
        probes::{ProbeError, Probes},
    },
    model::PoolState,
    symbols::blame::Blame,
    unwind::managed::Walker,
};

/// Whose frames of Node.js are.
pub const RULES: &str = include_str!("blame.toml");

/// Node.js programs in a session.
#[derive(Debug, Default)]
pub struct Node {
    loops: EventLoops,
    engines: Engines,
    /// Who asked for which URL; `None` before the session began.
    urls: Option<KernelTable<UrlKey, UrlAsked>>,
}

impl Runtime for Node {
    fn name(&self) -> &'static str {
        "Node.js"
    }

    fn begin(&mut self, probes: &mut Probes, _blame: &Arc<Blame>) -> Result<(), ProbeError> {
        self.urls = Some(probes.table("URLS_ASKED")?);
        Ok(())
    }

    fn attach(&mut self, process: &mut InView<'_>, probes: &mut Probes) -> io::Result<()> {
        self.loops.attach(process, probes);
        self.engines.meet(process);
        Ok(())
    }

    fn look(&mut self, process: &mut InView<'_>) {
        self.engines.look(process);
    }

    fn plan(&mut self, process: &mut InView<'_>) -> Option<RuntimePlan> {
        self.engines.plan(process)
    }

    fn interleave(&mut self, copied: &Copied<'_>) -> Option<Interleaved> {
        self.engines.interleave(copied)
    }

    fn walker(&mut self, pid: u32) -> Option<&mut dyn Walker> {
        self.engines.walker(pid)
    }

    fn begin_sweep(&mut self) {
        self.engines.begin_sweep();
    }

    fn pool_state(&mut self, pid: u32, fd: i32) -> PoolState {
        self.engines.pool_state(pid, fd)
    }

    fn asked_for(&mut self, pid: u32, hash: u64) -> Vec<u32> {
        let key = UrlKey {
            hash,
            tgid: pid,
            pad: 0,
        };
        let asked = self.urls.as_ref().and_then(|urls| urls.get(&key).ok()?);
        let stacks = asked.unwrap_or_default().stacks;
        let is_stack = |stack: &u32| *stack != STACK_NONE;
        stacks.into_iter().filter(is_stack).collect()
    }

    fn degraded(&self) -> Vec<String> {
        self.loops
            .degraded()
            .chain(self.engines.degraded())
            .collect()
    }

    fn forget(&mut self, pid: u32) {
        self.loops.forget(pid);
        self.engines.forget(pid);
    }
}
