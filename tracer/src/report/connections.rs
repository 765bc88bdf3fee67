//! The open connections, as `tracer connections` lists them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{CallSite, NamedBy, Node, Peer};
use crate::model::{Family, Role, Transaction, Workload};

/// One open socket, as `tracer connections -o json` lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConnectionRow {
    /// Where several daemons were asked, the one that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Process that opened or accepted it.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Name of its container in its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Kubernetes pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Kubernetes namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What the pod was made for, where the daemon asks the API server (`--kube`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// Process that holds the descriptor now, where it is another.
    pub holder_pid: Option<u32>,
    /// Descriptor number in its holder.
    pub fd: Option<i32>,
    /// Client or server.
    pub role: Role,
    /// Family.
    pub family: Family,
    /// TCP state name, or `connected` for UNIX.
    pub state: String,
    /// Local port (TCP).
    pub local_port: Option<u16>,
    /// Remote address and port, or UNIX path.
    pub remote: String,
    /// Latest request, redacted; of protocols without URLs their name, the server and the database.
    pub url: Option<String>,
    /// What the name of the other end was taken from.
    #[serde(default)]
    pub named_by: NamedBy,
    /// Why from nothing better; nothing where there is no better.
    #[serde(default)]
    pub not_higher_because: Option<String>,
    /// Who listens at the other end of a UNIX socket.
    #[serde(default)]
    pub peer: Option<Peer>,
    /// The name, with the port, that the process resolved to the address, or else that the cluster has for
    /// it, where nothing better names it.
    #[serde(default)]
    pub host: Option<String>,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// It was there before tracing: `opened_at` is when it was first seen.
    #[serde(default)]
    pub preexisting: bool,
    /// Age, seconds.
    pub age_seconds: f64,
    /// Seconds since the last transfer.
    pub idle_seconds: f64,
    /// Requests so far.
    pub requests: u32,
    /// Unread bytes (TCP) or messages (UNIX).
    pub unread: u32,
    /// A transaction that is open, as PostgreSQL said last in the clear: as long as nobody uses the
    /// connection, whoever took it has not given it back.
    #[serde(default)]
    pub transaction: Option<Transaction>,
    /// Whom to blame.
    pub call_site: Option<CallSite>,
    /// Inode of the socket.
    pub inode: u32,
}

/// What `tracer connections -o json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConnectionList {
    /// Version of the layout.
    #[cfg_attr(test, schemars(extend("const" = super::SCHEMA)))]
    pub schema: u32,
    /// The connections, oldest first.
    pub connections: Vec<ConnectionRow>,
    /// Connections left out by the limit.
    pub omitted: u64,
    /// Where several daemons were asked: who answered and who did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<Node>>,
}
