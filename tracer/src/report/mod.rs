//! The answer as users script against it: the JSON of `check`, `top` and `describe`.
//!
//! Field names and their meaning are a stable contract (`docs/schema/`); fields may be added, none
//! renamed or dropped without a new [`SCHEMA`].

mod comparison;
mod connections;
mod coverage;
mod doctor;
mod event;
mod go;
mod harmless;
mod naming;
mod node;
mod process;
mod resources;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Confidence, Family, Frame, Kind, Owner, Role, Site, StackOf, StackQuality};

pub use comparison::{Comparison, GoneFinding};
pub use connections::{ConnectionList, ConnectionRow};
pub use coverage::{Coverage, Refused};
pub use doctor::{Capability, Doctor, EventStatus, Refusal};
pub use event::{Change, Event};
pub use go::GoInfo;
pub use harmless::harmless;
pub use naming::{NamedBy, Peer};
pub use node::{FindingTimeline, Node, Overview};
pub use process::ProcessInfo;
pub use resources::{EphemeralPorts, Resources};

/// Version of the JSON layout.
pub const SCHEMA: u32 = 1;

/// The overall verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// At least one finding of medium or high confidence.
    Leak,
    /// Nothing was found, and nothing prevented finding it.
    Clean,
    /// It could not be settled; `settle_seconds` and the coverage say why.
    Inconclusive,
}

/// What `tracer check -o json` and `tracer top -o json` print.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Report {
    /// Version of the layout.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA)))]
    pub schema: u32,
    /// The verdict.
    pub verdict: Verdict,
    /// When watching began.
    pub started_at: Timestamp,
    /// How long was watched, seconds.
    pub duration_seconds: f64,
    /// What could and what could not be seen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub coverage: Option<Coverage>,
    /// In place of `coverage` when several daemons were asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub nodes: Option<Vec<Node>>,
    /// Why the verdict is `inconclusive`, as sentences; empty otherwise.
    #[serde(default)]
    pub inconclusive_because: Vec<String>,
    /// Why nothing here can be called clean, whatever the findings: losses, a target that ended too
    /// soon, growth that nothing explains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsettled: Vec<String>,
    /// Watching this much longer, in seconds, would settle it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub settle_seconds: Option<f64>,
    /// The findings, worst first.
    pub findings: Vec<Finding>,
    /// Findings of earlier reports that are over, the latest first: fixed, or taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resolved: Vec<Finding>,
    /// What was watched and is no leak, with the reason; the largest first.
    #[serde(default)]
    pub populations: Vec<Population>,
    /// Findings hidden by the configuration's `ignore` list.
    #[serde(default)]
    pub ignored: u64,
    /// Limits of the watched processes.
    pub resources: Vec<Resources>,
    /// How it differs from an earlier report, where one was given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub baseline: Option<Comparison>,
}

/// Connections that were watched together and are no leak.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Population {
    /// Where several daemons were asked, the one that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// The application's own innermost frame.
    pub call_site: Option<CallSite>,
    /// Host, address and port, or UNIX path of the other end; for servers the listening address.
    pub remote: String,
    /// Client or server.
    pub role: Role,
    /// Open now.
    pub open: u64,
    /// Opened since watching began, and those found open then.
    pub opened: u64,
    /// Closed since watching began.
    pub closed: u64,
    /// Open ones that were used again after their first moments.
    pub reused: u64,
    /// Why it is no leak.
    pub healthy_because: String,
}

/// One leak: the same program, call site, role and remote, on however many instances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Finding {
    /// Stable across restarts and nodes.
    pub id: String,
    /// The kind that names it.
    pub kind: Kind,
    /// Other kinds that fit too.
    pub also: Vec<Kind>,
    /// How sure.
    pub confidence: Confidence,
    /// Client or server.
    pub role: Role,
    /// The worst instance.
    pub process: ProcessInfo,
    /// The application's own innermost frame.
    pub call_site: Option<CallSite>,
    /// All frames, innermost first.
    pub stack: Vec<StackFrame>,
    /// The library that leaks by itself, and its function to change, where the call site is the
    /// application's that called it or is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub library: Option<LibrarySite>,
    /// Who called the function of the call site: a helper leaks for several.
    #[serde(default)]
    pub callers: Vec<Caller>,
    /// The same with the number of leaked connections that each of them made, the most first.
    #[serde(default)]
    pub called_by: Vec<CalledBy>,
    /// The stack that opened the connections, where `stack` is that of a request.
    #[serde(default)]
    pub opener_stack: Vec<StackFrame>,
    /// All instances.
    pub instances: Vec<Instance>,
    /// Listening address, for role server.
    pub local: Option<String>,
    /// How much of the stack is known.
    pub stack_quality: StackQuality,
    /// Which moment the stack shows.
    pub stack_of: Option<StackOf>,
    /// The other end.
    pub remote: RemoteInfo,
    /// Counts.
    pub connections: Connections,
    /// Requests carried by the cohort's connections.
    pub requests: u64,
    /// Outlived connections per request.
    pub leaked_per_request: f64,
    /// Growth of outlived connections per minute.
    pub growth_per_minute: f64,
    /// Period of bursts in which the leaked connections were opened, seconds.
    pub burst_period_seconds: Option<f64>,
    /// When the oldest open connection was opened.
    pub oldest_opened_at: Option<Timestamp>,
    /// Status codes of the responses on the leaked connections, where their heads could be read.
    #[serde(default)]
    pub responses: Vec<ResponseCount>,
    /// What it has been doing since it was first seen.
    #[serde(default)]
    pub state: FindingState,
    /// When it was first missing, where it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<Timestamp>,
    /// Why it is over, as a sentence: what leaked was closed, or it turned out to be no leak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_because: Option<String>,
    /// Sentences with the numbers.
    pub evidence: Vec<String>,
    /// What to change.
    pub advice: String,
    /// The same as code in the language of the call site, at most four lines with names that stand
    /// for the program's own; absent where the language is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snippet: Option<String>,
    /// What a Go program's own connection pools say; null for other programs and for connections
    /// outside of net/http.
    #[serde(default)]
    pub go: Option<GoInfo>,
}

/// A frame of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StackFrame {
    /// What it is.
    #[serde(flatten)]
    pub frame: Frame,
    /// Whose it is; null where that is not known.
    #[serde(default)]
    pub owner: Option<Owner>,
}

impl StackFrame {
    /// The frames of a stack with their owners.
    #[must_use]
    pub fn of(site: &Site) -> Vec<StackFrame> {
        let owners = site.owners.iter().copied().map(Some);
        site.frames
            .iter()
            .cloned()
            .zip(owners.chain(std::iter::repeat(None)))
            .map(|(frame, owner)| StackFrame { frame, owner })
            .collect()
    }
}

/// Where a library leaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LibrarySite {
    /// Name of the library: a package, a module or a file.
    pub name: String,
    /// Its function that opened the connection or asked.
    pub frame: Frame,
}

/// A caller of a call site's function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Caller {
    /// Function name.
    pub function: String,
    /// Source file.
    pub file: Option<String>,
    /// Line of the call.
    pub line: Option<u32>,
}

impl Caller {
    /// The function of a frame.
    #[must_use]
    pub fn of(frame: &Frame) -> Caller {
        Caller {
            function: frame.function.clone(),
            file: frame.file.clone(),
            line: frame.line,
        }
    }
}

/// A caller of a call site's function and what it made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CalledBy {
    /// Function name.
    pub function: String,
    /// Source file.
    pub file: Option<String>,
    /// Line of the call.
    pub line: Option<u32>,
    /// Leaked connections.
    pub count: u64,
}

/// How often leaked connections were answered with a status code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ResponseCount {
    /// Status code.
    pub status: u16,
    /// Leaked connections whose latest response had it.
    pub leaked: u64,
    /// Requests of the finding in all.
    pub of: u64,
}

/// The life of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FindingState {
    /// First seen less than a minute ago.
    #[default]
    New,
    /// Its number rises.
    Growing,
    /// Its number stays, and what there is stays.
    Steady,
    /// It is over: the connections were closed, or it turned out to be none.
    Resolved,
    /// It was resolved, and is there again.
    Back,
}

/// What `tracer describe -o json` prints: one finding and its past.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FindingDetail {
    /// Version of the layout.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA)))]
    pub schema: u32,
    /// When it was asked for.
    pub observed_at: Timestamp,
    /// The finding.
    pub finding: Finding,
    /// Its counts over time, oldest first; the older, the sparser.
    pub timeline: Vec<TimelinePoint>,
    /// Limits of its processes.
    #[serde(default)]
    pub resources: Vec<Resources>,
    /// Where several daemons were asked: who answered and who did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<Node>>,
}

/// Counts of a finding at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TimelinePoint {
    /// The moment.
    pub at: Timestamp,
    /// Open connections.
    pub open: u64,
    /// Open and past the end of their request.
    pub outlived: u64,
}

/// The line to blame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CallSite {
    /// Function.
    pub function: String,
    /// Source file.
    pub file: Option<String>,
    /// Line.
    pub line: Option<u32>,
    /// Module.
    pub module: Option<String>,
}

impl From<&Frame> for CallSite {
    /// Of what Go's compiler makes of `go f(x)` the function in which that is written: `main.start` of
    /// `main.start.gowrap1`.
    fn from(frame: &Frame) -> CallSite {
        let numbered = frame
            .function
            .trim_end_matches(|c: char| c.is_ascii_digit());
        let wrapped = numbered
            .strip_suffix(".gowrap")
            .or_else(|| numbered.strip_suffix(".deferwrap"));
        CallSite {
            function: wrapped.unwrap_or(&frame.function).to_owned(),
            file: frame.file.clone(),
            line: frame.line,
            module: frame.module.clone(),
        }
    }
}

/// One process with the leak.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Instance {
    /// Node name, when known.
    pub node: Option<String>,
    /// Kubernetes pod, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Process.
    pub pid: u32,
    /// Open connections of the finding.
    pub connections: u64,
    /// When the finding first appeared in it.
    pub first_seen_at: Timestamp,
}

/// The other end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RemoteInfo {
    /// Family.
    pub family: Family,
    /// Address and port, or `unix` with `path`.
    pub address: String,
    /// Host the requests name; else, with the port, the name that was resolved (`named_by` is `dns`), or
    /// that the cluster has for the address (`cluster`).
    pub host: Option<String>,
    /// UNIX path.
    pub path: Option<String>,
    /// URL template; of protocols without URLs their name, the server and the database.
    pub url: Option<String>,
    /// What the name was taken from.
    #[serde(default)]
    pub named_by: NamedBy,
    /// Why from nothing better; nothing where there is no better.
    #[serde(default)]
    pub not_higher_because: Option<String>,
    /// Who listens at the other end of a UNIX socket.
    #[serde(default)]
    pub peer: Option<Peer>,
    /// Redacted requests, such as `GET http://127.0.0.1:8080/v2/app/tags/list`.
    pub examples: Vec<String>,
}

/// Counts of one finding.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Connections {
    /// Open now.
    pub open: u64,
    /// Open and past the end of their request.
    pub outlived: u64,
    /// Opened since watching began (and those found open then).
    pub opened: u64,
    /// Closed since watching began.
    pub closed: u64,
    /// Most open at one time.
    pub peak_open: u64,
}
