//! Records about sockets.

/// Shift that turns nanoseconds into ticks: one tick is 2^20 ns.
pub const TICK_SHIFT: u32 = 20;

/// Nobody could tell yet which side opened the connection.
pub const ROLE_UNKNOWN: u8 = 0;
/// The process connected.
pub const ROLE_CLIENT: u8 = 1;
/// The process accepted.
pub const ROLE_SERVER: u8 = 2;
/// One end of a `socketpair`.
pub const ROLE_PAIR: u8 = 3;

/// The connection was established at some time.
pub const SOCK_CONNECTED: u8 = 1;
/// The last descriptor was closed; the kernel may still hold the socket (FIN_WAIT, LAST_ACK).
pub const SOCK_CLOSED: u8 = 1 << 1;
/// The peer closed its end: a FIN was received, or the peer of a UNIX socket is gone.
pub const SOCK_PEER_CLOSED: u8 = 1 << 2;
/// The peer reset the connection, or it timed out, while a descriptor was still open.
pub const SOCK_RESET: u8 = 1 << 3;
/// The process called `shutdown` for writing.
pub const SOCK_SHUTDOWN: u8 = 1 << 4;
/// The socket is older than the tracer's first sight of it; `opened_ns` is that sight.
pub const SOCK_PREEXISTING: u8 = 1 << 5;
/// Accepted by the network stack; which process took it is not known yet.
pub const SOCK_ACCEPT_UNOWNED: u8 = 1 << 6;

/// A request of HTTP/1 was sent, and the head of its response is not read to its end yet.
pub const RESPONSE_AWAITED: u8 = 1;
/// The request's method was HEAD: the response has no body.
pub const RESPONSE_TO_HEAD: u8 = 1 << 1;
/// The request's method was CONNECT.
pub const RESPONSE_TO_CONNECT: u8 = 1 << 2;
/// The head was read to its end: what it does not say is not so.
pub const RESPONSE_HEAD_READ: u8 = 1 << 3;
/// The head has a `Content-Length`.
pub const RESPONSE_LENGTH: u8 = 1 << 4;
/// The body is chunked.
pub const RESPONSE_CHUNKED: u8 = 1 << 5;
/// What was received last ended with the last chunk.
pub const RESPONSE_LAST_CHUNK: u8 = 1 << 6;
/// The connection speaks another protocol from here on: status 101, or an accepted CONNECT.
pub const RESPONSE_UPGRADED: u8 = 1 << 7;

/// Of [`Sock::heads`]: `HEADS` has its first request.
pub const HEADS_FIRST: u8 = 1;
/// `HEADS` has its latest request.
pub const HEADS_LATEST: u8 = 1 << 1;
/// A request of HTTP was seen on it.
pub const HEADS_HTTP: u8 = 1 << 2;
/// A turn began with a TLS record of a handshake.
pub const HEADS_TLS: u8 = 1 << 3;
/// A request inside TLS was seen before it was encrypted: only those count as turns.
pub const HEADS_PLAINTEXT: u8 = 1 << 4;
/// `request_stack` is that of whoever asked for the request that is sent next, by way of an event
/// loop.
pub const HEADS_ASKED: u8 = 1 << 5;
/// It speaks HTTP/2 in the clear: `HTTP2` has where its frames stand.
pub const HEADS_HTTP2: u8 = 1 << 6;

/// Of [`Sock::response_status`]: an interim response was read to its end, and a status line comes next.
pub const STATUS_TO_COME: u16 = 1 << 15;
/// The same where no request of HTTP is answered: what was received last ends with a message of
/// PostgreSQL that says that a transaction is open, and that it is open and has failed.
pub const STATUS_IN_TRANSACTION: u16 = 1 << 14;
/// See [`STATUS_IN_TRANSACTION`].
pub const STATUS_IN_FAILED: u16 = STATUS_IN_TRANSACTION | 1;
/// Of [`Sock::netns_or_left`]: so many or more.
pub const LEFT_MANY: u32 = u32::MAX;

/// Of [`Sock::last_direction`]: it was sent.
pub const DIRECTION_SENT: u8 = 1;
/// It was received.
pub const DIRECTION_RECEIVED: u8 = 2;
const DIRECTION_BITS: u8 = 3;
const MOMENT_SHIFT: u32 = 2;

/// A descriptor's number and one: the kernel's tables have fewer than 2^28 entries.
const FD_BITS: u32 = (1 << AWAITED_SHIFT) - 1;
const AWAITED_SHIFT: u32 = 30;
/// Of [`Sock::awaited`]: no scan has looked, or the kernel does not say.
pub const AWAITED_UNKNOWN: u8 = 0;
/// Nobody waited for what comes.
pub const AWAITED_BY_NOBODY: u8 = 1;
/// A thread, a poll or an epoll instance waited.
pub const AWAITED: u8 = 2;

/// One live socket; value of the map `SOCKS`, whose key is the kernel's `struct sock *` (u64).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Sock {
    /// When it was connected, accepted, first used, or (pre-existing) first seen. Nanoseconds,
    /// monotonic clock.
    pub opened_ns: u64,
    /// When the last descriptor was closed, with [`SOCK_CLOSED`]; else when the peer closed, with
    /// [`SOCK_PEER_CLOSED`]. In ticks.
    pub ended_ticks: u32,
    /// When the process last sent, in ticks.
    pub sent_ticks: u32,
    /// When the process last received, in ticks.
    pub received_ticks: u32,
    /// When the latest turn (request) began, in ticks.
    pub turn_ticks: u32,
    /// Stack at opening: an id given by user space, a ticket ([`crate::STACK_TICKET`]), or none.
    pub open_stack: u32,
    /// Stack of the latest turn's first send (client) or receive (server); same encoding.
    pub request_stack: u32,
    /// Inode number of the socket file; 0 while it has none (not accepted yet).
    pub inode: u32,
    /// Process that opened or accepted it; 0 while unknown.
    pub tgid: u32,
    /// Hash of the request head that was kept last; 0: none was.
    pub head_hash: u32,
    /// Process holding a descriptor at the last scan: the opener if it still does, else another.
    pub holder: u32,
    /// That descriptor and who waits, see [`Sock::fd`] and [`Sock::awaited`].
    pub descriptor: u32,
    /// Turns so far: sends after receives on a client, receives after sends on a server.
    pub turns: u32,
    /// Bytes (TCP) or messages (UNIX) in the receive queue at the last scan.
    pub unread: u32,
    /// Of a server, its network namespace, by inode number. Of any other, with [`RESPONSE_LENGTH`]: bytes
    /// of the response's body that are still to come (as many as it has while the head is read);
    /// [`LEFT_MANY`] is not counted.
    pub netns_or_left: u32,
    /// Remote address: IPv4 in the first word, IPv6 in all four (network byte order); for UNIX
    /// the [`UnixPathKey`] hash in the first two words.
    pub remote_addr: [u32; 4],
    /// Remote port, host byte order.
    pub remote_port: u16,
    /// Local port, host byte order.
    pub local_port: u16,
    /// Number of the last reconcile scan that found a descriptor for it; 0: none yet.
    pub scan: u16,
    /// Status code of the response, or of an interim one; 0: none was read. With [`STATUS_TO_COME`]; or
    /// [`STATUS_IN_TRANSACTION`].
    pub response_status: u16,
    /// `AF_INET`, `AF_INET6` or `AF_UNIX`.
    pub family: u8,
    /// One of the `ROLE_*` constants.
    pub role: u8,
    /// TCP state (`include/net/tcp_states.h`); UNIX: 1 while connected.
    pub state: u8,
    /// `SOCK_*` bits.
    pub flags: u8,
    /// The error that ended it (`ECONNREFUSED`, `ECONNRESET` …); 0: none.
    pub error: u8,
    /// See [`Sock::last_direction`] and [`Sock::open_stack_of`].
    pub last: u8,
    /// `HEADS_*` bits.
    pub heads: u8,
    /// `RESPONSE_*` bits.
    pub response: u8,
}

impl Sock {
    /// Monotonic nanoseconds of a tick count of this socket, `None` for "never".
    #[must_use]
    pub const fn at_ns(&self, ticks: u32) -> Option<u64> {
        if ticks == 0 {
            None
        } else {
            Some(self.opened_ns + ((ticks as u64 - 1) << TICK_SHIFT))
        }
    }

    /// When the last descriptor was closed, in ticks; 0: not yet.
    #[must_use]
    pub const fn closed_ticks(&self) -> u32 {
        if self.flags & SOCK_CLOSED == 0 {
            0
        } else {
            self.ended_ticks
        }
    }

    /// When the peer closed, in ticks; 0: it did not before the last descriptor was closed.
    #[must_use]
    pub const fn peer_closed_ticks(&self) -> u32 {
        if self.flags & (SOCK_CLOSED | SOCK_PEER_CLOSED) == SOCK_PEER_CLOSED {
            self.ended_ticks
        } else {
            0
        }
    }

    /// Direction of the last transfer: [`DIRECTION_SENT`], [`DIRECTION_RECEIVED`], 0 none.
    #[must_use]
    pub const fn last_direction(&self) -> u8 {
        self.last & DIRECTION_BITS
    }

    /// Sets it.
    pub const fn set_last_direction(&mut self, direction: u8) {
        self.last = self.last & !DIRECTION_BITS | direction;
    }

    /// Which moment `open_stack` shows: one of the `WHEN_*` constants.
    #[must_use]
    pub const fn open_stack_of(&self) -> u8 {
        self.last >> MOMENT_SHIFT
    }

    /// Sets it.
    pub const fn set_open_stack_of(&mut self, moment: u8) {
        self.last = self.last & DIRECTION_BITS | moment << MOMENT_SHIFT;
    }

    /// Number of the descriptor that `holder` had at the last scan, `None` while unknown.
    #[must_use]
    pub const fn fd(&self) -> Option<i32> {
        match self.descriptor & FD_BITS {
            0 => None,
            above => Some(above as i32 - 1),
        }
    }

    /// Whether somebody waited for it at the last scan, in a call that receives or polls: one of the
    /// `AWAITED_*` constants.
    #[must_use]
    pub const fn awaited(&self) -> u8 {
        (self.descriptor >> AWAITED_SHIFT) as u8
    }

    /// Sets the descriptor's number, where it is given, and whether somebody waited.
    pub const fn set_descriptor(&mut self, fd: Option<u32>, awaited: u8) {
        let above = match fd {
            Some(fd) => (fd + 1) & FD_BITS,
            None => self.descriptor & FD_BITS,
        };
        self.descriptor = above | (awaited as u32) << AWAITED_SHIFT;
    }

    /// Network namespace of a server, by inode number; 0 of any other.
    #[must_use]
    pub const fn netns(&self) -> u32 {
        if self.role == ROLE_SERVER {
            self.netns_or_left
        } else {
            0
        }
    }
}

/// Key of `AGG`: connections that ended alike.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct AggKey {
    /// As [`Sock::remote_addr`]; zero for servers, whose peers are many.
    pub addr: [u32; 4],
    /// Opening process.
    pub tgid: u32,
    /// As [`Sock::open_stack`]; a ticket is folded as none.
    pub open_stack: u32,
    /// As [`Sock::request_stack`]; a ticket is folded as none.
    pub request_stack: u32,
    /// Remote port for clients, local port for servers.
    pub port: u16,
    /// As [`Sock::family`].
    pub family: u8,
    /// As [`Sock::role`].
    pub role: u8,
}

/// Number of lifetime buckets.
pub const LIFETIME_BUCKETS: usize = 32;

/// Value of `AGG`: what the connections of one key had in common.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct AggValue {
    /// Connections folded.
    pub closed: u64,
    /// Sum of their lifetimes, nanoseconds.
    pub lifetime_ns: u64,
    /// Turns of all of them.
    pub turns: u64,
    /// Lifetimes: bucket `i` counts those of `[2^i, 2^(i+1))` microseconds (of 1024 ns).
    pub lifetimes: [u32; LIFETIME_BUCKETS],
}

/// Key of `LISTENERS`: a listening TCP port of a target process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct ListenKey {
    /// Network namespace, by inode number.
    pub netns: u32,
    /// Port, host byte order.
    pub port: u32,
}

/// Value of `LISTENERS`. `LISTENING` has the [`ListenKey`] of each socket that is counted there, by the
/// kernel's `struct sock *`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct ListenValue {
    /// Listening address, as [`Sock::remote_addr`].
    pub addr: [u32; 4],
    /// Process that called `listen` or was found holding the socket.
    pub tgid: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
    /// Sockets that listen there: several may share a port (`SO_REUSEPORT`).
    pub sockets: u32,
}

/// Key of `ERRORS`, whose value is a count (u64): failed connects.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct ErrorKey {
    /// Connecting process.
    pub tgid: u32,
    /// `errno`.
    pub error: u32,
}

/// Bytes kept of a request line.
pub const LINE_BYTES: usize = 192;
/// Bytes kept of a request's host.
pub const HOST_BYTES: usize = 96;
/// Of [`Head::line_len`]: the request was made inside TLS. Without a line, the host is the server
/// name of the handshake.
pub const HEAD_TLS: u16 = 1 << 15;
/// What stands in a request line for each byte of a query but the names of its parameters.
pub const MASKED: u8 = b'*';

/// Key of `HEADS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct HeadKey {
    /// The kernel's `struct sock *`.
    pub sk: u64,
    /// 0: first request, 1: latest request.
    pub latest: u64,
}

/// Value of `HEADS`: what is kept of the head of an HTTP/1 request. The line is never shown as it is:
/// user space redacts its path, too.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Head {
    /// [`Sock::opened_ns`] of the socket it belongs to: tells a reused `sk` apart.
    pub opened_ns: u64,
    /// Turn number of the request, from 1.
    pub turn: u32,
    /// Bytes valid in `line`; one more than there are when it was longer. Or [`HEAD_TLS`].
    pub line_len: u16,
    /// Bytes valid in `host`; 0: none was seen, one more than there are when it was longer.
    pub host_len: u16,
    /// The request line. What a query's parameters are set to, and what is no name of one, is
    /// [`MASKED`].
    pub line: [u8; LINE_BYTES],
    /// Value of the `Host` header.
    pub host: [u8; HOST_BYTES],
}

/// Bytes of a UNIX socket path (`sun_path` has 108).
pub const PATH_BYTES: usize = 108;

/// Key of `PATHS`: a hash of the path; also what [`Sock::remote_addr`] holds for UNIX sockets.
pub type UnixPathKey = u64;

/// Value of `PATHS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct PathValue {
    /// Bytes valid in `bytes`; an abstract name begins with a zero byte.
    pub len: u32,
    /// The path.
    pub bytes: [u8; PATH_BYTES],
}

const _: () = assert!(size_of::<Sock>() == 96 && align_of::<Sock>() == 8);
const _: () = assert!(core::mem::offset_of!(Sock, remote_addr) == 64);
const _: () = assert!(size_of::<AggKey>() == 32 && align_of::<AggKey>() == 4);
const _: () = assert!(size_of::<AggValue>() == 152 && align_of::<AggValue>() == 8);
const _: () = assert!(size_of::<Head>() == 304 && align_of::<Head>() == 8);
const _: () = assert!(size_of::<HeadKey>() == 16);
const _: () = assert!(size_of::<PathValue>() == 112 && align_of::<PathValue>() == 4);
