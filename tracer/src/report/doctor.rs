//! What a kernel allows and what is attached, as `tracer doctor` tells it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What `tracer doctor -o json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Doctor {
    /// Version of the layout.
    #[cfg_attr(test, schemars(extend("const" = super::SCHEMA)))]
    pub schema: u32,
    /// Where several daemons were asked, which one this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Kernel release (`uname -r`).
    pub kernel: String,
    /// Machine architecture.
    pub architecture: String,
    /// Where the kernel's type information comes from, or why there is none.
    pub btf: String,
    /// Lockdown state, when securityfs tells.
    pub lockdown: Option<String>,
    /// Capabilities this process has and needs.
    pub capabilities: Vec<Capability>,
    /// One entry per event, in the order of a connection's life.
    pub events: Vec<EventStatus>,
    /// What is not seen, and why, as sentences.
    pub degraded: Vec<String>,
    /// The identity "seen = live + folded + lost" and its terms, when probes are attached.
    pub accounting: BTreeMap<String, u64>,
    /// `true` when `tracer check` would work here.
    pub usable: bool,
}

/// One Linux capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Capability {
    /// Such as `CAP_BPF`.
    pub name: String,
    /// Effective now.
    pub held: bool,
    /// What does not work without it.
    pub needed_for: String,
}

/// How one event is observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EventStatus {
    /// Event, such as `tcp_open`.
    pub event: String,
    /// Backend chosen: `tracepoint`, `raw_tracepoint`, `fentry`, `kprobe`, `syscalls`, or `none`.
    pub backend: String,
    /// Kernel functions or tracepoints it sits on.
    pub hooks: Vec<String>,
    /// What is lost with this choice against the best one.
    pub lost: Option<String>,
    /// Hooks that were tried or considered and refused.
    pub refused: Vec<Refusal>,
}

/// A hook that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Refusal {
    /// Backend.
    pub backend: String,
    /// Function or tracepoint.
    pub hook: String,
    /// The kernel's answer.
    pub error: String,
    /// What it would have added.
    pub would_add: String,
}
