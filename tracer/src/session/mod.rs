//! A tracing session: probes, sweeps, reconciling, and the report they lead to.

mod census;
pub mod cohorts;
mod ends;
pub mod latest_request;
mod lifetimes;
mod losses;
mod observed;
mod peers;
pub mod pending_stacks;
pub mod processes;
mod report;
pub mod requests;
mod responses;
mod saved;
mod stack_ring;
pub mod stacks;
mod start;
mod surroundings;
pub mod sweep;
mod target;
mod told;

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::RawFd,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tracer_ebpf::{
    Config, CopySizeKey, RUNTIME_FRAMES_MAX, RuntimeFrame, Shape, StackCopy, WHEN_EXEC,
};

use self::stacks::Stacks;
pub use self::surroundings::{BTF, Surroundings};
use crate::{
    engine::{Engine, Settings},
    kernel::probes::Probes,
    model::CohortId,
    procs::{
        self, Clock, Presence,
        clock::{monotonic_ns, thread_cpu_ns},
    },
    recording::Tape,
    runtimes::{self, Runtimes, Wishes},
    unwind::trie::{Learned, shape_index},
};

/// Most sockets tracked at one time where nothing else is said; about 45 MB of kernel memory when
/// all are in use.
pub const MAX_SOCKETS: u32 = 262_144;

/// Whom to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every process of the host.
    Host,
    /// These processes (host pids) and whatever they fork.
    Processes(Vec<u32>),
    /// The processes below a cgroup directory.
    Cgroup(PathBuf),
}

/// How to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whom.
    pub target: Target,
    /// Force one of [`crate::kernel::plan::BACKENDS`]; for tests.
    pub backend: Option<String>,
    /// Parts to leave out: the events `send` and `receive`, request `heads`, `stacks`; for
    /// measuring.
    pub without: Vec<String>,
    /// Sit on every system call of the host where nothing else observes sends, receives and
    /// accepts; its cost is measured.
    pub trace_syscalls: bool,
    /// Most sockets tracked at one time.
    pub max_sockets: u32,
    /// The user's rules of blame, which come before the built-in ones.
    pub rules: Vec<crate::symbols::blame::Rule>,
    /// Directories with split debug information (`.build-id` in them), looked into before
    /// `/usr/lib/debug`.
    pub debug_directories: Vec<PathBuf>,
    /// Ask Java programs for the names of their compiled code.
    pub ask_jvms: bool,
    /// Kernel type information to use in place of `/sys/kernel/btf/vmlinux`.
    pub btf: Option<PathBuf>,
    /// Directory on a BPF file system where maps and links are kept beyond the end of this
    /// process.
    pub pin: Option<PathBuf>,
    /// Where to record what the engine is told. Reports have no examples of requests then, because
    /// a recording has none.
    pub record: Option<Tape>,
}

/// Why a session could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// The kernel, the architecture or the privileges do not allow it: exit status 3.
    #[error("{0}")]
    Unsupported(String),
    /// The target does not exist or can't be resolved: exit status 2.
    #[error("{0}")]
    Target(String),
    /// Anything else: exit status 1.
    #[error("{0}")]
    Failed(String),
}

/// How things stand, for a progress line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// Live sockets tracked.
    pub sockets: u64,
    /// Cohorts that may become findings.
    pub candidates: u64,
    /// Processes of the target that are alive; 0 ends a watch of processes.
    pub processes: u64,
}

/// How the tracer itself is doing, for `/metrics`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Health {
    /// Kernel maps: name, entries in use, capacity.
    pub maps: Vec<(String, u64, u64)>,
    /// Attached programs: name, time spent in them (nanoseconds) and runs, both 0 unless the
    /// kernel keeps statistics (`kernel.bpf_stats_enabled`).
    pub programs: Vec<(String, u64, u64)>,
    /// Lifetimes of connections that ended: upper bound of the bucket in seconds and how many
    /// ended within it and above the bound before; bounds ascending.
    pub lifetimes: Vec<(f64, u64)>,
    /// Sum of those lifetimes, seconds.
    pub lifetime_sum_seconds: f64,
}

/// A running session. All methods are synchronous and are called from one thread.
#[derive(Debug)]
pub struct Session {
    surroundings: Surroundings,
    pub(crate) probes: Probes,
    pub(crate) copies: stack_ring::Copies,
    pub(crate) target: target::Watched,
    pub(crate) stacks: Stacks,
    pub(crate) engine: Engine,
    pub(crate) people: processes::People,
    pub(crate) told: told::ToldOf,
    pub(crate) runtimes: Runtimes,
    pub(crate) cohorts: cohorts::Cohorts,
    pub(crate) requests: requests::Interner<crate::protocols::Request>,
    pub(crate) live: latest_request::Live,
    pub(crate) tickets: pending_stacks::Tickets,
    /// Processes whose interpreted frames the kernel can find.
    pub(crate) planned: HashSet<u32>,
    pub(crate) ends: ends::Ends,
    /// Cohorts chosen for what sockets have in common.
    pub(crate) chosen: HashMap<sweep::Facts, CohortId>,
    pub(crate) totals: sweep::Totals,
    /// Sockets removed by reconciling.
    pub(crate) healed: u64,
    pub(crate) gaps: losses::Gaps,
    /// Findings of earlier reports.
    pub(crate) lives: crate::findings::Lives,
    pub(crate) saving: saved::Saving,
    /// Processes that ended, whose stacks are kept while somebody holds a socket of theirs.
    pub(crate) ended: HashSet<u32>,
    pub(crate) clock: Clock,
    pub(crate) started_ns: u64,
    /// Number of the last descriptor scan.
    pub(crate) scan: u32,
    pub(crate) scan_began_ns: u64,
    pub(crate) next_sweep_ns: u64,
    pub(crate) next_scan_ns: u64,
    /// Processes of the target at the last sweep; none where it is the host.
    pub(crate) alive: Vec<u32>,
    /// When the last process of the target ended: what was seen until then is kept as it was.
    pub(crate) frozen_ns: Option<u64>,
    pub(crate) tape: Option<Tape>,
}

/// Processes with a plan at one time: the capacity of the kernel's map.
const PLANS_MAX: usize = 2_048;
pub(crate) const SECOND_NS: u64 = 1_000_000_000;
/// Shortest time between sweeps.
const SWEEP_EVERY_NS: u64 = SECOND_NS / 2;
/// Shortest time between descriptor scans.
const SCAN_EVERY_NS: u64 = 3 * SECOND_NS;
/// Longest time between sweeps that are cheap.
const SWEEP_WITHIN_NS: u64 = SECOND_NS;
/// The same while no connection lasts.
const IDLE_SWEEP_WITHIN_NS: u64 = 2 * SECOND_NS;
/// Scans may take one part in this many of the time, and sweeps four times as much.
const DUTY: u64 = 100;
/// Sweeps that take more than one part in this many of the time are put off, up to
/// [`SWEEP_WITHIN_NS`] or [`IDLE_SWEEP_WITHIN_NS`]: they walk over the kernel's whole table, however few sockets are in it.
const LEISURE: u64 = 1000;

impl Session {
    /// Attaches the probes and takes the baseline of sockets that are already open.
    ///
    /// # Errors
    /// [`StartError`]; nothing stays attached.
    pub fn start(options: Options) -> Result<Session, StartError> {
        let mut config = Config {
            copies_per_second: 200,
            own_tgid: std::process::id(),
            follow_forks: 1,
            ..Config::default()
        };
        let has = |part: &str| u32::from(!options.without.iter().any(|without| without == part));
        config.want_heads = has("heads");
        config.want_stacks = has("stacks") * (1 + has("request-stacks"));
        // After a command that we start ourselves was forked, which must not inherit it.
        procs::raise_descriptor_limit();
        let surroundings = Surroundings::read(options.btf.as_deref());
        let target = target::filter(&options.target, &mut config)?;
        let mut probes = start::load(&options, config)?;
        let copies = probes
            .stack_copies()
            .map_err(|e| StartError::Unsupported(e.to_string()))?;
        let copies = stack_ring::Copies::start(copies)
            .map_err(|e| StartError::Failed(format!("stacks can't be received: {e}")))?;
        target.enlist(&options.target, &probes);
        let blame = Arc::new(runtimes::blame(options.rules));
        let mut runtimes = Runtimes::new(Wishes {
            ask_jvms: options.ask_jvms,
            without_go: has("go") == 0,
        });
        runtimes
            .begin(&mut probes, &blame)
            .map_err(|e| StartError::Unsupported(e.to_string()))?;
        let now_ns = monotonic_ns();
        let mut session = Session {
            surroundings,
            probes,
            copies,
            target,
            stacks: Stacks::new(stacks::Limits::default())
                .with_blame(Arc::clone(&blame))
                .with_debug_directories(options.debug_directories),
            engine: Engine::new(Settings::default()),
            people: processes::People::default(),
            told: told::ToldOf::default(),
            runtimes,
            cohorts: cohorts::Cohorts::default(),
            requests: requests::Interner::new(),
            live: latest_request::Live::default(),
            tickets: pending_stacks::Tickets::default(),
            planned: HashSet::new(),
            ends: ends::Ends::default(),
            chosen: HashMap::new(),
            totals: sweep::Totals::default(),
            healed: 0,
            gaps: losses::Gaps::default(),
            lives: crate::findings::Lives::default(),
            saving: saved::Saving::default(),
            ended: HashSet::new(),
            clock: Clock::now(),
            started_ns: now_ns,
            scan: 0,
            scan_began_ns: 0,
            next_sweep_ns: 0,
            next_scan_ns: 0,
            alive: Vec::new(),
            frozen_ns: None,
            tape: options.record,
        };
        if let Some(tape) = session.tape.clone() {
            session.engine.observed_by(Box::new(tape));
        }
        session.resume();
        let failed = |e: io::Error| StartError::Failed(format!("the first scan failed: {e}"));
        // listening ports first: they tell accepted sockets from connecting ones
        session.probes.run_scan(0).map_err(failed)?;
        session.pin_processes();
        session.tick().map_err(StartError::Failed)?;
        Ok(session)
    }

    /// What every system call of the host pays for this session, as a sentence.
    #[must_use]
    pub fn syscall_tax(&self) -> Option<String> {
        self.probes.syscall_tax().map(|tax| tax.to_string())
    }

    /// Takes over from an earlier daemon, where its maps are pinned.
    fn resume(&mut self) {
        let Some(pins) = self.probes.pins() else {
            return;
        };
        let directory = pins.directory().display().to_string();
        if pins.replaced() {
            tracing::info!(
                "the pins of an earlier daemon are of another version, size or target; replaced"
            );
        }
        if !pins.resumed() {
            tracing::info!("collecting anew; pinned in {directory}");
            return;
        }
        self.scan = self.probes.last_scan();
        self.planned = self
            .probes
            .plans
            .keys()
            .unwrap_or_default()
            .into_iter()
            .collect();
        let known = self.restore();
        tracing::info!(known, "collecting on from {directory}");
    }

    /// Descriptor that becomes readable when [`Session::tick`] has something to do at once.
    #[must_use]
    pub fn wake_fd(&self) -> RawFd {
        self.copies.wake_fd()
    }

    /// Takes in what is waiting and sweeps when it is time; returns how long to wait, at most,
    /// before the next call.
    ///
    /// # Errors
    /// A message when the kernel side stopped working.
    pub fn tick(&mut self) -> Result<Duration, String> {
        self.take_stacks();
        let now_ns = monotonic_ns();
        if now_ns >= self.next_sweep_ns {
            let scan = now_ns >= self.next_scan_ns;
            self.round(scan)
                .map_err(|e| format!("reading the kernel's maps failed: {e}"))?;
        }
        let left = self.next_sweep_ns.saturating_sub(monotonic_ns());
        Ok(Duration::from_nanos(left))
    }

    /// One sweep, after a descriptor scan if asked; sets when the next ones are due.
    fn round(&mut self, scan: bool) -> io::Result<()> {
        self.target.refresh(&self.probes);
        self.alive = self.target.alive(&self.probes);
        if self.alive.is_empty() && !self.target.is_host() {
            self.frozen_ns.get_or_insert_with(monotonic_ns);
        }
        let (began_ns, began_cpu_ns) = (monotonic_ns(), thread_cpu_ns());
        if scan {
            self.scan = self.scan.wrapping_add(1).max(1);
            self.scan_began_ns = began_ns;
            self.gaps.heal_targets(&self.target, &self.probes);
            let lost_before = losses::dropped(&self.probes);
            match self.probes.run_scan(self.scan) {
                Ok(unstored) => self.gaps.scanned(unstored, lost_before),
                // The next one makes up for it.
                Err(error) if procs::is_shortage(&error) => {
                    tracing::warn!("descriptors could not be scanned: {error}");
                }
                Err(error) => return Err(error),
            }
            self.forget_ended();
            let cost_ns = thread_cpu_ns().saturating_sub(began_cpu_ns);
            self.next_scan_ns = began_ns + SCAN_EVERY_NS.max(cost_ns * DUTY);
        }
        self.take_stacks();
        if scan {
            self.runtimes.scanned(&self.stacks.unnamed());
            if self.stacks.look_for_names() {
                self.chosen.clear();
            }
        }
        self.follow_runtimes(scan);
        if self.frozen_ns.is_none() {
            self.sweep(monotonic_ns(), scan)?;
        }
        let cost_ns = thread_cpu_ns().saturating_sub(began_cpu_ns);
        let within_ns = match self.totals.lasting {
            0 => IDLE_SWEEP_WITHIN_NS,
            _ => SWEEP_WITHIN_NS,
        };
        let leisurely = (cost_ns * LEISURE).clamp(SWEEP_EVERY_NS, within_ns);
        self.next_sweep_ns = began_ns + leisurely.max(cost_ns * DUTY / 4);
        self.save_if_due();
        Ok(())
    }

    /// Unwinds the stack copies that came in, and teaches the kernel their call paths.
    fn take_stacks(&mut self) {
        // one at a time: what is learned from a copy goes back into the kernel's maps
        while let Some(record) = self.copies.next() {
            self.take_stack(&record);
        }
    }

    fn take_stack(&mut self, record: &[u8]) {
        let Some((head, rest)) = record.split_at_checked(size_of::<StackCopy>()) else {
            return;
        };
        let Ok(copy) = tracer_ebpf::decode::<StackCopy>(head) else {
            return;
        };
        if copy.when == u32::from(WHEN_EXEC) {
            self.forget_program(copy.tgid);
            self.stacks.executed(copy.tgid);
            return;
        }
        let Some((found, bytes)) = runtime_frames(&copy, rest) else {
            return;
        };
        let taken = match self.plan(copy.tgid) {
            true => self.stacks.take_first(&mut self.runtimes, &copy, bytes),
            false => (self.stacks).take(&mut self.runtimes, &copy, bytes, &found),
        };
        self.tickets.redeem(copy.sk, copy.ticket, taken.id);
        self.saving.learned = true;
        self.teach(&taken.learned);
        if let Some(bytes) = taken.want_bytes {
            let key = CopySizeKey {
                ip: copy.ip,
                tgid: copy.tgid,
                pad: 0,
            };
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            let known = self.probes.copy_sizes.get(&key).ok().flatten();
            let bytes = bytes.max(known.unwrap_or_default());
            let _ = self.probes.copy_sizes.set(&key, &bytes);
        }
    }

    /// Tells the kernel how to recognize a call path.
    fn teach(&self, learned: &Learned) {
        let told = || -> io::Result<()> {
            for (key, value) in &learned.entries {
                self.probes.trie.set(key, value)?;
            }
            match &learned.shape {
                Some(shape) => self.probes.shapes.set(&shape_index(shape), shape),
                None => Ok(()),
            }
        };
        if let Err(error) = told() {
            tracing::debug!(%error, "a call path could not be taught to the kernel");
        }
    }

    /// Lets go of what is known of processes that have ended, so that their numbers and the room
    /// they take can be used again.
    fn forget_ended(&mut self) {
        for (pid, reused) in self.people.ended() {
            if reused {
                self.forget_addresses(pid);
                self.chosen.retain(|facts, _| facts.tgid() != pid);
            } else {
                self.ended.insert(pid);
            }
        }
        let openers = &self.totals.openers;
        let gone = self.ended.extract_if(|pid| !openers.contains(pid));
        for pid in gone.collect::<Vec<_>>() {
            self.forget_addresses(pid);
            self.chosen.retain(|facts, _| facts.tgid() != pid);
        }
    }

    /// The process runs another program now: nothing known of its addresses holds any more.
    fn forget_program(&mut self, pid: u32) {
        self.people.forget(pid);
        self.chosen
            .retain(|facts, _| facts.tgid() != pid || facts.has_stack());
        self.forget_addresses(pid);
    }

    fn forget_addresses(&mut self, pid: u32) {
        self.planned.remove(&pid);
        let _ = self.probes.plans.remove(&pid);
        self.runtimes.forget(pid);
        let forgotten = self.stacks.forget_process(pid);
        for key in forgotten.keys {
            let _ = self.probes.trie.remove(&key);
        }
        for index in forgotten.shapes {
            let _ = self.probes.shapes.set(&index, &Shape::default());
        }
    }

    /// Tells the kernel how to find the interpreted frames of a process; `true` when it learns it
    /// now.
    fn plan(&mut self, pid: u32) -> bool {
        if self.planned.contains(&pid) {
            return false;
        }
        let Some(plan) = self.runtimes.plan(pid, self.stacks.modules()) else {
            return false;
        };
        if self.planned.len() >= PLANS_MAX {
            self.planned
                .retain(|&pid| Presence::of(pid) != Presence::Ended);
        }
        self.planned.insert(pid);
        if let Err(error) = self.probes.plans.set(&pid, &plan) {
            tracing::debug!(pid, %error, "interpreted frames can't be asked for");
        }
        true
    }

    /// Opens the executables of the processes named, while they are there.
    fn pin_processes(&mut self) {
        let pids = self.probes.targets.keys().unwrap_or_default();
        for &pid in &pids {
            self.people.get(pid);
            self.stacks.pin(pid);
            self.plan(pid);
        }
    }

    /// How things stand as of the last tick.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            sockets: self.totals.open,
            candidates: self.engine.candidates(),
            processes: if self.target.is_host() {
                1
            } else {
                self.alive.len() as u64
            },
        }
    }

    /// Scans, sweeps and leaves everything as fresh as it can be, for an answer.
    fn refresh(&mut self) -> Result<(), String> {
        self.take_stacks();
        self.round(true)
            .map_err(|e| format!("reconciling with the kernel's lists failed: {e}"))
    }
}

/// The interpreted frames of a copy and the stack bytes behind them; `None` when the record is short.
fn runtime_frames<'a>(copy: &StackCopy, record: &'a [u8]) -> Option<(Vec<RuntimeFrame>, &'a [u8])> {
    const EACH: usize = size_of::<RuntimeFrame>();
    let (frames, bytes) = record.split_at_checked(RUNTIME_FRAMES_MAX * EACH)?;
    let frames = frames
        .chunks_exact(EACH)
        .take(copy.found_frames as usize)
        .filter_map(|frame| tracer_ebpf::decode(frame).ok())
        .collect();
    Some((frames, bytes))
}
