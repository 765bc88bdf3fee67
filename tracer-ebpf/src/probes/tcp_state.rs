//! A TCP socket changes its state, and its end.

use aya_ebpf::{
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};

use super::arguments::{raw, typed_socket};
use crate::core::{ends, kernel::Object as _, sockets};

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`, 4.16.
/// To SYN_SENT and away from ESTABLISHED by us: in the caller's context; else in any.
/// Without it there is no TCP at all.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tcp_state(ctx: BtfTracePointContext) -> u32 {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    sockets::state_changed(typed_socket(&ctx), old as u8, new as u8);
    0
}

/// The same, raw: for kernels that were built without type information.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn raw_tcp_state(ctx: RawTracePointContext) -> u32 {
    let (old, new) = (raw(&ctx, 1), raw(&ctx, 2));
    sockets::state_changed(raw(&ctx, 0), old as u8, new as u8);
    0
}

/// `tcp_destroy_sock(struct sock *sk)`, 4.16; any context. Without it ends are seen by scans only.
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn tcp_destroy(ctx: BtfTracePointContext) -> u32 {
    ends::destroyed(typed_socket(&ctx).address());
    0
}

/// The same, raw.
#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
pub fn raw_tcp_destroy(ctx: RawTracePointContext) -> u32 {
    ends::destroyed(raw(&ctx, 0));
    0
}
