//! From a copied stack to the frame to blame.
//!
//! The kernel hands over registers and raw stack bytes the first time it meets a call path
//! ([`tracer_ebpf::StackCopy`]); [`Stacks`] turns them into a number ([`StackId`]) and into the
//! trie entries by which the kernel recognizes the path from then on. Names are looked up only
//! when somebody asks for the [`Site`] of a number. The bytes are dropped as soon as they are
//! unwound.

mod measuring;
mod quota;
pub mod saved;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use tracer_ebpf::{RuntimeFrame, STACK_NONE, STACK_TICKET, Shape, StackCopy};

use self::quota::Quota;
use crate::model::{Site, StackQuality};
use crate::{
    model::Named,
    runtimes::{
        self, Runtimes,
        view::{Copied, has_not_moved},
    },
    symbols::{
        blame::Blame,
        naming::{Interpreted, Kept, Naming},
    },
    unwind::{
        cfi::Rules,
        modules::{Modules, Process},
        trie::{Forgotten, Learned, Trie},
        walk::{Stop, Unwound, unwind},
    },
};

/// Number of a distinct stack of one process, from 1 and below [`tracer_ebpf::STACK_TICKET`];
/// what the kernel writes into [`tracer_ebpf::Sock::open_stack`].
pub type StackId = u32;

/// Bounds of what [`Stacks`] keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Distinct stacks.
    pub stacks: usize,
    /// Executable files kept open and mapped, each a descriptor of this process.
    pub images: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            stacks: 16_384,
            images: 512,
        }
    }
}

/// A path with a frame that its runtime can't explain is taken for what it is when it was seen this
/// often.
const DOUBTED_MAX: u8 = 16;

/// Processes remembered as having executed; of more than that, those that have ended are
/// forgotten.
const EXECUTED_MAX: usize = 16_384;

/// What became of one stack copy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// The stack's number; [`tracer_ebpf::STACK_NONE`] when nothing could be made of it or the
    /// table is full.
    pub id: StackId,
    /// What to tell the kernel. Nothing when the path is known already or must not be recognized
    /// by its native frames alone.
    pub learned: Learned,
    /// The copy ended before the stack did: a copy of this many bytes would have shown more. The
    /// path is then not learned.
    pub want_bytes: Option<usize>,
}

#[derive(Debug)]
struct Record {
    tgid: u32,
    frames: Arc<[Kept]>,
    stop: Stop,
    executable: Option<Arc<str>>,
    site: Option<Arc<Site>>,
    /// The site lacks names that a perf map could still give.
    unnamed: bool,
    /// How often it was seen with a frame that its runtime could not explain.
    doubted: u8,
}

/// Every stack known, and what is needed to name their frames. Used from one thread.
#[derive(Debug)]
pub struct Stacks {
    limits: Limits,
    modules: Modules,
    rules: Rules,
    trie: Trie,
    naming: Naming,
    ids: HashMap<(u32, Arc<[Kept]>), StackId>,
    records: HashMap<StackId, Record>,
    last: StackId,
    quota: Quota,
    /// Processes that ran another program than their parent's when seen last.
    executed: HashSet<u32>,
}

impl Stacks {
    /// An empty table with the built-in rules of blame.
    #[must_use]
    pub fn new(limits: Limits) -> Stacks {
        Stacks {
            modules: Modules::new(limits.images),
            limits,
            rules: Rules::new(),
            trie: Trie::default(),
            naming: Naming::new(
                Arc::new(runtimes::blame(Vec::new())),
                runtimes::function_table,
            ),
            ids: HashMap::new(),
            records: HashMap::new(),
            last: 0,
            quota: Quota::default(),
            executed: HashSet::new(),
        }
    }

    /// Blames by these rules.
    #[must_use]
    pub fn with_blame(mut self, blame: Arc<Blame>) -> Stacks {
        self.naming = Naming::new(blame, runtimes::function_table);
        self
    }

    /// Looks for split debug information below these directories first, as below `/usr/lib/debug`.
    #[must_use]
    pub fn with_debug_directories(mut self, directories: Vec<PathBuf>) -> Stacks {
        self.naming.search_first(directories);
        self
    }

    /// Waits longer for names than a daemon may.
    #[must_use]
    pub fn with_patience(mut self, patient: bool) -> Stacks {
        if patient {
            self.naming.be_patient();
        }
        self
    }

    /// Opens the executable files of a process now, while it is there. Worth calling when a
    /// process first comes into view: one that exits before its first copy is read can then
    /// still be unwound and named.
    pub fn pin(&mut self, tgid: u32) {
        self.modules.refresh(tgid);
    }

    /// What is not read of the programs' files, and why, as sentences.
    #[must_use]
    pub fn degraded(&self) -> Vec<String> {
        let modules = self.modules.degraded();
        let names = self.naming.degraded();
        modules.chain(names).chain(self.quota.sentences()).collect()
    }

    /// The process runs another program than its parent now: what is known of the parent does not
    /// hold for it.
    pub fn executed(&mut self, tgid: u32) {
        if self.executed.len() >= EXECUTED_MAX {
            self.executed
                .retain(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
        }
        self.executed.insert(tgid);
    }

    /// The mappings of the process that was copied; where it is gone already, and never ran another
    /// program, those of its parent, which it began with: second in the answer is whether they are
    /// its own.
    fn mappings(&mut self, copy: &StackCopy) -> Option<(Arc<Process>, bool)> {
        if let Some(process) = self.modules.refresh(copy.tgid) {
            return Some((process, true));
        }
        if copy.parent == 0 || self.executed.contains(&copy.tgid) {
            return None;
        }
        Some((self.modules.refresh(copy.parent)?, false))
    }

    /// What processes have mapped.
    pub fn modules(&mut self) -> &mut Modules {
        &mut self.modules
    }

    /// Unwinds one copy; `bytes` are the stack bytes that follow the record (only the first
    /// [`StackCopy::len`] count). `found` are the frames of an interpreter that the kernel side
    /// found at the same moment, innermost first; without any they are read now, which may be
    /// late.
    pub fn take(
        &mut self,
        runtimes: &mut Runtimes,
        copy: &StackCopy,
        bytes: &[u8],
        found: &[RuntimeFrame],
    ) -> Taken {
        self.take_some(runtimes, copy, bytes, found, true)
    }

    /// [`Stacks::take`] for a process of which the kernel side learns only now how to find its
    /// interpreted frames: where the thread has gone on since, they are left out, because others
    /// would be blamed.
    pub fn take_first(&mut self, runtimes: &mut Runtimes, copy: &StackCopy, bytes: &[u8]) -> Taken {
        self.take_some(runtimes, copy, bytes, &[], false)
    }

    fn take_some(
        &mut self,
        runtimes: &mut Runtimes,
        copy: &StackCopy,
        bytes: &[u8],
        found: &[RuntimeFrame],
        even_late: bool,
    ) -> Taken {
        let stack = &bytes[..bytes.len().min(copy.len as usize)];
        let Some((process, own)) = self.mappings(copy) else {
            return Taken::default();
        };
        runtimes.look(copy.tgid, &process, &mut self.modules);
        let unwound = runtimes.with_walkers(copy.tgid, |walkers| {
            unwind(&*process, &mut self.rules, walkers, copy, stack)
        });
        if !own && unwound.stop != Stop::Complete {
            // not the parent's program after all
            return Taken::default();
        }
        let mut interpreted = runtimes.interleave(&Copied {
            copy,
            stack,
            found,
            unwound: &unwound,
            process: &process,
        });
        if !interpreted.exact && !even_late {
            interpreted.frames.clear();
        }
        // Native frames alone don't tell an interpreter's call paths apart.
        let native = interpreted.frames.is_empty() && interpreted.exact;
        let found = if native { &[] } else { found };
        let (whole, partial) = (interpreted.whole, interpreted.partial);
        let (exact, interpreted) = (interpreted.exact, interpreted.frames);
        let stop = if whole {
            Stop::Complete
        } else if exact || unwound.stop != Stop::Complete {
            unwound.stop
        } else {
            Stop::Late
        };
        let frames = kept(&unwound, &interpreted);
        // What a compiler made moves: names that were read when the thread had gone on already are
        // believed for later calls when they are read a second time.
        let doubtful = unwound.managed.iter().any(|frame| frame.doubt.is_some());
        let known = self.ids.contains_key(&(copy.tgid, Arc::clone(&frames)));
        let mut certain =
            unwound.managed.is_empty() || (!doubtful && (known || has_not_moved(copy)));
        let id = self.number(copy.tgid, frames, stop, &process);
        // A name that is missing may be there next time.
        if doubtful && let Some(record) = self.records.get_mut(&id) {
            record.doubted = record.doubted.saturating_add(1);
            certain = record.doubted >= DOUBTED_MAX;
        }
        let want_bytes = unwound.stop.wants_more().filter(|want| *want > stack.len());
        let learnable = certain && !partial && (native || (exact && !found.is_empty()));
        let learned = if learnable && want_bytes.is_none() && id != STACK_NONE {
            self.trie.learn(&unwound, found, copy.sp, copy.tgid, id)
        } else {
            Learned::default()
        };
        Taken {
            id,
            learned,
            want_bytes,
        }
    }

    fn number(&mut self, tgid: u32, frames: Arc<[Kept]>, stop: Stop, process: &Process) -> StackId {
        let key = (tgid, frames);
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        if !self.quota.take(tgid, self.limits.stacks) {
            return STACK_NONE;
        }
        // Numbers are not reused while sockets in the kernel may still carry them.
        while {
            self.last = if self.last + 1 < STACK_TICKET {
                self.last + 1
            } else {
                1
            };
            self.records.contains_key(&self.last)
        } {}
        let record = Record {
            tgid,
            frames: key.1.clone(),
            stop,
            executable: process.executable().cloned(),
            site: None,
            unnamed: false,
            doubted: 0,
        };
        self.records.insert(self.last, record);
        self.ids.insert(key, self.last);
        self.last
    }

    /// The frames of a stack with their names, looked up now if they were not before. An unknown
    /// number has a site without frames.
    pub fn site(&mut self, id: StackId) -> Arc<Site> {
        let Some(record) = self.records.get_mut(&id) else {
            return Arc::new(unknown());
        };
        if let Some(site) = &record.site {
            return site.clone();
        }
        let named = self.naming.site(
            record.tgid,
            &record.frames,
            record.stop.quality(),
            record.executable.as_deref(),
            &mut self.modules,
        );
        let Some(site) = named.map(Arc::new) else {
            record.unnamed = true;
            return Arc::new(unknown());
        };
        let unnamed = || site.frames.iter().any(crate::symbols::naming::is_unnamed);
        record.unnamed = self.naming.is_postponed(record.tgid) || !site.own && unnamed();
        record.site = Some(site.clone());
        site
    }

    /// Processes with sites that lack the names of compiled code.
    #[must_use]
    pub fn unnamed(&self) -> Vec<u32> {
        let waiting = self.records.values().filter(|r| r.unnamed).map(|r| r.tgid);
        let mut processes: Vec<u32> = waiting.collect();
        processes.sort_unstable();
        processes.dedup();
        processes
    }

    /// Looks whether runtimes have named their compiled code meanwhile; `true` when sites that
    /// were asked for before may now have names.
    pub fn look_for_names(&mut self) -> bool {
        let mut processes = self.unnamed();
        processes.retain(|&tgid| self.naming.has_new_names(tgid));
        for record in self.records.values_mut() {
            if record.unnamed && processes.binary_search(&record.tgid).is_ok() {
                record.site = None;
                record.unnamed = false;
            }
        }
        !processes.is_empty()
    }

    /// How much of a stack is known, without looking up names.
    #[must_use]
    pub fn quality(&self, id: StackId) -> StackQuality {
        self.records
            .get(&id)
            .map_or(StackQuality::None, |r| r.stop.quality())
    }

    /// Why unwinding of a stack ended where it did.
    #[must_use]
    pub fn stop(&self, id: StackId) -> Option<Stop> {
        self.records.get(&id).map(|r| r.stop)
    }

    /// The shapes of all call paths known, for a kernel that has none yet.
    pub fn shapes(&mut self) -> Vec<Shape> {
        self.trie.shapes()
    }

    /// Forgets a process that has ended (or executed another program): its mappings, its stacks
    /// and its part of the trie. Returns what to delete from the kernel.
    pub fn forget_process(&mut self, tgid: u32) -> Forgotten {
        self.modules.forget(tgid);
        self.naming.forget(tgid);
        self.quota.free(tgid);
        self.ids.retain(|(owner, _), _| *owner != tgid);
        self.records.retain(|_, record| record.tgid != tgid);
        self.trie.forget(tgid)
    }

    /// Distinct stacks kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// `true` when no stack is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Copies that got no number because [`Limits::stacks`] was reached.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.quota.refused()
    }

    /// Executable files kept open.
    #[must_use]
    pub fn pinned(&self) -> usize {
        self.modules.pinned()
    }
}

/// A stack of which nothing is known.
fn unknown() -> Site {
    Site {
        frames: Vec::new(),
        owners: Vec::new(),
        call_site: None,
        own: false,
        quality: StackQuality::None,
        library: false,
        own_frames: Vec::new(),
        runs_loop: None,
        line_in_function: None,
        again: None,
    }
}

/// The frames to keep: native ones, with the interpreted ones inside of those that run them.
fn kept(unwound: &Unwound, interpreted: &[(usize, Vec<Named>)]) -> Arc<[Kept]> {
    let mut frames = Vec::with_capacity(unwound.frames.len());
    let has_script = interpreted.iter().any(|(_, inner)| !inner.is_empty());
    for (index, frame) in unwound.frames.iter().enumerate() {
        for (_, inner) in interpreted.iter().filter(|(at, _)| *at == index) {
            frames.extend(inner.iter().map(named));
        }
        match unwound.managed_at(index) {
            // what an interpreter compiled is named by its own frames
            None if has_script && frame.module.is_none() => {}
            None => frames.push(Kept::Native(*frame)),
            // a perf map may have the name that the runtime's own structures don't give
            Some(managed) if managed.functions.is_empty() && managed.doubt.is_some() => {
                frames.push(Kept::Native(*frame));
            }
            Some(managed) => frames.extend(managed.functions.iter().map(named)),
        }
    }
    frames.into()
}

fn named(frame: &Named) -> Kept {
    Kept::Interpreted(Arc::new(Interpreted {
        function: frame.function.clone(),
        file: frame.file.clone(),
        line: frame.line,
        function_line: frame.function_line,
    }))
}
