//! What a runtime knows of its programs' connections, as the session takes it.

use std::sync::Arc;

use crate::{
    model::{Connection, PoolState, Site},
    protocols::Request,
};

/// What a program says of one of its sockets.
#[derive(Debug, Clone)]
pub struct Told {
    /// The kernel's socket.
    pub sk: u64,
    /// Its inode: the kernel may use the socket's memory again before the program is asked again.
    pub inode: u32,
    /// Process.
    pub tgid: u32,
    /// State in its pool.
    pub state: PoolState,
    /// The latest request.
    pub request: Option<Request>,
    /// Number of the stack of whoever issued it, for [`super::Runtime::site`].
    pub stack: Option<u32>,
    /// Requests so far, which are counted for clients only.
    pub requests: u32,
    /// When the latest request began, monotonic nanoseconds.
    pub request_ns: Option<u64>,
    /// A connection of a server, which has no request and no pool.
    pub server: bool,
    /// A server's connection without a request so far.
    pub fresh: bool,
    /// The pool that it belongs to.
    pub pool: u64,
    /// Pool and host of the latest request, as a hash.
    pub host: Option<u64>,
    /// The stack of the latest request, with a function to blame that has asked again within the same
    /// call of a client, and left the answer to this request open.
    pub again: Option<Arc<Site>>,
}

impl Told {
    /// Puts what the pool knows in place of what the kernel guesses.
    pub fn correct(&self, connection: &mut Connection) {
        if self.server {
            // Which of them are served and which are idle is told in the report only: the rules
            // for servers go by what the kernel sees.
            return;
        }
        connection.pool = self.state;
        // Handshakes of TLS look like turns to the kernel.
        connection.turns = self.requests;
        connection.turn_ns = self.request_ns.or(connection.turn_ns);
    }
}

/// One of several requests that share a connection (HTTP/2): a leak by itself when it never ends.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Process.
    pub tgid: u32,
    /// What tells it from others of the process: the address of its object.
    pub object: u64,
    /// The kernel's socket of the connection.
    pub sk: u64,
    /// Its descriptor.
    pub fd: Option<i32>,
    /// State.
    pub state: PoolState,
    /// The request.
    pub request: Option<Request>,
    /// Number of the stack of whoever issued it, for [`super::Runtime::site`].
    pub stack: Option<u32>,
    /// When it began, monotonic nanoseconds.
    pub began_ns: u64,
    /// When its state last changed, monotonic nanoseconds.
    pub last_progress_ns: u64,
}

/// Connections of a call site that a garbage collector had to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    /// Process.
    pub tgid: u32,
    /// The opener's stack.
    pub open_stack: u32,
    /// The latest request's stack.
    pub request_stack: u32,
    /// How many, since watching began.
    pub count: u64,
}
