//! A tracing session: probes, sweeps, reconciling, and the report they lead to.

use std::{os::fd::RawFd, path::PathBuf, time::Duration};

use thiserror::Error;

use crate::report::{ConnectionList, Coverage, Doctor, Report};

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
    /// Force one backend (`tracepoint`, `fentry`, `kprobe`); for tests.
    pub backend: Option<String>,
    /// Most sockets tracked at one time.
    pub max_sockets: u32,
    /// Kernel type information to use in place of `/sys/kernel/btf/vmlinux`.
    pub btf: Option<PathBuf>,
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
pub struct Session {}

impl Session {
    /// Attaches the probes and takes the baseline of sockets that are already open.
    ///
    /// # Errors
    /// [`StartError`]; nothing stays attached.
    pub fn start(options: Options) -> Result<Session, StartError> {
        Err(StartError::Failed(format!("not built yet: {options:?}")))
    }

    /// Descriptor that becomes readable when [`Session::tick`] has something to do at once.
    #[must_use]
    pub fn wake_fd(&self) -> RawFd {
        -1
    }

    /// Takes in what is waiting and sweeps when it is time; returns how long to wait, at most,
    /// before the next call.
    ///
    /// # Errors
    /// A message when the kernel side stopped working.
    pub fn tick(&mut self) -> Result<Duration, String> {
        Ok(Duration::from_secs(1))
    }

    /// How things stand as of the last tick.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// Reconciles with the kernel's own lists and judges.
    ///
    /// # Errors
    /// A message when reconciling failed.
    pub fn report(&mut self) -> Result<Report, String> {
        Err("not built yet".to_owned())
    }

    /// The open connections, oldest first, at most `limit`.
    ///
    /// # Errors
    /// A message when reconciling failed.
    pub fn connections(&mut self, limit: usize) -> Result<ConnectionList, String> {
        Err(format!("not built yet: {limit}"))
    }

    /// What can and what cannot be seen.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        Coverage::default()
    }

    /// Maps, programs and lifetimes.
    #[must_use]
    pub fn health(&self) -> Health {
        Health::default()
    }

    /// What this kernel allows and what is attached.
    #[must_use]
    pub fn doctor(&self) -> Option<Doctor> {
        None
    }
}
