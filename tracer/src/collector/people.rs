//! The processes in view, by pid.

use std::{collections::HashMap, sync::Arc};

use crate::{model::Process, procs};

/// Processes remembered; beyond this the ended ones are dropped.
const REMEMBERED: usize = 8_192;

/// Processes in view; those that ended stay until room is needed, because what they leaked is
/// still to be reported.
#[derive(Debug, Default)]
pub struct People {
    known: HashMap<u32, Arc<Process>>,
}

impl People {
    /// A process, read at first sight. One that is gone already has only its pid.
    pub fn get(&mut self, pid: u32) -> Arc<Process> {
        if let Some(process) = self.known.get(&pid) {
            return Arc::clone(process);
        }
        if self.known.len() >= REMEMBERED {
            self.known
                .retain(|&pid, process| procs::alive(pid, process.start_ticks));
        }
        let process = Arc::new(procs::read(pid).unwrap_or_else(|| Process {
            pid,
            ns_pid: None,
            start_ticks: 0,
            comm: String::new(),
            exe: None,
            runtime: None,
            container_id: None,
        }));
        self.known.insert(pid, Arc::clone(&process));
        process
    }

    /// Notes the language runtime of a process.
    pub fn set_runtime(&mut self, pid: u32, runtime: &str) {
        self.get(pid);
        if let Some(process) = self.known.get_mut(&pid) {
            Arc::make_mut(process).runtime = Some(runtime.to_owned());
        }
    }

    /// The process runs another program now: it is read again at the next sight.
    pub fn forget(&mut self, pid: u32) {
        self.known.remove(&pid);
    }
}
