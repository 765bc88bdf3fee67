//! What could be seen, and what could not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What could be seen, and what could not.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Coverage {
    /// The weakest hook backend in use: `syscalls`, `raw_tracepoint`, `tracepoint`, `kprobe` or
    /// `fentry`.
    pub backend: String,
    /// Backend in use per event; `none` where nothing could be attached.
    pub hooks: BTreeMap<String, String>,
    /// Attached programs.
    pub attached: Vec<String>,
    /// What is not seen, and why, as sentences.
    pub degraded: Vec<String>,
    /// What programs and clients put before the tracer and was refused, since it began; empty where
    /// nothing was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
    /// Events lost and not healed.
    pub lost_events: u64,
    /// Losses by cause since the start, healed or not.
    #[serde(default)]
    pub losses: BTreeMap<String, u64>,
    /// Sockets that came into view.
    #[serde(default)]
    pub sockets_seen: u64,
    /// Sockets folded away at their end.
    #[serde(default)]
    pub sockets_folded: u64,
    /// Live sockets tracked now.
    pub sockets_tracked: u64,
    /// Live sockets whose owner or stack is unknown.
    pub sockets_unattributed: u64,
}

/// Something that was refused, for its size, its number, or because it makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Refused {
    /// What: `executable`, `debug_information`, `perf_map`, `client` and the like.
    pub what: String,
    /// Why: `too_large`, `too_slow`, `nonsense` and the like.
    pub reason: String,
    /// How often.
    pub count: u64,
}
