//! UNIX stream sockets: their opening and their end; the caller's context.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe, raw_tracepoint},
    programs::{
        BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RawTracePointContext,
        RetProbeContext,
    },
};

use super::arguments::{argument, raw, sk_of, typed_socket};
use crate::core::{
    accepts,
    calls::{ACCEPT, CONNECT, enter, leave},
    unix,
};

/// `int unix_stream_connect(struct socket *sock, struct sockaddr *uaddr, int addr_len, int flags)`.
#[fexit(function = "unix_stream_connect")]
pub fn unix_connected(ctx: FExitContext) -> u32 {
    accepts::unix_opened(sk_of(argument(&ctx, 0)), argument(&ctx, 4) as i32)
}

/// Its entry.
#[kprobe]
pub fn k_unix_connect(ctx: ProbeContext) -> u32 {
    enter(CONNECT, sk_of(ctx.arg(0).unwrap_or(0)), 0)
}

/// Its return.
#[kretprobe]
pub fn k_unix_connected(ctx: RetProbeContext) -> u32 {
    match leave(CONNECT) {
        Some(call) => accepts::unix_opened(call.sk, ctx.ret::<i32>()),
        None => 0,
    }
}

/// `int unix_accept(struct socket *sock, struct socket *newsock, struct proto_accept_arg *arg)`,
/// from 6.10.
#[fexit(function = "unix_accept")]
pub fn unix_accepted3(ctx: FExitContext) -> u32 {
    accepts::unix_opened(sk_of(argument(&ctx, 1)), argument(&ctx, 3) as i32)
}

/// The same until 6.9.
#[fexit(function = "unix_accept")]
pub fn unix_accepted4(ctx: FExitContext) -> u32 {
    accepts::unix_opened(sk_of(argument(&ctx, 1)), argument(&ctx, 4) as i32)
}

/// As `unix_accepted3`: its entry. The new socket has no `struct sock` yet.
#[kprobe]
pub fn k_unix_accept(ctx: ProbeContext) -> u32 {
    enter(ACCEPT, ctx.arg(1).unwrap_or(0), 0)
}

/// Its return.
#[kretprobe]
pub fn k_unix_accepted(ctx: RetProbeContext) -> u32 {
    match leave(ACCEPT) {
        Some(call) => accepts::unix_opened(sk_of(call.sk), ctx.ret::<i32>()),
        None => 0,
    }
}

/// `sk_data_ready(const struct sock *sk)`, 6.3; whoever makes a socket readable: of a UNIX listener
/// the caller of `connect`. Accepting is not seen by it.
#[btf_tracepoint(function = "sk_data_ready")]
pub fn unix_queued(ctx: BtfTracePointContext) -> u32 {
    accepts::unix_queued(typed_socket(&ctx))
}

/// The same, raw.
#[raw_tracepoint(tracepoint = "sk_data_ready")]
pub fn raw_unix_queued(ctx: RawTracePointContext) -> u32 {
    accepts::unix_queued(raw(&ctx, 0))
}

/// `int unix_release(struct socket *sock)`: the last descriptor was closed.
#[fentry(function = "unix_release")]
pub fn unix_closed(ctx: FEntryContext) -> u32 {
    unix::closed(sk_of(argument(&ctx, 0)))
}

/// The same.
#[kprobe]
pub fn k_unix_closed(ctx: ProbeContext) -> u32 {
    unix::closed(sk_of(ctx.arg(0).unwrap_or(0)))
}
