//! Uprobes on functions of Go's `net/http`: which client and server connections there are, with the
//! stack that issued the latest request; and on the closing of connections, which tells what a
//! finalizer had to close. Where they sit and what they find there: [`super::hit`].
//!
//! What a trap costs is many times what its program does, so only one of them is on the way of each
//! request; how a connection is doing can be read from the program's memory at any time.

use aya_ebpf::{
    macros::{map, uprobe},
    maps::HashMap,
    programs::ProbeContext,
};
use tracer_ebpf::{GO_CLIENT, GO_HANDED_OVER, GO_NEW, GO_SERVER, GoConn, GoFinalizedKey};

use super::hit::{Hit, register, set_state};
use crate::core::{kernel::read_user, maps::SOCKS};

/// Connections closed by a finalizer.
#[map]
pub static GO_FINALIZED: HashMap<GoFinalizedKey, u64> = HashMap::with_max_entries(1_024, 0);

/// The first bytes of `net/http.errCallerOwnsConn`.
const OWNER_ERROR: [u64; 2] = [
    u64::from_le_bytes(*b"read loo"),
    u64::from_le_bytes(*b"p ending"),
];

/// `func (pc *persistConn) readLoop()`: a connection was dialled, and its own goroutine starts. It
/// may do so after the first request on it, or at the same time, so what a request sets is left
/// alone.
#[uprobe]
pub fn go_read_loop(ctx: ProbeContext) -> u32 {
    try_read_loop(&ctx);
    0
}

#[inline(always)]
fn try_read_loop(ctx: &ProbeContext) -> Option<()> {
    let hit = Hit::new(ctx)?;
    let object = register!(hit, ax);
    let conn = hit.conn_or_new(object, GO_CLIENT)?;
    if conn.sk == 0 {
        dialled(&hit, conn, object);
    }
    Some(())
}

/// What a `persistConn` says of itself.
#[inline(always)]
fn dialled(hit: &Hit, conn: &mut GoConn, object: u64) {
    let [table, data]: [u64; 2] = read_user(object + u64::from(hit.layout.conn_conn));
    hit.locate(conn, table, data);
    conn.transport = read_user(object + u64::from(hit.layout.conn_transport));
}

/// `func (pc *persistConn) roundTrip(req *transportRequest)`, Go 1.21 to 1.27: the requester's
/// goroutine hands a request to a connection that it got from the pool or had dialled.
#[uprobe]
pub fn go_round_trip(ctx: ProbeContext) -> u32 {
    try_round_trip(&ctx);
    0
}

#[inline(always)]
fn try_round_trip(ctx: &ProbeContext) -> Option<()> {
    let hit = Hit::new(ctx)?;
    let object = register!(hit, ax);
    let conn = hit.conn_or_new(object, GO_CLIENT)?;
    if conn.sk == 0 {
        dialled(&hit, conn, object);
    }
    // `transportRequest` begins with a pointer to the request.
    let request: u64 = read_user(register!(hit, bx));
    hit.request(
        conn,
        request,
        hit.layout.request_method,
        hit.layout.request_url,
    );
    hit.charge(conn);
    Some(())
}

/// `func (pc *persistConn) closeLocked(err error)`: the pool is done with it.
#[uprobe]
pub fn go_close(ctx: ProbeContext) -> u32 {
    if let Some(hit) = Hit::new(&ctx) {
        let object = register!(hit, ax);
        // After an upgrade the caller owns it; in every other case it is closed now. The error is
        // a pointer to a string.
        let message: u64 = read_user(register!(hit, cx));
        if read_user::<[u64; 2]>(message) == OWNER_ERROR {
            if let Some(conn) = hit.conn(object) {
                set_state(conn, GO_HANDED_OVER);
            }
        } else {
            hit.forget(object);
        }
    }
    0
}

/// `func (s *Server) trackConn(c *conn, add bool)`: a server has a new connection, or none of its
/// business any more: closed, or hijacked.
#[uprobe]
pub fn go_server_conn(ctx: ProbeContext) -> u32 {
    try_server_conn(&ctx);
    0
}

#[inline(always)]
fn try_server_conn(ctx: &ProbeContext) -> Option<()> {
    let hit = Hit::new(ctx)?;
    let object = register!(hit, bx);
    // The upper bits of a boolean's register mean nothing.
    let add = register!(hit, cx) as u8 != 0;
    if add {
        let conn = hit.conn_or_new(object, GO_SERVER)?;
        conn.flags = 0;
        let [table, data]: [u64; 2] = read_user(object + u64::from(hit.layout.server_conn));
        hit.locate(conn, table, data);
        set_state(conn, GO_NEW);
    } else if read_user::<u8>(object + u64::from(hit.layout.server_hijacked)) == 0 {
        hit.forget(object);
    } else {
        set_state(hit.conn(object)?, GO_HANDED_OVER);
    }
    Some(())
}

/// `func (fd *netFD) Close() error`: of interest when a finalizer calls it, because then the
/// program had lost the connection without closing it.
#[uprobe]
pub fn go_net_close(ctx: ProbeContext) -> u32 {
    try_net_close(&ctx);
    0
}

#[inline(always)]
fn try_net_close(ctx: &ProbeContext) -> Option<()> {
    let hit = Hit::new(ctx)?;
    let goroutine = register!(hit, r14);
    let start: u64 = read_user(goroutine + u64::from(hit.layout.g_startpc));
    let start = start.wrapping_sub(hit.bias);
    if start != hit.layout.finalizers[0] && start != hit.layout.finalizers[1] {
        return None;
    }
    let fd: i32 = read_user(register!(hit, ax) + u64::from(hit.layout.fd_sysfd));
    let mut inode = 0;
    let sk = hit.socket(fd, &mut inode);
    let mut key = GoFinalizedKey {
        tgid: hit.tgid,
        ..GoFinalizedKey::default()
    };
    // SAFETY: a map lookup; the values are copied at once.
    if let Some(sock) = unsafe { SOCKS.get(&sk) } {
        key.open_stack = sock.open_stack;
        key.request_stack = sock.request_stack;
    }
    if let Some(known) = GO_FINALIZED.get_ptr_mut(&key) {
        // SAFETY: a live map value; one goroutine runs the finalizers of a process.
        unsafe { *known += 1 };
    } else {
        let _ = GO_FINALIZED.insert(&key, &1, 0);
    }
    Some(())
}
