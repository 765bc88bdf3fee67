//! Language runtimes: one folder each, with everything about it, and an entry in [`all`].
//!
//! A runtime may do any of these, each a method of [`Runtime`] with a default that does nothing:
//! attach probes to its executables, tell the kernel how to find interpreted frames
//! ([`Runtime::plan`], [`Runtime::interleave`]), explain code that it made itself
//! ([`Runtime::walker`]), and say what can't be seen of it.

pub mod go;
pub mod java;
pub mod node;
pub mod php;
pub mod probed_files;
pub mod python;
pub mod ruby;
pub mod script;
pub mod thread_local;
pub mod tls;
pub mod view;

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};

use tracer_ebpf::RuntimePlan;

use self::view::{Copied, InView, Interleaved};
use crate::{
    elf::Image,
    kernel::probes::Probes,
    memory::{Memory, NoMemory, ProcessMemory},
    model::PoolState,
    symbols::{
        blame::{self, Blame},
        naming::Table,
    },
    unwind::modules::{Modules, Process},
};

pub use crate::unwind::managed;

/// What a user wants of runtimes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Java programs may be asked for the names of their compiled code.
    pub ask_jvms: bool,
}

/// Every runtime.
fn all(wishes: Wishes) -> Vec<Box<dyn Runtime>> {
    vec![
        Box::new(python::Python::default()),
        Box::new(php::Php::default()),
        Box::new(ruby::Ruby::default()),
        Box::new(node::Node::default()),
        Box::new(java::Java::new(wishes.ask_jvms)),
        Box::new(tls::Tls::default()),
    ]
}

/// The rules of blame of all runtimes, after the common ones.
const TABLES: [&str; 7] = [
    blame::COMMON,
    python::RULES,
    node::RULES,
    java::RULES,
    ruby::RULES,
    php::RULES,
    go::RULES,
];

/// Whose frames are, by the user's rules and then the built-in ones.
#[must_use]
pub fn blame(user: Vec<blame::Rule>) -> Blame {
    Blame::new(user, &TABLES)
}

/// The table of functions that a runtime keeps in an executable.
#[must_use]
pub fn function_table(image: &Arc<Image>) -> Table {
    go::table::find(image)
}

/// A language runtime. Processes are known by their number on the host; what is remembered of one
/// goes with [`Runtime::forget`].
pub trait Runtime: std::fmt::Debug + Send {
    /// Name, as users read it.
    fn name(&self) -> &'static str;

    /// Attaches probes for a process that came into view. Called once for each, soon after its
    /// program began (its libraries may not all be mapped), and for every process of the host:
    /// look at its executable first.
    ///
    /// # Errors
    /// `WouldBlock` to be asked again; anything else is noted, and the process left alone.
    fn attach(&mut self, process: &mut InView<'_>, probes: &mut Probes) -> io::Result<()> {
        let _ = (process, probes);
        Ok(())
    }

    /// [`Runtime::attach`] again, for a process whose mappings have changed since: libraries are
    /// loaded when they are needed first.
    fn attach_again(&mut self, process: &mut InView<'_>, probes: &mut Probes) {
        let _ = (process, probes);
    }

    /// Looks at a process of which a stack is about to be unwound: the first time, and again
    /// whenever its mappings have changed since, which compilers do often. What was found is
    /// remembered for [`Runtime::walker`] and [`Runtime::interleave`].
    fn look(&mut self, process: &mut InView<'_>) {
        let _ = process;
    }

    /// How the kernel side can find the interpreted frames of a process; `None` for one that is
    /// not of this runtime. Asked until there is a plan, after [`Runtime::look`].
    fn plan(&mut self, process: &mut InView<'_>) -> Option<RuntimePlan> {
        let _ = process;
        None
    }

    /// Who explains the frames of code that the runtime made in this process. Asked after
    /// [`Runtime::look`].
    fn walker(&mut self, pid: u32) -> Option<&mut dyn managed::Walker> {
        let _ = pid;
        None
    }

    /// The interpreted frames of a stack; `None` for a process that is not of this runtime. Asked
    /// after [`Runtime::look`].
    fn interleave(&mut self, copied: &Copied<'_>) -> Option<Interleaved> {
        let _ = copied;
        None
    }

    /// A sweep over all connections begins: what clients know of theirs is to be read anew.
    fn begin_sweep(&mut self) {}

    /// What the client in a process knows of the connection that is its descriptor `fd`.
    fn pool_state(&mut self, pid: u32, fd: i32) -> PoolState {
        let _ = (pid, fd);
        PoolState::Unknown
    }

    /// After a descriptor scan, every few seconds. `unnamed` are the processes with call sites in
    /// compiled code that nothing named.
    fn scanned(&mut self, unnamed: &[u32]) {
        let _ = unnamed;
    }

    /// What can't be seen of programs of this runtime, and why, in sentences.
    fn degraded(&self) -> Vec<String> {
        Vec::new()
    }

    /// The process has ended, or runs another program now. May be said more than once.
    fn forget(&mut self, pid: u32) {
        let _ = pid;
    }
}

/// Processes whose mappings are remembered; all are looked at again beyond that.
const LOOKED_AT_MAX: usize = 16_384;

/// The runtimes of a session, and which processes they were shown.
#[derive(Debug)]
pub struct Runtimes {
    list: Vec<Box<dyn Runtime>>,
    /// Mappings at the last [`Runtime::look`].
    looked_at: HashMap<u32, Arc<Process>>,
    /// Processes that were shown for [`Runtime::attach`].
    attached: HashSet<u32>,
    /// Processes whose mappings have changed since.
    changed: HashSet<u32>,
}

impl Default for Runtimes {
    fn default() -> Runtimes {
        Runtimes::new(Wishes::default())
    }
}

impl Runtimes {
    /// All of them.
    #[must_use]
    pub fn new(wishes: Wishes) -> Runtimes {
        Runtimes {
            list: all(wishes),
            looked_at: HashMap::new(),
            attached: HashSet::new(),
            changed: HashSet::new(),
        }
    }

    /// Shows the processes in view, and forgets those that are gone.
    pub fn follow(&mut self, pids: &[u32], modules: &mut Modules, probes: &mut Probes) {
        let present: HashSet<u32> = pids.iter().copied().collect();
        let gone: Vec<u32> = self.attached.difference(&present).copied().collect();
        for pid in gone {
            self.forget(pid);
        }
        self.follow_changed(modules, probes);
        for &pid in pids {
            if !self.attached.insert(pid) {
                continue;
            }
            for runtime in &mut self.list {
                let mut process = InView::new(pid, modules);
                if let Err(error) = runtime.attach(&mut process, probes) {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        self.attached.remove(&pid);
                    }
                    tracing::debug!(pid, %error, runtime = runtime.name(), "not attached to");
                }
            }
        }
    }

    /// Shows the processes again whose mappings have changed.
    fn follow_changed(&mut self, modules: &mut Modules, probes: &mut Probes) {
        for pid in std::mem::take(&mut self.changed) {
            for runtime in &mut self.list {
                runtime.attach_again(&mut InView::new(pid, modules), probes);
            }
        }
    }

    /// Shows a process whose stack is about to be unwound, where it has changed.
    pub fn look(&mut self, pid: u32, process: &Arc<Process>, modules: &mut Modules) {
        let known = self.looked_at.get(&pid);
        if known.is_some_and(|known| Arc::ptr_eq(known, process)) {
            return;
        }
        if self.looked_at.len() >= LOOKED_AT_MAX {
            self.looked_at.clear();
        }
        self.looked_at.insert(pid, Arc::clone(process));
        self.changed.insert(pid);
        for runtime in &mut self.list {
            runtime.look(&mut InView::of(pid, Arc::clone(process), modules));
        }
    }

    /// How the kernel side can find the interpreted frames of a process.
    pub fn plan(&mut self, pid: u32, modules: &mut Modules) -> Option<RuntimePlan> {
        let known = modules.process(pid).cloned();
        let process = known.or_else(|| modules.refresh(pid))?;
        self.look(pid, &process, modules);
        self.list
            .iter_mut()
            .find_map(|runtime| runtime.plan(&mut InView::of(pid, Arc::clone(&process), modules)))
    }

    /// Calls `unwind` with the walkers of a process.
    pub fn with_walkers<T>(
        &mut self,
        pid: u32,
        unwind: impl FnOnce(&mut managed::Walkers<'_>) -> T,
    ) -> T {
        let walkers: Vec<&mut dyn managed::Walker> = self
            .list
            .iter_mut()
            .filter_map(|runtime| runtime.walker(pid))
            .collect();
        let memory: Box<dyn Memory> = match walkers.is_empty() {
            true => Box::new(NoMemory),
            false => match ProcessMemory::open(pid) {
                Ok(memory) => Box::new(memory),
                Err(_) => Box::new(NoMemory),
            },
        };
        unwind(&mut managed::Walkers::new(walkers, &*memory))
    }

    /// The interpreted frames of a stack, of whichever runtime it has.
    pub fn interleave(&mut self, copied: &Copied<'_>) -> Interleaved {
        let mut all = Interleaved {
            frames: Vec::new(),
            exact: true,
            whole: false,
        };
        for runtime in &mut self.list {
            if let Some(of_runtime) = runtime.interleave(copied) {
                all.frames.extend(of_runtime.frames);
                all.exact &= of_runtime.exact;
                all.whole |= of_runtime.whole;
            }
        }
        all
    }

    /// A sweep over all connections begins.
    pub fn begin_sweep(&mut self) {
        for runtime in &mut self.list {
            runtime.begin_sweep();
        }
    }

    /// What the client in a process knows of the connection that is its descriptor `fd`.
    pub fn pool_state(&mut self, pid: u32, fd: i32) -> PoolState {
        self.list
            .iter_mut()
            .map(|runtime| runtime.pool_state(pid, fd))
            .find(|state| *state != PoolState::Unknown)
            .unwrap_or_default()
    }

    /// After a descriptor scan.
    pub fn scanned(&mut self, unnamed: &[u32]) {
        for runtime in &mut self.list {
            runtime.scanned(unnamed);
        }
    }

    /// What can't be seen, and why.
    #[must_use]
    pub fn degraded(&self) -> Vec<String> {
        self.list.iter().flat_map(|r| r.degraded()).collect()
    }

    /// The process has ended, or runs another program now.
    pub fn forget(&mut self, pid: u32) {
        self.looked_at.remove(&pid);
        self.attached.remove(&pid);
        self.changed.remove(&pid);
        for runtime in &mut self.list {
            runtime.forget(pid);
        }
    }
}

#[cfg(test)]
mod tests;
