//! A report held against an earlier one.

use serde::{Deserialize, Serialize};

use super::CallSite;
use crate::model::Kind;

/// A report against an earlier one; every list holds ids of findings.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Comparison {
    /// File of the earlier report.
    pub file: String,
    /// Found now, not then.
    pub new: Vec<String>,
    /// Found then, not now.
    pub gone: Vec<String>,
    /// What those were, in the same order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone_findings: Vec<GoneFinding>,
    /// Grows markedly faster than then.
    pub faster: Vec<String>,
    /// Grows markedly slower than then.
    pub slower: Vec<String>,
    /// Found both times, at about the same growth.
    pub unchanged: Vec<String>,
}

/// A finding of an earlier report that is not found any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GoneFinding {
    /// Its id then.
    pub id: String,
    /// Its kind.
    pub kind: Kind,
    /// Whom it blamed.
    pub call_site: Option<CallSite>,
    /// URL, or address, of the other end.
    pub remote: String,
    /// Outlived connections then.
    pub outlived: u64,
}
