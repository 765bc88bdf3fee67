//! Plain values that the rooms of tracer hand to each other: no I/O, no clock, no kernel types.
//!
//! Times are nanoseconds of the monotonic clock (`CLOCK_MONOTONIC`), as the kernel side records
//! them; only the report turns them into dates.

mod go;
mod pod;

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

pub use go::{GoPools, GoSettings, GoSight};
pub use pod::{Pod, Workload};

/// Which side of the connection the process is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Role {
    /// It connected (or is one end of a `socketpair`, or nobody can tell).
    Client,
    /// It accepted.
    Server,
}

impl Role {
    /// Its name, as JSON has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Server => "server",
        }
    }
}

/// Address family and transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Family {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// A UNIX stream socket.
    Unix,
}

impl Family {
    /// Its name, as JSON has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Family::Tcp4 => "tcp4",
            Family::Tcp6 => "tcp6",
            Family::Unix => "unix",
        }
    }
}

/// The moment a stack was taken at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum StackOf {
    /// The send (or the runtime's own call) that began the latest request.
    Request,
    /// `connect`.
    Connect,
    /// `accept`.
    Accept,
    /// The first send or receive seen on the socket.
    FirstIo,
}

/// How much of a stack is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum StackQuality {
    /// Unwound to the thread's first frame.
    Complete,
    /// Unwinding stopped before the first frame.
    Truncated,
    /// There is no stack.
    None,
}

/// A function at an address, as its debug information or symbol table has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Named {
    /// Demangled name.
    pub function: String,
    /// Source file as the build recorded it.
    pub file: Option<String>,
    /// Line, from 1.
    pub line: Option<u32>,
    /// Inlined into the next outer function.
    pub inlined: bool,
    /// First line of the function.
    pub function_line: Option<u32>,
}

/// One frame, symbolized as far as possible.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Frame {
    /// Demangled function name, or `module+0xoffset` when there is no symbol.
    pub function: String,
    /// Source file as the build recorded it.
    pub file: Option<String>,
    /// Line, from 1.
    pub line: Option<u32>,
    /// Path of the module (executable or library) as the process sees it.
    pub module: Option<String>,
    /// Inlined into the next outer frame.
    pub inlined: bool,
    /// Address to look up: as linked in the module, or in the process where the code is in no
    /// file. That of a caller lies in its call instruction. `None` for interpreted frames.
    #[serde(with = "hex", default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub address: Option<u64>,
}

/// Addresses as `0x…`: JSON's numbers need not be exact beyond 2^53.
mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        address: &Option<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(&format_args!("{address:#x}")),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        u64::from_str_radix(digits, 16)
            .map(Some)
            .map_err(D::Error::custom)
    }
}

/// A frame of the application's own in a [`Site`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OwnFrame {
    /// Index into [`Site::frames`].
    pub index: usize,
    /// Its line relative to the first line of its function, when both are known.
    pub line_in_function: Option<u32>,
}

/// Whose code a frame is in, as readers of a report tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The application's own.
    Own,
    /// A well-known client library.
    Client,
    /// Code of others that the application was built with.
    Dependency,
    /// C library, language runtime, interpreter, standard library.
    Runtime,
}

/// A symbolized stack, innermost frame first, with the frame that is to blame.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Site {
    /// All frames, innermost first.
    pub frames: Vec<Frame>,
    /// Whose each of them is; shorter than `frames` where it is not known.
    #[serde(default)]
    pub owners: Vec<Owner>,
    /// Index into `frames` of the application's own innermost frame; without one, of that of a
    /// dependency or client library; `None` where only runtime and C library are in the stack.
    pub call_site: Option<usize>,
    /// The call site is the application's own.
    pub own: bool,
    /// The call site is in a library, because no frame is known to be the application's.
    #[serde(default)]
    pub library: bool,
    /// All frames that are the application's own as much as the call site, innermost first; none
    /// where that is not its own.
    #[serde(default)]
    pub own_frames: Vec<OwnFrame>,
    /// Index of the innermost frame that runs an event loop: what it calls, its caller did not ask
    /// for.
    #[serde(default)]
    pub runs_loop: Option<usize>,
    /// How much of the stack is known.
    pub quality: StackQuality,
    /// Line of the call site relative to the first line of its function, when both are known:
    /// stays the same when code above the function changes.
    pub line_in_function: Option<u32>,
    /// Who asked again in place of an answer that was never handed on.
    #[serde(default)]
    pub again: Option<Again>,
}

/// A function that asked twice within one call of a client, and left the first answer open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Again {
    /// Its frame, by index into [`Site::frames`]: where it asked first.
    pub frame: usize,
    /// Line from which it asked again.
    pub line: Option<u32>,
}

impl Site {
    /// The frame to blame.
    #[must_use]
    pub fn blamed(&self) -> Option<&Frame> {
        self.call_site.and_then(|i| self.frames.get(i))
    }

    /// The same stack with another of its own frames to blame, by index into
    /// [`Site::own_frames`].
    #[must_use]
    pub fn blaming(&self, own: usize) -> Option<Site> {
        let frame = self.own_frames.get(own)?;
        Some(Site {
            call_site: Some(frame.index),
            line_in_function: frame.line_in_function,
            ..self.clone()
        })
    }
}

/// The other end, or for servers the own listening end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Remote {
    /// Family.
    pub family: Family,
    /// `address:port`, `[address]:port`, or the UNIX path (`@name` when abstract). For role server
    /// the local listening address.
    pub address: String,
    /// Host named by the request (`Host` header, SNI), without port unless it is not the default.
    pub host: Option<String>,
    /// Redacted URL template: variable path segments are `{}`, query values `…`.
    pub url: Option<String>,
    /// Process id and name of who listens at the other end of a UNIX socket.
    #[serde(default)]
    pub peer: Option<(u32, String)>,
    /// Name, with the port, that the process resolved to the address.
    #[serde(default)]
    pub resolved: Option<String>,
    /// Name, with the port, that the cluster has for the address, where nothing was resolved.
    #[serde(default)]
    pub in_cluster: Option<String>,
}

/// The process a connection belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the host's namespace.
    pub pid: u32,
    /// Process id in its own innermost namespace, where it differs.
    pub ns_pid: Option<u32>,
    /// Start time, clock ticks since boot (`/proc/PID/stat` field 22): tells a reused pid apart.
    pub start_ticks: u64,
    /// Name (`/proc/PID/comm`).
    pub comm: String,
    /// Path of the executable as the process sees it.
    pub exe: Option<String>,
    /// Language runtime and version where it is known, such as `go1.27.3`.
    pub runtime: Option<String>,
    /// Container id found in the cgroup path.
    pub container_id: Option<String>,
    /// Uid of the Kubernetes pod, found there, too.
    #[serde(default)]
    pub pod_uid: Option<String>,
}

/// Number of a cohort within one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CohortId(pub u32);

/// What the members of a cohort have in common: one process, one call site, one remote, one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cohort {
    /// The process.
    pub process: Arc<Process>,
    /// The stack to blame: that of the latest request, else the opener's; `None` when no stack
    /// could be taken.
    pub site: Option<Arc<Site>>,
    /// Which moment `site` shows.
    pub site_of: StackOf,
    /// The stack that opened the connection where `site` is a request's.
    pub opener: Option<Arc<Site>>,
    /// The other end.
    pub remote: Arc<Remote>,
    /// Client or server.
    pub role: Role,
}

/// Who has a descriptor for a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Holder {
    /// The process that opened or accepted it.
    Opener,
    /// Not the opener, but this process.
    Other(u32),
    /// No descriptor was found at the last complete scan.
    Nobody,
    /// No scan has looked for it yet.
    #[default]
    Unknown,
}

/// One live connection as a sweep saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connection {
    /// The kernel's socket address; with `opened_ns` it identifies the connection.
    pub sk: u64,
    /// When it was opened.
    pub opened_ns: u64,
    /// When the process last sent.
    pub sent_ns: Option<u64>,
    /// When the process last received.
    pub received_ns: Option<u64>,
    /// When the latest request began.
    pub turn_ns: Option<u64>,
    /// When the peer closed (or reset) it.
    pub peer_closed_ns: Option<u64>,
    /// When the last descriptor was closed; such connections are not open any more.
    pub closed_ns: Option<u64>,
    /// Requests carried so far.
    pub turns: u32,
    /// Unread bytes (TCP) or messages (UNIX) at the last scan.
    pub unread: u32,
    /// Descriptor number in its holder.
    pub fd: Option<i32>,
    /// Who has it.
    pub holder: Holder,
    /// `true` once established.
    pub connected: bool,
    /// Reset by the peer or timed out while still held.
    pub reset: bool,
    /// The process shut down its sending side.
    pub shutdown: bool,
    /// Older than the tracer.
    pub preexisting: bool,
    /// `errno` of a failed connect, or 0.
    pub error: u16,
    /// The last transfer was a send (waiting for an answer), rather than a receive.
    pub last_was_send: bool,
    /// Whether somebody waited for what it receives, at the last scan; `None`: not known.
    pub awaited: Option<bool>,
    /// One end of a socket pair: there is no remote.
    pub pair: bool,
    /// What the language runtime says of it, where it can be asked.
    pub pool: PoolState,
    /// What it speaks, as far as its bytes tell.
    pub protocol: Protocol,
    /// The answer to its latest request, where the kernel side could read its head.
    pub response: Option<ResponseState>,
    /// The database said last that a transaction is open.
    pub in_transaction: bool,
}

/// A transaction that is open, as the database said last (PostgreSQL, in the clear).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Transaction {
    /// It was begun, and neither committed nor rolled back.
    Open,
    /// The same, and a statement of it has failed.
    Failed,
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// Nothing that is recognized has been seen on it.
    #[default]
    Unknown,
    /// A request of HTTP was seen, or a runtime's own client says that it carries them.
    Http,
    /// TLS, or HTTP/2: its requests can't be told apart from outside.
    Tls,
    /// It is no connection, but one of several requests that share one (HTTP/2).
    Stream,
}

/// A response of HTTP/1 in the clear, as its first bytes and the bytes received since tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseState {
    /// Status code (RFC 9110, section 15).
    pub status: u16,
    /// The connection speaks another protocol from here on: status 101, or an accepted CONNECT.
    pub upgraded: bool,
    /// How the end of the body is told.
    pub framing: Framing,
    /// The body has been received in full; never so where only the peer's close ends it.
    pub complete: bool,
}

/// How the end of a body is told (RFC 9112, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// The peer closes the connection.
    UntilClose,
    /// The head was not read far enough to tell, or announced more than is counted.
    Unknown,
}

/// State of a client connection as its runtime's connection pool sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum PoolState {
    /// The runtime can't be asked.
    #[default]
    Unknown,
    /// A request was sent, no response yet.
    InFlight,
    /// The response began, its body is neither finished nor closed.
    Response,
    /// As [`PoolState::Response`], and somebody is reading the body or waits for more of it.
    Reading,
    /// Back in the pool after a finished request.
    Idle,
    /// The pool is done with it.
    Released,
}

/// Where the offsets come from by which a Go program's structures are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum OffsetsFrom {
    /// Its version of Go is known.
    Table,
    /// Its version is not known; its DWARF says where things are.
    Dwarf,
    /// Its version is not known: those of the newest known one, held against every value.
    Newest,
}

/// Connections of one cohort that ended since the last sweep.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How many.
    pub count: u64,
    /// Sum of their lifetimes, nanoseconds.
    pub lifetime_ns: u64,
    /// Requests they carried.
    pub turns: u64,
}

/// The kinds of leak, in the order in which the first that fits names a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Kind {
    /// The opener closed it or is gone; another process still holds the descriptor.
    InheritedFd,
    /// The response came; its body was neither finished nor closed.
    ResponseBodyNotClosed,
    /// A new client, transport or pool for each call.
    ClientPerRequest,
    /// Streams keep being opened and none of the earlier ones is ended.
    StreamNeverCancelled,
    /// Of tests alone: what adding a kind takes.
    #[cfg(test)]
    Fixture,
    /// Unread response bytes, and nobody reads any more.
    ResponseNotRead,
    /// The peer closed, we never did.
    CloseWait,
    /// Accepted, served or abandoned, never closed.
    AcceptedNeverClosed,
    /// A reused pool that only grows.
    PoolUnbounded,
    /// None of the above: opened, never closed, and growing.
    NeverClosed,
}

impl Kind {
    /// The name used in JSON, metrics and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::InheritedFd => "inherited_fd",
            Kind::ResponseBodyNotClosed => "response_body_not_closed",
            Kind::ClientPerRequest => "client_per_request",
            Kind::StreamNeverCancelled => "stream_never_cancelled",
            #[cfg(test)]
            Kind::Fixture => "fixture",
            Kind::ResponseNotRead => "response_not_read",
            Kind::CloseWait => "close_wait",
            Kind::AcceptedNeverClosed => "accepted_never_closed",
            Kind::PoolUnbounded => "pool_unbounded",
            Kind::NeverClosed => "never_closed",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How sure a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub enum Confidence {
    /// Suggestive; not enough to call it a leak.
    Low,
    /// Enough for the verdict `leak`.
    Medium,
    /// Proof per connection, or a long and steady growth.
    High,
}

impl Confidence {
    /// Its name, as JSON has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Confidence::Low => "low",
            Confidence::Medium => "medium",
            Confidence::High => "high",
        }
    }
}
