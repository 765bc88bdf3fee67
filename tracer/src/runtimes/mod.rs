//! Language runtimes: one folder each, with everything about it, and an entry in [`all`].
//!
//! A runtime may do any of these, each a method of [`Runtime`] with a default that does nothing:
//! attach probes to its executables, tell the kernel how to find interpreted frames
//! ([`Runtime::plan`], [`Runtime::interleave`]), explain code that it made itself
//! ([`Runtime::walker`]), and say what can't be seen of it.

#[cfg(test)]
pub mod fixture;
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
pub mod told;
pub mod view;

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tracer_ebpf::{RuntimePlan, Sock};

use self::{
    told::{Collected, Stream, Told},
    view::{Copied, InView, Interleaved},
};
use crate::{
    elf::Image,
    kernel::{
        maps::Table as KernelTable,
        probes::{ProbeError, Probes},
    },
    memory::{Memory, NoMemory, ProcessMemory},
    model::{CohortId, Connection, GoPools, Kind, PoolState, Site},
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
    /// Go programs may not be asked for the state of their connections.
    pub without_go: bool,
    /// TLS libraries may not be probed.
    pub without_tls: bool,
}

/// Every runtime.
fn all(wishes: Wishes) -> Vec<Box<dyn Runtime>> {
    vec![
        Box::new(go::view::Go::new(!wishes.without_go)),
        Box::new(python::Python::default()),
        Box::new(php::Php::default()),
        Box::new(ruby::Ruby::default()),
        Box::new(node::Node::default()),
        Box::new(java::Java::new(wishes.ask_jvms)),
        Box::new(tls::Tls::new(!wishes.without_tls)),
        #[cfg(test)]
        Box::new(fixture::Fixture::default()),
    ]
}

/// The rules of blame of all runtimes, after the common ones.
const TABLES: &[&str] = &[
    blame::COMMON,
    python::RULES,
    node::RULES,
    java::RULES,
    ruby::RULES,
    php::RULES,
    go::RULES,
    #[cfg(test)]
    fixture::RULES,
];

/// Whose frames are, by the user's rules and then the built-in ones.
#[must_use]
pub fn blame(user: Vec<blame::Rule>) -> Blame {
    Blame::new(user, TABLES)
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

    /// Takes over its part of the kernel side, which is loaded. `blame` names call sites of stacks
    /// that the runtime's own probes take.
    ///
    /// # Errors
    /// When a map that is needed is not there.
    fn begin(&mut self, probes: &mut Probes, blame: &Arc<Blame>) -> Result<(), ProbeError> {
        let _ = (probes, blame);
        Ok(())
    }

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

    /// After the processes in view were shown, at each sweep.
    fn followed(&mut self, probes: &mut Probes, modules: &mut Modules) {
        let _ = (probes, modules);
    }

    /// The runtime's version in a process, such as `go1.27.3`, where it is a program of this
    /// runtime and that is known. Asked after [`Runtime::attach`].
    fn version(&self, pid: u32) -> Option<String> {
        let _ = pid;
        None
    }

    /// What programs say of their connections now, asked once a sweep.
    ///
    /// # Errors
    /// The kernel's, when a map can't be read.
    fn refresh(&mut self, socks: &KernelTable<u64, Sock>) -> io::Result<Vec<Told>> {
        let _ = socks;
        Ok(Vec::new())
    }

    /// Requests that share connections, as [`Runtime::refresh`] has found them, once.
    fn streams(&mut self) -> Vec<Stream> {
        Vec::new()
    }

    /// Connections that a garbage collector closed, since watching began.
    ///
    /// # Errors
    /// The kernel's, when a map can't be read.
    fn collected(&mut self) -> io::Result<Vec<Collected>> {
        Ok(Vec::new())
    }

    /// A socket that the runtime told of was shown in a cohort.
    fn note(&mut self, cohort: CohortId, told: &Told, seen: &Connection) {
        let _ = (cohort, told, seen);
    }

    /// A stream was shown in a cohort.
    fn note_stream(&mut self, cohort: CohortId, state: PoolState) {
        let _ = (cohort, state);
    }

    /// What pools say of a cohort, and what that means for a kind of leak.
    fn info(&mut self, cohort: CohortId, pid: u32, kind: Kind) -> Option<GoPools> {
        let _ = (cohort, pid, kind);
        None
    }

    /// Whether a stack's number was given by this runtime's own probes.
    fn has_stack(&self, number: u32) -> bool {
        let _ = number;
        false
    }

    /// A stack with names, by a number that [`Runtime::has_stack`].
    fn site(&mut self, number: u32) -> Option<Arc<Site>> {
        let _ = number;
        None
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

    /// Whether it could make another plan of a process now than it did last. Asked once for each
    /// stack.
    fn has_learned(&mut self, pid: u32) -> bool {
        let _ = pid;
        false
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

    /// The stacks of those who asked for a URL in a process last, the latest first. `hash`: as
    /// [`tracer_ebpf::url_hash`] makes it.
    fn asked_for(&mut self, pid: u32, hash: u64) -> Vec<u32> {
        let _ = (pid, hash);
        Vec::new()
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
/// Time for new processes at a time, one at least; the rest waits for the next sweep.
const ATTACH_WITHIN: Duration = Duration::from_millis(250);

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

    /// Hands the kernel side over.
    ///
    /// # Errors
    /// When a map that is needed is not there.
    pub fn begin(&mut self, probes: &mut Probes, blame: &Arc<Blame>) -> Result<(), ProbeError> {
        self.list
            .iter_mut()
            .try_for_each(|r| r.begin(probes, blame))
    }

    /// Shows the processes in view, and forgets those that are gone. Returns those that are new
    /// and have a runtime whose version is known. What begins in large numbers during a watch is
    /// shown bit by bit.
    pub fn follow(
        &mut self,
        pids: &[u32],
        modules: &mut Modules,
        probes: &mut Probes,
    ) -> Vec<(u32, String)> {
        let mut versions = Vec::new();
        let present: HashSet<u32> = pids.iter().copied().collect();
        let gone: Vec<u32> = self.attached.difference(&present).copied().collect();
        gone.into_iter().for_each(|pid| self.forget(pid));
        self.follow_changed(modules, probes);
        let began = (!self.attached.is_empty()).then(Instant::now);
        for &pid in pids {
            if began.is_some_and(|began| began.elapsed() > ATTACH_WITHIN) {
                break;
            }
            if !self.attached.insert(pid) {
                continue;
            }
            for runtime in &mut self.list {
                let mut process = InView::new(pid, modules);
                if let Err(error) = runtime.attach(&mut process, probes) {
                    let later = error.kind() == io::ErrorKind::WouldBlock;
                    if later || crate::procs::is_shortage(&error) {
                        self.attached.remove(&pid);
                    }
                    tracing::debug!(pid, %error, runtime = runtime.name(), "not attached to");
                }
                versions.extend(runtime.version(pid).map(|version| (pid, version)));
            }
        }
        self.list
            .iter_mut()
            .for_each(|r| r.followed(probes, modules));
        versions
    }

    /// Each runtime with its place in the list.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut (dyn Runtime + 'static))> {
        let all = self.list.iter_mut().enumerate();
        all.map(|(place, runtime)| (place, &mut **runtime))
    }

    /// The runtime at a place in the list.
    pub fn at(&mut self, place: usize) -> Option<&mut (dyn Runtime + 'static)> {
        self.list.get_mut(place).map(|runtime| &mut **runtime)
    }

    /// What pools say of a cohort, and what that means for a kind of leak.
    pub fn info(&mut self, cohort: CohortId, pid: u32, kind: Kind) -> Option<GoPools> {
        let mut all = self.list.iter_mut();
        all.find_map(|runtime| runtime.info(cohort, pid, kind))
    }

    /// A stack by a number that a runtime's own probes gave: `None` where it is none such, else
    /// its names, if they are still known.
    pub fn site(&mut self, number: u32) -> Option<Option<Arc<Site>>> {
        let runtime = self.list.iter_mut().find(|r| r.has_stack(number))?;
        Some(runtime.site(number))
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

    /// Whether more is known of a process than when [`Runtimes::plan`] was asked last.
    pub fn has_learned(&mut self, pid: u32) -> bool {
        self.list
            .iter_mut()
            .fold(false, |any, runtime| runtime.has_learned(pid) | any)
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
            partial: false,
        };
        for runtime in &mut self.list {
            if let Some(of_runtime) = runtime.interleave(copied) {
                all.frames.extend(of_runtime.frames);
                all.exact &= of_runtime.exact;
                all.whole |= of_runtime.whole;
                all.partial |= of_runtime.partial;
            }
        }
        all
    }

    /// A sweep over all connections begins.
    pub fn begin_sweep(&mut self) {
        self.list.iter_mut().for_each(|r| r.begin_sweep());
    }

    /// What the client in a process knows of the connection that is its descriptor `fd`.
    pub fn pool_state(&mut self, pid: u32, fd: i32) -> PoolState {
        self.list
            .iter_mut()
            .map(|runtime| runtime.pool_state(pid, fd))
            .find(|state| *state != PoolState::Unknown)
            .unwrap_or_default()
    }

    /// See [`Runtime::asked_for`].
    pub fn asked_for(&mut self, pid: u32, hash: u64) -> Vec<u32> {
        let runtimes = self.list.iter_mut();
        let mut asked = runtimes.map(|runtime| runtime.asked_for(pid, hash));
        asked.find(|stacks| !stacks.is_empty()).unwrap_or_default()
    }

    /// After a descriptor scan.
    pub fn scanned(&mut self, unnamed: &[u32]) {
        self.list.iter_mut().for_each(|r| r.scanned(unnamed));
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
        self.list.iter_mut().for_each(|r| r.forget(pid));
    }
}

#[cfg(test)]
mod tests;
