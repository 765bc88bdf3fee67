//! Uprobes on Go's HTTP/2: each stream is an entry of its own, because one that is never ended is
//! a leak, however healthy the connection that carries it.
//!
//! The same code exists up to three times: in `net/http` (before Go 1.27, with a prefix `http2` to
//! its names), in `net/http/internal/http2` (since), and in `golang.org/x/net/http2`.

use aya_ebpf::{macros::uprobe, programs::ProbeContext};
use tracer_ebpf::{Counter, GO_READING, GO_RESPONSE, GO_STREAM};

use super::hit::{GO_CONNS, Hit, register, set_state};
use crate::core::{kernel::read_user, maps::count};

/// `func (p *pipe) Read(d []byte) (n int, err error)` of HTTP/2: somebody reads a stream's body.
/// (Servers use the same type; theirs are no streams of ours.)
#[uprobe]
pub fn go_stream_read(ctx: ProbeContext) -> u32 {
    stream_moves(&ctx, GO_READING);
    0
}

/// `func (p *pipe) Write(d []byte) (n int, err error)` of HTTP/2: a part of a stream's body came.
#[uprobe]
pub fn go_stream_data(ctx: ProbeContext) -> u32 {
    stream_moves(&ctx, GO_RESPONSE);
    0
}

#[inline(always)]
fn stream_moves(ctx: &ProbeContext, state: u8) {
    if let Some(hit) = Hit::new(ctx) {
        let stream = register!(hit, ax).wrapping_sub(u64::from(hit.layout.stream_pipe));
        // What comes while nobody reads is no progress: the time of the first unread part counts.
        if let Some(conn) = hit.conn(stream)
            && (state == GO_READING || conn.state != GO_RESPONSE)
        {
            set_state(conn, state);
        }
    }
}

/// `func (cc *ClientConn) roundTrip(req, …)` of HTTP/2 (`RoundTrip` before Go 1.23): the
/// requester's goroutine opens a stream.
#[uprobe]
pub fn go_stream_round_trip(ctx: ProbeContext) -> u32 {
    if let Some(hit) = Hit::new(&ctx) {
        let (method, url) = (hit.layout.stream_method, hit.layout.stream_url);
        stream_begins(&hit, method, url);
    }
    0
}

/// As [`go_stream_round_trip`], of `golang.org/x/net/http2`, which hands over a `*http.Request` in
/// every version.
#[uprobe]
pub fn go_module_round_trip(ctx: ProbeContext) -> u32 {
    if let Some(hit) = Hit::new(&ctx) {
        let (method, url) = (hit.layout.request_method, hit.layout.request_url);
        stream_begins(&hit, method, url);
    }
    0
}

#[inline(always)]
fn stream_begins(hit: &Hit, method: u32, url: u32) -> Option<()> {
    let shared = register!(hit, ax);
    let request = register!(hit, bx);
    // A retried request has an entry already.
    let conn = hit.conn_or_new(request, GO_STREAM)?;
    let [table, data]: [u64; 2] = read_user(shared + u64::from(hit.layout.stream_conn));
    hit.locate(conn, table, data);
    conn.transport = shared;
    conn.requests = 0;
    hit.request(conn, request, method, url);
    hit.charge(conn);
    Some(())
}

/// `func (cs *clientStream) doRequest(req, …)`: the stream's own goroutine starts.
#[uprobe]
pub fn go_stream_start(ctx: ProbeContext) -> u32 {
    if let Some(hit) = Hit::new(&ctx) {
        let request = register!(hit, bx);
        if let Some(conn) = hit.conn(request) {
            let stream = hit.key(register!(hit, ax));
            if GO_CONNS.insert(&stream, &*conn, 0).is_err() {
                count(Counter::GoConnMapFull);
            }
            hit.forget(request);
        }
    }
    0
}

/// `func (rl *clientConnReadLoop) handleResponse(cs *clientStream, …)`: response headers came.
#[uprobe]
pub fn go_stream_response(ctx: ProbeContext) -> u32 {
    if let Some(hit) = Hit::new(&ctx)
        && let Some(conn) = hit.conn(register!(hit, bx))
    {
        set_state(conn, GO_RESPONSE);
    }
    0
}

/// `func (cs *clientStream) cleanupWriteRequest(err error)`: the stream has ended.
#[uprobe]
pub fn go_stream_end(ctx: ProbeContext) -> u32 {
    if let Some(hit) = Hit::new(&ctx) {
        hit.forget(register!(hit, ax));
    }
    0
}
