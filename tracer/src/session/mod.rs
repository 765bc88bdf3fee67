//! A tracing session: probes, sweeps, reconciling, and the report they lead to.

mod beside;
mod call_paths;
mod cohorts;
mod ends;
mod facts;
mod greetings;
mod interner;
mod latest_requests;
mod lifetimes;
mod losses;
mod observed;
mod opted_out;
mod options;
mod peers;
mod pending_stacks;
mod processes;
mod records;
mod report;
mod requests;
mod resolved;
mod resources;
mod responses;
mod rows;
mod saved;
mod schedule;
mod sockets;
mod stack_ring;
pub mod stacks;
mod start;
mod streams;
mod surroundings;
mod survey;
mod suspects;
mod target;
mod tls_streams;
mod told;

use std::{io, os::fd::RawFd, sync::Arc, time::Duration};

use thiserror::Error;
use tracer_ebpf::Config;

use self::{
    beside::Beside,
    call_paths::{CallPaths, Came},
    losses::Losses,
    opted_out::OptedOut,
    processes::Processes,
    requests::Requests,
    saved::{Kept, Saving},
    schedule::Schedule,
    sockets::Sockets,
    stacks::Stacks,
    streams::Streams,
    survey::Survey,
    target::Watch,
};
pub use self::{
    options::{MAX_SOCKETS, Options, Target},
    surroundings::{BTF, Surroundings},
};
use crate::{
    engine::{Engine, Settings},
    findings::Lives,
    kernel::probes::Probes,
    procs::{
        self, Clock,
        clock::{monotonic_ns, thread_cpu_ns},
    },
    recording::Tape,
    runtimes::{self, Runtimes, Wishes},
    wiping,
};

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
    /// Populations with open connections.
    pub populations: u64,
    /// Those that may become findings.
    pub candidates: u64,
    /// Processes of the target that are alive; 0 ends a watch of processes.
    pub processes: u64,
}

/// The population that would be the first to become a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leading {
    /// The function of its call site, else its remote.
    pub name: String,
    /// Its connections that are past the end of their request.
    pub outlived: u64,
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

/// Why a running session can't go on, or can't answer.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The kernel side stopped working.
    #[error("reading the kernel's maps failed: {0}")]
    Maps(io::Error),
    /// A scan or sweep for an answer failed.
    #[error("reconciling with the kernel's lists failed: {0}")]
    Reconcile(io::Error),
}

/// Time for stack copies at once.
const TAKE_NS: u64 = 500_000_000;

/// A running session. All methods are synchronous and are called from one thread.
///
/// It conducts: what there is to know is kept by its parts.
#[derive(Debug)]
pub struct Session {
    surroundings: Surroundings,
    probes: Probes,
    watch: Watch,
    paths: CallPaths,
    processes: Processes,
    requests: Requests,
    streams: Streams,
    sockets: Sockets,
    runtimes: Runtimes,
    engine: Engine,
    losses: Losses,
    /// Findings of earlier reports.
    lives: Lives,
    opted_out: OptedOut,
    schedule: Schedule,
    saving: Saving,
    clock: Clock,
    started_ns: u64,
    /// Where what the engine is told is recorded.
    tape: Option<Tape>,
}

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
        let rings = start::rings(&mut probes)?;
        target.enlist(&options.target, &probes);
        let blame = Arc::new(runtimes::blame(options.rules));
        let mut runtimes = Runtimes::new(Wishes {
            ask_jvms: options.ask_jvms,
            without_go: has("go") == 0,
            without_tls: has("tls") == 0,
        });
        runtimes
            .begin(&mut probes, &blame)
            .map_err(|e| StartError::Unsupported(e.to_string()))?;
        let stacks = Stacks::new(stacks::Limits::default())
            .with_blame(Arc::clone(&blame))
            .with_debug_directories(options.debug_directories)
            .with_patience(options.patient);
        let annotated = options.cluster.is_some();
        let mut session = Session {
            surroundings,
            probes,
            watch: Watch::new(target),
            paths: CallPaths::new(rings.stacks, stacks),
            processes: Processes::below(options.host_root, options.cluster),
            requests: Requests::new(
                options.examples,
                rings.greetings,
                rings.resolved,
                options.remotes,
            ),
            streams: rings.streams,
            sockets: Sockets::default(),
            runtimes,
            engine: Engine::new(Settings::default()),
            losses: Losses::default(),
            lives: Lives::default(),
            opted_out: OptedOut::of(options.opted_out, annotated),
            schedule: Schedule::default(),
            saving: Saving::default(),
            clock: Clock::now(),
            started_ns: monotonic_ns(),
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
        session
            .tick()
            .map_err(|e| StartError::Failed(e.to_string()))?;
        Ok(session)
    }

    /// What every system call of the host pays for this session, as a sentence.
    #[must_use]
    pub fn syscall_overhead(&self) -> Option<String> {
        self.probes
            .syscall_overhead()
            .map(|overhead| overhead.to_string())
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
        self.sockets.scan.number = self.probes.last_scan();
        self.paths.resume(&self.probes);
        let (mut kept, _, probes) = self.kept();
        let known = kept.restore(probes);
        tracing::info!(known, "collecting on from {directory}");
    }

    /// Descriptor that becomes readable when [`Session::tick`] has something to do at once.
    #[must_use]
    pub fn wake_fd(&self) -> RawFd {
        self.paths.wake_fd()
    }

    /// Takes in what is waiting and sweeps when it is time; returns how long to wait, at most,
    /// before the next call.
    ///
    /// # Errors
    /// When the kernel side stopped working.
    pub fn tick(&mut self) -> Result<Duration, SessionError> {
        self.take_stacks();
        let now_ns = monotonic_ns();
        if self.schedule.sweep_is_due(now_ns) {
            let scan = self.schedule.scan_is_due(now_ns);
            self.round(scan, None).map_err(SessionError::Maps)?;
        }
        Ok(self.schedule.wait(monotonic_ns()))
    }

    /// Scans and sweeps, so that everything is as fresh as it can be for an answer: the one pass
    /// over the kernel's sockets that is made for it fills the survey.
    fn refresh(&mut self, survey: &mut Survey) -> Result<(), SessionError> {
        self.take_stacks();
        self.round(true, Some(survey))
            .map_err(SessionError::Reconcile)
    }

    /// One sweep, after a descriptor scan if asked; sets when the next ones are due.
    fn round(&mut self, scan: bool, survey: Option<&mut Survey>) -> io::Result<()> {
        self.watch.refresh(&self.probes);
        let (began_ns, began_cpu_ns) = (monotonic_ns(), thread_cpu_ns());
        let spent_ns = || thread_cpu_ns().saturating_sub(began_cpu_ns);
        if scan {
            self.scan(began_ns)?;
            self.schedule.scanned(began_ns, spent_ns());
        }
        self.take_stacks();
        if scan {
            self.runtimes.scanned(&self.paths.stacks.unnamed());
            if self.paths.stacks.look_for_names() {
                self.sockets.choose_anew();
            }
        }
        self.follow_runtimes(scan);
        if self.watch.frozen_ns().is_none() {
            self.sweep(monotonic_ns(), scan, survey)?;
        } else if let Some(survey) = survey {
            let (mut beside, sockets, engine) = self.parts();
            sockets.look(&mut beside, engine, survey)?;
        }
        let wanted = self.sockets.connects_unix;
        self.probes.weigh_readable(monotonic_ns(), wanted);
        let lasting = self.sockets.totals.lasting > 0;
        self.schedule.swept(began_ns, spent_ns(), lasting);
        self.save_if_due();
        Ok(())
    }

    /// Has the kernel visit every descriptor of the target.
    fn scan(&mut self, now_ns: u64) -> io::Result<()> {
        let scan = self.sockets.scan.next(now_ns);
        self.sockets.scan = scan;
        self.losses.heal_targets(self.watch.target(), &self.probes);
        let lost_before = losses::dropped(&self.probes);
        match self.probes.run_scan(scan.number) {
            Ok(unstored) => self.losses.scanned(unstored, lost_before),
            // The next one makes up for it.
            Err(error) if procs::is_shortage(&error) => {
                tracing::warn!("descriptors could not be scanned: {error}");
            }
            Err(error) => return Err(error),
        }
        for pid in self.processes.gone(&self.sockets.totals.openers) {
            self.paths.forget(pid, &mut self.runtimes, &self.probes);
            self.sockets.forget_process(pid);
        }
        Ok(())
    }

    /// Shows everything to the engine. `reconciled` after a descriptor scan.
    fn sweep(
        &mut self,
        now_ns: u64,
        reconciled: bool,
        survey: Option<&mut Survey>,
    ) -> io::Result<()> {
        self.requests.latest.begin();
        self.paths.pending.begin();
        self.saving.learned |= self.requests.take_heads(&self.probes)?;
        self.streams.take(&mut self.requests, &self.probes.socks)?;
        let told = &mut self.sockets.told;
        told.refresh(
            &mut self.runtimes,
            &mut self.requests.interner,
            &self.probes.socks,
        )?;
        wiping::stack();
        self.runtimes.begin_sweep();
        let (mut beside, sockets, engine) = self.parts();
        engine.begin_sweep(now_ns, reconciled);
        let (lost, totals) = sockets.pass(&mut beside, engine, now_ns, reconciled, survey)?;
        if self.watch.has_ended(&self.probes) {
            // the target ended while it was looked at: what was seen before stays as it was
            return Ok(());
        }
        let followed = (self.streams).open(&self.requests.interner, &mut self.paths.pending)?;
        let (mut beside, sockets, engine) = self.parts();
        sockets.show_streams(&mut beside, engine, followed, now_ns)?;
        beside.requests.latest.end();
        beside.paths.pending.end();
        sockets.remove_lost(beside.probes, &lost)?;
        sockets.show_ended(&mut beside, engine)?;
        engine.end_sweep();
        sockets.end_sweep(totals, engine);
        Ok(())
    }

    /// Unwinds the stack copies that came in, and teaches the kernel their call paths.
    fn take_stacks(&mut self) {
        // the rest waits in the ring and wakes the session again: whoever asks must not wait for those
        // who connect without end
        let until_ns = monotonic_ns() + TAKE_NS;
        // one at a time: what is learned from a copy goes back into the kernel's maps
        while monotonic_ns() < until_ns
            && let Some(record) = self.paths.next()
        {
            match self.paths.take(&record, &mut self.runtimes, &self.probes) {
                Came::Nothing => {}
                Came::Stack => self.saving.learned = true,
                Came::Executed(pid) => {
                    self.processes.forget(pid);
                    self.sockets.forget_program(pid);
                    self.paths.forget(pid, &mut self.runtimes, &self.probes);
                    self.paths.stacks.executed(pid);
                }
            }
        }
    }

    /// Shows the processes in view to the runtimes. `scan`: look for new processes of the whole
    /// host, too.
    fn follow_runtimes(&mut self, scan: bool) {
        let all;
        let pids = if self.watch.target().is_host() {
            if !scan {
                return;
            }
            // Who can't be listed now has not ended.
            let Ok(pids) = procs::all() else { return };
            all = pids;
            &all
        } else {
            self.watch.alive()
        };
        let modules = self.paths.stacks.modules();
        let found = self.runtimes.follow(pids, modules, &mut self.probes);
        for (pid, version) in found {
            self.processes.set_runtime(pid, &version);
        }
    }

    /// Opens the executables of the processes named, while they are there.
    fn pin_processes(&mut self) {
        for pid in self.probes.targets.keys().unwrap_or_default() {
            self.processes.get(pid);
            self.paths.pin(pid, &mut self.runtimes, &self.probes);
        }
    }

    /// Saves what the session knows, where maps are pinned and it is time.
    fn save_if_due(&mut self) {
        if self.saving.is_due(monotonic_ns()) {
            self.save();
        }
    }

    fn save(&mut self) {
        let (mut kept, saving, probes) = self.kept();
        saving.save(&mut kept, probes);
    }

    /// What says of a socket what it is about, and what it is shown to.
    fn parts(&mut self) -> (Beside<'_>, &mut Sockets, &mut Engine) {
        let beside = Beside {
            probes: &self.probes,
            processes: &mut self.processes,
            paths: &mut self.paths,
            requests: &mut self.requests,
            runtimes: &mut self.runtimes,
        };
        (beside, &mut self.sockets, &mut self.engine)
    }

    /// What outlives the session, when it is saved, and the kernel's maps beside it.
    fn kept(&mut self) -> (Kept<'_>, &mut Saving, &Probes) {
        let kept = Kept {
            started_ns: &mut self.started_ns,
            clock: &mut self.clock,
            paths: &mut self.paths,
            requests: &mut self.requests,
            processes: &mut self.processes,
            sockets: &mut self.sockets,
            engine: &mut self.engine,
        };
        (kept, &mut self.saving, &self.probes)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.save();
    }
}
