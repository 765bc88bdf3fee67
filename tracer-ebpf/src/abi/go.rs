//! Records about Go programs: what their own connection pools say.

/// Bit that marks a stack id as a key of `GO_STACKS`; [`crate::STACK_TICKET`] is clear.
pub const STACK_GO: u32 = 1 << 30;

/// A request was sent.
pub const GO_IN_FLIGHT: u8 = 1;
/// The response has begun. Streams only, here and below: how a connection of HTTP/1 is doing, user
/// space reads from the program's memory.
pub const GO_RESPONSE: u8 = 2;
/// In the pool, when it was found in memory.
pub const GO_IDLE: u8 = 3;
/// The pool is done with it and its caller owns it: an upgrade, or hijacked from a server.
pub const GO_HANDED_OVER: u8 = 4;
/// A server connection without a request so far.
pub const GO_NEW: u8 = 5;

/// As [`GO_RESPONSE`], and somebody reads the body or waits for more of it. Streams only; those of
/// grpc from their beginning, because nothing tells how their answers are doing.
pub const GO_READING: u8 = 6;

/// A client connection of HTTP/1 (`net/http.persistConn`).
pub const GO_CLIENT: u8 = 1;
/// A client stream of HTTP/2; several share a socket.
pub const GO_STREAM: u8 = 2;
/// A server connection (`net/http.conn`).
pub const GO_SERVER: u8 = 3;
/// A call of grpc that has no stream yet.
pub const GO_CALL: u8 = 4;

/// The connection is TLS over the socket.
pub const GO_TLS: u8 = 1;
/// Types of the program itself wrap the socket.
pub const GO_WRAPPED: u8 = 2;
/// The socket was reached through the Go types, and the kernel had recorded it as a socket of this
/// process before.
pub const GO_CONFIRMED: u8 = 4;

/// Frames kept of a requester's stack: what goes through a chain of middleware has a hundred.
pub const GO_FRAMES: usize = 128;
/// Bytes kept of a method.
pub const GO_METHOD_BYTES: usize = 8;
/// Bytes kept of a URL scheme.
pub const GO_SCHEME_BYTES: usize = 8;
/// Bytes kept of a URL host.
pub const GO_HOST_BYTES: usize = 64;
/// Bytes kept of a URL path.
pub const GO_PATH_BYTES: usize = 128;
/// Bytes kept of a URL query.
pub const GO_QUERY_BYTES: usize = 64;

/// Where things are in one executable and in the kernel; element of the array `GO_LAYOUTS`.
/// Addresses are those of the file, to which [`GoProcess::bias`] is added.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct GoLayout {
    /// Address of `net.(*TCPConn).Close`, the first method of its `net.Conn` table.
    pub tcp_close: u64,
    /// Address of `net.(*UnixConn).Close`.
    pub unix_close: u64,
    /// Address of `crypto/tls.(*Conn).Close`.
    pub tls_close: u64,
    /// Addresses of the runtime functions whose goroutines run finalizers and cleanups.
    pub finalizers: [u64; 2],
    /// `runtime.g.goid`
    pub g_goid: u32,
    /// `runtime.g.startpc`
    pub g_startpc: u32,
    /// `runtime.g.m`
    pub g_m: u32,
    /// `runtime.g.parentGoid`
    pub g_parent: u32,
    /// `runtime.g.gopc`
    pub g_gopc: u32,
    /// `runtime.m.p`
    pub m_p: u32,
    /// `runtime.p.runnext`; 0 where it is not known.
    pub p_runnext: u32,
    /// Explicit padding.
    pub pad: u32,
    /// `net/http.persistConn.t`
    pub conn_transport: u32,
    /// `net/http.persistConn.conn`
    pub conn_conn: u32,
    /// `net/http.conn.rwc`, of a server
    pub server_conn: u32,
    /// `net/http.conn.hijackedv`, of a server
    pub server_hijacked: u32,
    /// `Method` of the request that `roundTrip` of HTTP/1 gets
    pub request_method: u32,
    /// `URL` of the same
    pub request_url: u32,
    /// `Method` of the request that `roundTrip` of HTTP/2 gets
    pub stream_method: u32,
    /// `URL` of the same
    pub stream_url: u32,
    /// `tconn` of the HTTP/2 `ClientConn`
    pub stream_conn: u32,
    /// `bufPipe` of the HTTP/2 `clientStream`
    pub stream_pipe: u32,
    /// `net/url.URL.Host`
    pub url_host: u32,
    /// `net/url.URL.Path`
    pub url_path: u32,
    /// `net/url.URL.RawQuery`
    pub url_query: u32,
    /// `Fun` of the interface table
    pub itab_fun: u32,
    /// `internal/poll.FD.Sysfd` within `net.netFD`
    pub fd_sysfd: u32,
    /// The kernel's `struct task_struct`.`files`
    pub task_files: u32,
    /// The kernel's `struct files_struct`.`fdt`
    pub files_fdt: u32,
    /// The kernel's `struct fdtable`.`fd`
    pub fdt_fd: u32,
}

/// Value of `GO_PROCESSES`, whose key is the process id: the processes whose probes do anything.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct GoProcess {
    /// Added to an address of the file to get one of the process.
    pub bias: u64,
    /// Index into `GO_LAYOUTS`.
    pub layout: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// Key of `GO_CONNS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct GoKey {
    /// Address of the object in the process: `persistConn`, `clientStream` or `conn`. A stream
    /// that has not started yet is under the address of its request, a call of grpc under that of
    /// its goroutine.
    pub object: u64,
    /// Process.
    pub tgid: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// Value of `GO_CONNS`. Method and URL are as the program has them, but for the query: user space
/// checks and redacts them before anything else.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct GoConn {
    /// Goes up when a request begins to be written into the entry, and again when it is; odd in
    /// between. Kept first: whoever copies an entry reads this before the rest, so a copy is in one
    /// piece if it has an even version that the entry has afterwards, too.
    pub version: u32,
    /// Stack of the latest request: a key of `GO_STACKS`, or [`crate::STACK_NONE`].
    pub stack: u32,
    /// The kernel's `struct sock *`; 0 when it could not be reached.
    pub sk: u64,
    /// Address of the `Transport` (client), the `ClientConn` (stream; of grpc `http2Client`), or 0.
    pub transport: u64,
    /// Address of the `net.netFD` that has the descriptor; 0 when it could not be reached.
    pub net_fd: u64,
    /// When the latest request began, monotonic nanoseconds; 0 before the first.
    pub request_ns: u64,
    /// When `state` last changed, monotonic nanoseconds.
    pub state_ns: u64,
    /// Goroutine that issued the latest request.
    pub goid: u64,
    /// Inode number of the socket file.
    pub inode: u32,
    /// Descriptor; -1 when it could not be read.
    pub fd: i32,
    /// Requests so far.
    pub requests: u32,
    /// [`GO_CLIENT`], [`GO_STREAM`], [`GO_SERVER`] or [`GO_CALL`].
    pub kind: u8,
    /// One of the states, from [`GO_IN_FLIGHT`].
    pub state: u8,
    /// [`GO_TLS`], [`GO_WRAPPED`] and [`GO_CONFIRMED`].
    pub flags: u8,
    /// Bytes valid in `method`; longer than any method when it was cut.
    pub method_len: u8,
    /// Length of the scheme, of which at most [`GO_SCHEME_BYTES`] are kept.
    pub scheme_len: u16,
    /// Length of the host, of which at most [`GO_HOST_BYTES`] are kept.
    pub host_len: u16,
    /// Length of the path, of which at most [`GO_PATH_BYTES`] are kept.
    pub path_len: u16,
    /// Length of the query, of which at most [`GO_QUERY_BYTES`] are kept.
    pub query_len: u16,
    /// The request's method.
    pub method: [u8; GO_METHOD_BYTES],
    /// Its URL's scheme.
    pub scheme: [u8; GO_SCHEME_BYTES],
    /// Host and port.
    pub host: [u8; GO_HOST_BYTES],
    /// Decoded path.
    pub path: [u8; GO_PATH_BYTES],
    /// Query; as in [`crate::Head::line`], only with the names of its parameters.
    pub query: [u8; GO_QUERY_BYTES],
}

/// Value of `GO_STACKS`, whose key is a stack id (u32) with [`STACK_GO`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct GoStack {
    /// [`go_stack_hash`] of process, addresses and `creator`, one after the other. It tells a
    /// collision of ids, and whether another task was scheduled while the stack was read and used the
    /// same room.
    pub hash: u64,
    /// Process.
    pub tgid: u32,
    /// Addresses valid in `ips`.
    pub frames: u32,
    /// Where the goroutine was begun: the address after the `go` statement's call; 0 for none.
    pub begun_at: u64,
    /// The stack that began the goroutine, where that was seen and the goroutine is young: a key of
    /// `GO_STACKS`, or [`crate::STACK_NONE`].
    pub creator: u32,
    /// Explicit padding.
    pub pad: u32,
    /// The probe's address, then return addresses, innermost first.
    pub ips: [u64; GO_FRAMES],
}

/// Adds a value to a stack's hash, which begins as the process id.
#[inline(always)]
#[must_use]
pub const fn go_stack_hash(hash: u64, value: u64) -> u64 {
    ((hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(29)
}

/// Key of `GO_CREATIONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct GoRoutine {
    /// `runtime.g.goid`
    pub goid: u64,
    /// Process.
    pub tgid: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// Value of `GO_CREATIONS`: how a goroutine was begun.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct GoCreation {
    /// Monotonic nanoseconds.
    pub at_ns: u64,
    /// The stack that did: a key of `GO_STACKS`, or [`crate::STACK_NONE`].
    pub stack: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// Key of `GO_FINALIZED`, whose value is a count (u64): connections that the garbage collector
/// closed, by the stacks they had in `SOCKS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct GoFinalizedKey {
    /// Process.
    pub tgid: u32,
    /// As [`crate::Sock::open_stack`].
    pub open_stack: u32,
    /// As [`crate::Sock::request_stack`].
    pub request_stack: u32,
    /// Explicit padding.
    pub pad: u32,
}

const _: () = assert!(size_of::<GoLayout>() == 144 && align_of::<GoLayout>() == 8);
const _: () = assert!(size_of::<GoProcess>() == 16);
const _: () = assert!(size_of::<GoKey>() == 16);
const _: () = assert!(size_of::<GoConn>() == 352 && align_of::<GoConn>() == 8);
const _: () = assert!(core::mem::offset_of!(GoConn, method) == 80);
const _: () = assert!(size_of::<GoStack>() == 1056 && align_of::<GoStack>() == 8);
const _: () = assert!(size_of::<GoFinalizedKey>() == 16);
