//! Uprobes on `google.golang.org/grpc`, whose transport is its own: each stream is an entry from the
//! call that opens it until the transport closes it.
//!
//! The frames of a stream are written by a goroutine of the transport's, so who asked is only known
//! where the stream is made, in the caller's goroutine. Nothing is read of a stream's object, whose
//! members are others in each version; of the transport's own object the connection is found by what
//! it is.

use aya_ebpf::{
    macros::{map, uprobe},
    maps::LruHashMap,
    programs::ProbeContext,
};
use tracer_ebpf::{Counter, GO_CALL, GO_READING, GO_STREAM, GoKey};

use super::hit::{GO_CONNS, Hit, register, set_state};
use crate::core::{helpers::now_ns, maps::count};

/// When streams were closed. One may be before the call that opened it has returned.
#[map]
static GO_CLOSED: LruHashMap<GoKey, u64> = LruHashMap::with_max_entries(2_048, 0);

/// Where `http2Client` may have its connection: after a number, a context and its functions, the
/// user agent, and in some versions an address.
const CONN_FIRST: u64 = 56;
const CONN_LAST: u64 = 152;
/// `Method` of `CallHdr`, after `Host`.
const CALL_METHOD: u64 = 16;

/// `func (t *http2Client) NewStream(ctx context.Context, callHdr *CallHdr, …) (*Stream, error)`: the
/// caller's goroutine opens a stream.
#[uprobe]
pub fn go_grpc_call(ctx: ProbeContext) -> u32 {
    try_call(&ctx);
    0
}

#[inline(always)]
fn try_call(ctx: &ProbeContext) -> Option<()> {
    let hit = Hit::new(ctx)?;
    let transport = register!(hit, ax);
    let header = register!(hit, di);
    // One whose end was not seen has an entry already.
    let conn = hit.conn_or_new(register!(hit, r14), GO_CALL)?;
    conn.flags = 0;
    conn.requests = 0;
    conn.transport = transport;
    hit.locate_within(conn, transport, CONN_FIRST, CONN_LAST);
    hit.call(conn, header, header + CALL_METHOD);
    hit.charge(conn);
    Some(())
}

/// The same where it returns: with a stream, or nil and an error.
#[uprobe]
pub fn go_grpc_stream(ctx: ProbeContext) -> u32 {
    try_stream(&ctx);
    0
}

#[inline(always)]
fn try_stream(ctx: &ProbeContext) -> Option<()> {
    let hit = Hit::new(ctx)?;
    let goroutine = register!(hit, r14);
    let conn = hit.conn(goroutine).filter(|conn| conn.kind == GO_CALL)?;
    let stream = register!(hit, ax);
    if stream != 0 {
        conn.kind = GO_STREAM;
        set_state(conn, GO_READING);
        let began_ns = conn.request_ns;
        let key = hit.key(stream);
        if GO_CONNS.insert(&key, &*conn, 0).is_err() {
            count(Counter::GoConnMapFull);
        }
        // SAFETY: a map lookup; the value is copied at once.
        let closed_ns = unsafe { GO_CLOSED.get(&key) }.copied();
        if closed_ns.is_some_and(|at| at >= began_ns) {
            hit.forget(stream);
        }
    }
    hit.forget(goroutine);
    Some(())
}

/// `func (t *http2Client) closeStream(s *Stream, err error, …)`: it has ended, by whatever end.
#[uprobe]
pub fn go_grpc_close(ctx: ProbeContext) -> u32 {
    if let Some(hit) = Hit::new(&ctx) {
        let stream = register!(hit, bx);
        // First this: where the entry is made at the same time, one of the two sees the other.
        let _ = GO_CLOSED.insert(&hit.key(stream), &now_ns(), 0);
        hit.forget(stream);
    }
    0
}
