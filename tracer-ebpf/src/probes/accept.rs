//! A process accepts a TCP connection: the owner and its stack at once; the caller's context.

use aya_ebpf::{
    macros::{fexit, kretprobe},
    programs::{FExitContext, RetProbeContext},
};

use super::arguments::argument;
use crate::core::accepts;

/// `struct sock *inet_csk_accept(struct sock *sk, struct proto_accept_arg *arg)`, from 6.10,
/// net/ipv4/inet_connection_sock.c: the return value is the new socket. Listeners of MPTCP come by
/// here, too.
#[fexit(function = "inet_csk_accept")]
pub fn tcp_accepted2(ctx: FExitContext) -> u32 {
    accepts::accepted(argument(&ctx, 2))
}

/// The same with `int flags, int *err, bool kern` in place of `arg`, until 6.9.
#[fexit(function = "inet_csk_accept")]
pub fn tcp_accepted4(ctx: FExitContext) -> u32 {
    accepts::accepted(argument(&ctx, 4))
}

/// The same.
#[kretprobe]
pub fn k_tcp_accepted(ctx: RetProbeContext) -> u32 {
    accepts::accepted(ctx.ret())
}
