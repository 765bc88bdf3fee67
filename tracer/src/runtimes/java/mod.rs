//! Java programs: HotSpot, and what it can be asked for.

mod names;
pub mod perf_map_request;

use self::names::Names;
use super::Runtime;

/// Java programs in a session.
#[derive(Debug)]
pub struct Java {
    names: Names,
}

impl Java {
    /// None is known yet. Whether they may be asked for the names of their compiled code.
    #[must_use]
    pub fn new(ask: bool) -> Java {
        Java {
            names: Names::new(ask),
        }
    }
}

impl Runtime for Java {
    fn name(&self) -> &'static str {
        "Java"
    }

    fn scanned(&mut self, unnamed: &[u32]) {
        self.names.ask(unnamed);
    }

    fn degraded(&self) -> Vec<String> {
        self.names.degraded().collect()
    }

    fn forget(&mut self, pid: u32) {
        self.names.forget(pid);
    }
}
