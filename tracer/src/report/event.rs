//! What others are told when a finding's life changes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Finding;

/// What a webhook gets, one for each change in a finding's life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Event {
    /// Version of the layout.
    #[cfg_attr(test, schemars(extend("const" = super::SCHEMA)))]
    pub schema: u32,
    /// The finding's id and the change, of all but `new` with the moment too, as these may happen again.
    /// The same for every attempt to deliver the event: what has this key and this host is the same event.
    pub key: String,
    /// What has changed.
    pub change: Change,
    /// When it was seen.
    pub at: Timestamp,
    /// Name of the host.
    pub host: String,
    /// Name of the cluster's node, where the daemon was told it.
    #[serde(default)]
    pub node: Option<String>,
    /// Version of tracer.
    pub version: String,
    /// The finding as it is now, without examples of requests.
    pub finding: Finding,
}

/// A change in a finding's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is there, with medium or high confidence.
    New,
    /// Twice as many connections as when it was last told of, ten at least, or higher confidence.
    Worse,
    /// It is over: the connections were closed, or it turned out to be none.
    Resolved,
    /// It was over, and is there again.
    Back,
}

impl Change {
    /// Its name, as JSON has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Change::New => "new",
            Change::Worse => "worse",
            Change::Resolved => "resolved",
            Change::Back => "back",
        }
    }
}
