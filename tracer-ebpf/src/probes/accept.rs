//! A process accepts a TCP connection: the owner and its stack at once; the caller's context.

use aya_ebpf::{
    macros::{fexit, kretprobe},
    programs::{FExitContext, RetProbeContext},
};

use super::arguments::{argument, sk_of};
use crate::core::accepts;

/// `int inet_accept(struct socket *sock, struct socket *newsock, struct proto_accept_arg *arg)`,
/// from 6.10.
#[fexit(function = "inet_accept")]
pub fn tcp_accepted3(ctx: FExitContext) -> u32 {
    accepts::accepted(sk_of(argument(&ctx, 1)), argument(&ctx, 3) as i32)
}

/// The same with `int flags, bool kern` in place of `arg`, until 6.9.
#[fexit(function = "inet_accept")]
pub fn tcp_accepted4(ctx: FExitContext) -> u32 {
    accepts::accepted(sk_of(argument(&ctx, 1)), argument(&ctx, 4) as i32)
}

/// `struct sock *inet_csk_accept(struct sock *sk, …)`: the return value is the new socket.
#[kretprobe]
pub fn k_tcp_accepted(ctx: RetProbeContext) -> u32 {
    let sk: u64 = ctx.ret();
    accepts::accepted(sk, if sk == 0 { -1 } else { 0 })
}
