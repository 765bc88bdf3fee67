//! Node.js: event loops on libuv.

mod event_loops;

use std::io;

use self::event_loops::EventLoops;
use super::{Runtime, view::InView};
use crate::kernel::probes::Probes;

/// Node.js programs in a session.
#[derive(Debug, Default)]
pub struct Node {
    loops: EventLoops,
}

impl Runtime for Node {
    fn name(&self) -> &'static str {
        "Node.js"
    }

    fn attach(&mut self, process: &mut InView<'_>, probes: &mut Probes) -> io::Result<()> {
        self.loops.attach(process, probes);
        Ok(())
    }

    fn degraded(&self) -> Vec<String> {
        self.loops.degraded().collect()
    }

    fn forget(&mut self, pid: u32) {
        self.loops.forget(pid);
    }
}
