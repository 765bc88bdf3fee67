//! Uprobes on functions of Go's `net/http`: the state of each client and server connection, with
//! the stack that issued the latest request; and on the closing of connections, which tells what a
//! finalizer had to close. Where they sit and what they find there: [`crate::go_hit`].

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::{map, uprobe},
    maps::HashMap,
    programs::ProbeContext,
};
use tracer_ebpf::{
    GO_CLIENT, GO_HANDED_OVER, GO_IDLE, GO_IN_FLIGHT, GO_NEW, GO_RESPONSE, GO_SERVER,
    GoFinalizedKey, SOCK_READING,
};

use crate::{
    go_hit::{Hit, register, set_state},
    kernel::read_user,
    maps::SOCKS,
};

/// Connections closed by a finalizer.
#[map]
pub static GO_FINALIZED: HashMap<GoFinalizedKey, u64> = HashMap::with_max_entries(1_024, 0);

/// The first bytes of `net/http.errCallerOwnsConn`.
const OWNER_ERROR: [u64; 2] = [
    u64::from_le_bytes(*b"read loo"),
    u64::from_le_bytes(*b"p ending"),
];
// `net/http.ConnState`
const STATE_NEW: u64 = 0;
const STATE_ACTIVE: u64 = 1;
const STATE_IDLE: u64 = 2;
const STATE_HIJACKED: u64 = 3;

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
    if conn.state != GO_IDLE || conn.sk == 0 {
        let [table, data]: [u64; 2] = read_user(object + u64::from(hit.layout.conn_conn));
        hit.locate(conn, table, data);
        conn.transport = read_user(object + u64::from(hit.layout.conn_transport));
        conn.requests = 0;
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

/// `func (pc *persistConn) readResponse(rc requestAndChan, trace *httptrace.ClientTrace)`: the
/// first byte of a response has come.
#[uprobe]
pub fn go_read_response(ctx: ProbeContext) -> u32 {
    if let Some(hit) = Hit::new(&ctx)
        && let Some(conn) = hit.conn(register!(hit, ax))
    {
        set_state(conn, GO_RESPONSE);
        // A UNIX socket may have come into view with its first transfer only.
        hit.charge(conn);
    }
    0
}

/// `func (t *Transport) tryPutIdleConn(pconn *persistConn) error`: the response is finished, or a
/// connection was dialled that nobody waits for any more.
#[uprobe]
pub fn go_put_idle(ctx: ProbeContext) -> u32 {
    try_put_idle(&ctx);
    0
}

#[inline(always)]
fn try_put_idle(ctx: &ProbeContext) -> Option<()> {
    let hit = Hit::new(ctx)?;
    let object = register!(hit, bx);
    // HTTP/2 connections are shared and pooled elsewhere.
    if read_user::<u64>(object + u64::from(hit.layout.conn_alt)) != 0 {
        return None;
    }
    let conn = hit.conn_or_new(object, GO_CLIENT)?;
    if conn.sk == 0 {
        let [table, data]: [u64; 2] = read_user(object + u64::from(hit.layout.conn_conn));
        hit.locate(conn, table, data);
        conn.transport = register!(hit, ax);
    }
    set_state(conn, GO_IDLE);
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

/// `func (pc *persistConn) Read(p []byte) (n int, err error)`: the transport, or whoever reads the
/// body, wants more from the socket. What is received clears the mark again.
#[uprobe]
pub fn go_read(ctx: ProbeContext) -> u32 {
    if let Some(hit) = Hit::new(&ctx)
        && let Some(conn) = hit.conn(register!(hit, ax))
        && let Some(sock) = SOCKS.get_ptr_mut(&conn.sk)
    {
        // SAFETY: a live map value.
        unsafe { (*sock).flags |= SOCK_READING };
    }
    0
}

/// `func (c *conn) setState(nc net.Conn, state ConnState, runHook bool)`: a server connection.
#[uprobe]
pub fn go_server_state(ctx: ProbeContext) -> u32 {
    try_server_state(&ctx);
    0
}

#[inline(always)]
fn try_server_state(ctx: &ProbeContext) -> Option<()> {
    let hit = Hit::new(ctx)?;
    let object = register!(hit, ax);
    let state = match register!(hit, di) {
        STATE_NEW => GO_NEW,
        STATE_ACTIVE => GO_IN_FLIGHT,
        STATE_IDLE => GO_IDLE,
        STATE_HIJACKED => GO_HANDED_OVER,
        _ => {
            hit.forget(object);
            return None;
        }
    };
    let conn = hit.conn_or_new(object, GO_SERVER)?;
    if state == GO_NEW || conn.sk == 0 {
        hit.locate(conn, register!(hit, bx), register!(hit, cx));
    }
    if state == GO_IN_FLIGHT {
        conn.requests += 1;
        // SAFETY: the helper has no preconditions.
        conn.request_ns = unsafe { bpf_ktime_get_ns() };
    }
    set_state(conn, state);
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
