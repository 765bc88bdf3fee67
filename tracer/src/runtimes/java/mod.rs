//! Java programs: HotSpot's frames, and what the machine can be asked for.
//!
//! [`tables`] reads what the machine says of its own structures, [`layout`] chooses from it,
//! [`code_cache`], [`scopes`], [`numbers`] and [`method`] follow it from a code address to the
//! methods that run there, and [`walker`] joins them. All of these read memory that is handed to
//! them; `machines` finds it.

pub mod callers;
pub mod code_cache;
#[cfg(any(test, fuzzing))]
mod fuzz;
pub mod layout;
mod machines;
pub mod method;
mod names;
pub mod numbers;
pub mod perf_map_request;
pub mod scopes;
pub mod tables;
pub mod walker;

#[cfg(any(test, fuzzing))]
pub use self::fuzz::read_hostile;
use self::{machines::Machines, names::Names};
use super::{Runtime, view::InView};
use crate::unwind::managed::Walker;

/// Whose frames of Java are.
pub const RULES: &str = include_str!("blame.toml");

/// Java programs in a session.
#[derive(Debug)]
pub struct Java {
    names: Names,
    machines: Machines,
}

impl Java {
    /// None is known yet. Whether they may be asked for the names of their compiled code.
    #[must_use]
    pub fn new(ask: bool) -> Java {
        Java {
            names: Names::new(ask),
            machines: Machines::default(),
        }
    }
}

impl Runtime for Java {
    fn name(&self) -> &'static str {
        "Java"
    }

    fn look(&mut self, process: &mut InView<'_>) {
        self.machines.look(process);
    }

    fn walker(&mut self, pid: u32) -> Option<&mut dyn Walker> {
        self.machines.walker(pid)
    }

    fn scanned(&mut self, unnamed: &[u32]) {
        self.names.ask(unnamed);
    }

    fn degraded(&self) -> Vec<String> {
        self.names
            .degraded()
            .chain(self.machines.degraded())
            .collect()
    }

    fn forget(&mut self, pid: u32) {
        self.names.forget(pid);
        self.machines.forget(pid);
    }
}
