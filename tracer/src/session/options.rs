//! How to watch, and whom.

use std::path::PathBuf;

use crate::{
    cluster::{Cluster, Remotes},
    recording::Tape,
    symbols::blame::Rule,
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
    pub rules: Vec<Rule>,
    /// Directories with split debug information (`.build-id` in them), looked into before
    /// `/usr/lib/debug`.
    pub debug_directories: Vec<PathBuf>,
    /// The root of the host, below which names of pods are looked for; `None` for that of its first
    /// process.
    pub host_root: Option<PathBuf>,
    /// What the API server tells of this node's pods, where it is asked.
    pub cluster: Option<Cluster>,
    /// What it tells of remote addresses, where it is asked.
    pub remotes: Option<Remotes>,
    /// Namespaces whose pods are left alone.
    pub opted_out: Vec<String>,
    /// Ask Java programs for the names of their compiled code.
    pub ask_jvms: bool,
    /// Keep requests as examples; else their routes only.
    pub examples: bool,
    /// Wait longer for names, because there is one report only, at the end; a daemon gives them later.
    pub patient: bool,
    /// Kernel type information to use in place of `/sys/kernel/btf/vmlinux`.
    pub btf: Option<PathBuf>,
    /// Directory on a BPF file system where maps and links are kept beyond the end of this
    /// process.
    pub pin: Option<PathBuf>,
    /// Where to record what the engine is told. Reports have no examples of requests then, because
    /// a recording has none.
    pub record: Option<Tape>,
}
