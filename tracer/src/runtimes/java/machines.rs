//! The Java virtual machines among the processes in view.

use std::collections::HashMap;

use super::{tables::Refused, walker::HotSpot};
use crate::{
    refused::Refusal,
    runtimes::view::{InView, MappedFile},
    unwind::managed::Walker,
};

/// Machines remembered.
const MACHINES_MAX: usize = 4096;
/// The library that is the machine.
const LIBRARY: &str = "libjvm.so";

/// What is known of one process.
#[derive(Debug)]
enum Machine {
    /// Its frames can be walked.
    Open(Box<HotSpot>),
    /// It can't be understood.
    Refused(Refused),
}

/// The machines, by process.
#[derive(Debug, Default)]
pub struct Machines {
    known: HashMap<u32, Machine>,
    /// There was no room for one.
    full: u64,
}

impl Machines {
    /// Looks for a machine in a process, unless it is known.
    pub fn look(&mut self, process: &mut InView<'_>) {
        let pid = process.pid();
        if self.known.contains_key(&pid) {
            return;
        }
        let files = process.files();
        let Some(library) = files.iter().find(|file| file.name() == LIBRARY) else {
            return;
        };
        let machine = match open(process, library) {
            Ok(machine) => {
                tracing::debug!(pid, version = machine.version(), "HotSpot");
                Machine::Open(Box::new(machine))
            }
            Err(Refused::Starting) => return,
            Err(reason) => {
                tracing::warn!(pid, %reason, "Java frames can't be named");
                Refusal::Interpreter.count();
                Machine::Refused(reason)
            }
        };
        if self.known.len() >= MACHINES_MAX {
            self.full += 1;
            return;
        }
        self.known.insert(pid, machine);
    }

    /// Who walks the frames of a process.
    pub fn walker(&mut self, pid: u32) -> Option<&mut dyn Walker> {
        match self.known.get_mut(&pid)? {
            Machine::Open(machine) => Some(&mut **machine),
            Machine::Refused(_) => None,
        }
    }

    /// What can't be seen, and why.
    pub fn degraded(&self) -> impl Iterator<Item = String> + '_ {
        let refused = self
            .known
            .iter()
            .filter_map(|(pid, machine)| match machine {
                Machine::Open(_) => None,
                Machine::Refused(reason) => Some(format!(
                    "the Java frames of process {pid} have no names, because {reason}"
                )),
            });
        let full = (self.full > 0).then(|| {
            format!("the frames of Java programs beyond {MACHINES_MAX} at a time have no names")
        });
        refused.chain(full)
    }

    /// The process has ended, or runs another program now.
    pub fn forget(&mut self, pid: u32) {
        self.known.remove(&pid);
    }
}

fn open(process: &InView<'_>, library: &MappedFile) -> Result<HotSpot, Refused> {
    let memory = process.memory().map_err(|_| Refused::Starting)?;
    let symbol = |name: &'static str| {
        let found = library.image.symbols(&[name]).into_iter().next().flatten();
        found.map(|(address, _)| address.wrapping_add(library.bias))
    };
    HotSpot::open(&symbol, &*memory)
}
