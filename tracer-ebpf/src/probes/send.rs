//! A process sends.

use aya_ebpf::{
    macros::{btf_tracepoint, fexit, kprobe, kretprobe, raw_tracepoint},
    programs::{
        BtfTracePointContext, FExitContext, ProbeContext, RawTracePointContext, RetProbeContext,
    },
};

use super::arguments::{argument, raw, sk_of, typed_socket};
use crate::core::{
    calls::{SEND, enter, leave},
    transfers::{Transfer, transferred},
};

/// `sock_send_length(struct sock *sk, int ret, int flags)`, 6.3; the caller's context, every
/// family. Without it (and without `tcp_sendmsg`): no activity, turns, request heads, and UNIX
/// sockets only by scans.
#[btf_tracepoint(function = "sock_send_length")]
pub fn sent(ctx: BtfTracePointContext) -> u32 {
    transferred(typed_socket(&ctx), ctx.arg(1), Transfer::Sent);
    0
}

/// The same, raw.
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub fn raw_sent(ctx: RawTracePointContext) -> u32 {
    transferred(raw(&ctx, 0), raw(&ctx, 1) as i32, Transfer::Sent);
    0
}

// Where sock_send_length is missing (before 6.3); the caller's context.

/// `int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`, net/ipv4/tcp.c.
#[fexit(function = "tcp_sendmsg")]
pub fn tcp_sent(ctx: FExitContext) -> u32 {
    transferred(argument(&ctx, 0), argument(&ctx, 3) as i32, Transfer::Sent);
    0
}

/// `int unix_stream_sendmsg(struct socket *sock, struct msghdr *msg, size_t len)`,
/// net/unix/af_unix.c.
#[fexit(function = "unix_stream_sendmsg")]
pub fn unix_sent(ctx: FExitContext) -> u32 {
    transferred(
        sk_of(argument(&ctx, 0)),
        argument(&ctx, 3) as i32,
        Transfer::Sent,
    );
    0
}

/// As `tcp_sent`: its entry.
#[kprobe]
pub fn k_tcp_send(ctx: ProbeContext) -> u32 {
    enter(SEND, ctx.arg(0).unwrap_or(0), 0)
}

/// As `unix_sent`: its entry.
#[kprobe]
pub fn k_unix_send(ctx: ProbeContext) -> u32 {
    enter(SEND, sk_of(ctx.arg(0).unwrap_or(0)), 0)
}

/// The return of either.
#[kretprobe]
pub fn k_sent(ctx: RetProbeContext) -> u32 {
    if let Some(call) = leave(SEND) {
        transferred(call.sk, ctx.ret::<i32>(), Transfer::Sent);
    }
    0
}
