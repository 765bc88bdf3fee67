//! What a daemon says of itself and of how its findings went, and what is said of several.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Coverage, TimelinePoint};

/// What `/v1/overview` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Overview {
    /// Version of the layout.
    #[cfg_attr(test, schemars(extend("const" = super::SCHEMA)))]
    pub schema: u32,
    /// When it was asked for.
    pub observed_at: Timestamp,
    /// Name of the host.
    pub host: String,
    /// Version of tracer.
    pub version: String,
    /// Who is watched, such as `every process` or `shop (pid 4711), with what it starts`.
    pub watched: String,
    /// How the worst findings went, in few points.
    pub timelines: Vec<FindingTimeline>,
}

/// How one finding went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FindingTimeline {
    /// Of the finding.
    pub id: String,
    /// Its counts, oldest first.
    pub points: Vec<TimelinePoint>,
}

/// One of several daemons asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Node {
    /// How it was reached.
    pub endpoint: String,
    /// What it could see.
    pub coverage: Option<Coverage>,
    /// Why it did not answer.
    pub error: Option<String>,
}
