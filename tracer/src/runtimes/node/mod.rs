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

use std::io;

use tracer_ebpf::RuntimePlan;

use self::{engines::Engines, event_loops::EventLoops};
use super::{
    Runtime,
    view::{Copied, InView, Interleaved},
};
use crate::{kernel::probes::Probes, model::PoolState, unwind::managed::Walker};

/// Whose frames of Node.js are.
pub const RULES: &str = include_str!("blame.toml");

/// Node.js programs in a session.
#[derive(Debug, Default)]
pub struct Node {
    loops: EventLoops,
    engines: Engines,
}

impl Runtime for Node {
    fn name(&self) -> &'static str {
        "Node.js"
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
