//! A process receives.

use aya_ebpf::{
    macros::{btf_tracepoint, fexit, kprobe, raw_tracepoint},
    programs::{BtfTracePointContext, FExitContext, ProbeContext, RawTracePointContext},
};

use super::arguments::{argument, raw, sk_of, typed_socket};
use crate::core::{
    calls::{RECEIVE_TCP, RECEIVE_UNIX, enter_unwatched, entered, missed},
    kernel::Address,
    sockets::entry,
    transfers::{MSG_PEEK, Transfer, transferred},
};
use tracer_ebpf::CallValue;

/// `sock_recv_length(struct sock *sk, int ret, int flags)`, 6.3; the caller's context, every
/// family. Lost without it: as `sent`, and the owner of accepted sockets between scans.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn received(ctx: BtfTracePointContext) -> u32 {
    if ctx.arg::<i32>(2) & MSG_PEEK == 0 {
        transferred(typed_socket(&ctx), ctx.arg(1), Transfer::Received);
    }
    0
}

/// The same, raw.
#[raw_tracepoint(tracepoint = "sock_recv_length")]
pub fn raw_received(ctx: RawTracePointContext) -> u32 {
    if raw(&ctx, 2) as i32 & MSG_PEEK == 0 {
        transferred(raw(&ctx, 0), raw(&ctx, 1) as i32, Transfer::Received);
    }
    0
}

// Where sock_recv_length is missing (before 6.3); the caller's context.

#[inline(always)]
fn receive(sk: Address, flags: u64, result: i32) -> u32 {
    if flags as i32 & MSG_PEEK == 0 {
        transferred(sk, result, Transfer::Received);
    }
    0
}

/// A part of what a call receives: `bytes` more, so that it has copied `copied`, which may not be in
/// the caller's buffer yet.
#[inline(always)]
fn receive_part(call: &mut CallValue, bytes: i32, copied: u64, is_there: bool) -> u32 {
    let transfer = if is_there && call.copied == 0 {
        Transfer::Received
    } else {
        Transfer::Receiving
    };
    call.copied = copied;
    if call.flags as i32 & MSG_PEEK == 0 {
        transferred(call.sk, bytes, transfer);
    }
    0
}

/// `int tcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags)`, from 7.1.
#[fexit(function = "tcp_recvmsg")]
pub fn tcp_received4(ctx: FExitContext) -> u32 {
    receive(
        argument(&ctx, 0),
        argument(&ctx, 3),
        argument(&ctx, 4) as i32,
    )
}

/// The same with `int *addr_len` at the end, 5.19 to 7.0.
#[fexit(function = "tcp_recvmsg")]
pub fn tcp_received5(ctx: FExitContext) -> u32 {
    receive(
        argument(&ctx, 0),
        argument(&ctx, 3),
        argument(&ctx, 5) as i32,
    )
}

/// The same with `int nonblock` before the flags, until 5.18.
#[fexit(function = "tcp_recvmsg")]
pub fn tcp_received6(ctx: FExitContext) -> u32 {
    receive(
        argument(&ctx, 0),
        argument(&ctx, 4),
        argument(&ctx, 6) as i32,
    )
}

/// `int unix_stream_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags)`.
#[fexit(function = "unix_stream_recvmsg")]
pub fn unix_received(ctx: FExitContext) -> u32 {
    receive(
        sk_of(argument(&ctx, 0)),
        argument(&ctx, 3),
        argument(&ctx, 4) as i32,
    )
}

/// As `tcp_received4` and `tcp_received5`: their entry.
#[kprobe]
pub fn k_tcp_receive(ctx: ProbeContext) -> u32 {
    enter_unwatched(
        RECEIVE_TCP,
        ctx.arg(0).unwrap_or(0),
        ctx.arg(3).unwrap_or(0),
    )
}

/// As `tcp_received6`: its entry.
#[kprobe]
pub fn k_tcp_receive6(ctx: ProbeContext) -> u32 {
    enter_unwatched(
        RECEIVE_TCP,
        ctx.arg(0).unwrap_or(0),
        ctx.arg(4).unwrap_or(0),
    )
}

/// What `tcp_recvmsg` calls when it has copied something, so that no return need be waited for: as
/// many threads may wait in it as there are, and the kernel remembers returns for ten.
/// `void tcp_cleanup_rbuf(struct sock *sk, int copied)`, net/ipv4/tcp.c.
#[kprobe]
pub fn k_tcp_received(ctx: ProbeContext) -> u32 {
    let sk: Address = ctx.arg(0).unwrap_or(0);
    let copied: i32 = ctx.arg(1).unwrap_or(0);
    match entered(RECEIVE_TCP) {
        // it says again what it said before
        Some(call) if call.sk == sk && copied > 0 => {
            let more = copied - call.copied as i32;
            receive_part(call, more, copied as u64, true)
        }
        None if copied > 0 && entry(sk).is_some() => missed(),
        _ => 0,
    }
}

/// As `unix_received`: its entry.
#[kprobe]
pub fn k_unix_receive(ctx: ProbeContext) -> u32 {
    let sk = sk_of(ctx.arg(0).unwrap_or(0));
    enter_unwatched(RECEIVE_UNIX, sk, ctx.arg(3).unwrap_or(0))
}

/// What it calls to copy each piece, for the same reason: `int unix_stream_read_actor(struct
/// sk_buff *skb, int skip, int chunk, struct unix_stream_read_state *state)`, net/unix/af_unix.c.
#[kprobe]
pub fn k_unix_received(ctx: ProbeContext) -> u32 {
    match entered(RECEIVE_UNIX) {
        Some(call) => {
            let bytes: i32 = ctx.arg(2).unwrap_or(0);
            let copied = call.copied + bytes as u64;
            receive_part(call, bytes, copied, false)
        }
        None => missed(),
    }
}
