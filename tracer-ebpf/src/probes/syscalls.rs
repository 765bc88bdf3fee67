//! Every system call of the host returns: the last resort for several events.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use super::arguments::raw;
use crate::core::syscalls;

/// `sys_exit(struct pt_regs *regs, long ret)`; the caller's context, at the end of every system
/// call of the host, which is why it is attached on request only. Lost without it where nothing
/// else observes sends and receives: activity, request counts, URLs.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn syscall_transferred(ctx: RawTracePointContext) -> u32 {
    syscalls::transfer_returned(raw(&ctx, 0), raw(&ctx, 1) as i64);
    0
}

/// The same, for `connect` and `accept`. Lost without it where nothing else observes them: the
/// owner and the stack of accepted sockets, and of UNIX connections that are never used.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn syscall_opened(ctx: RawTracePointContext) -> u32 {
    syscalls::opening_returned(raw(&ctx, 0), raw(&ctx, 1) as i64);
    0
}
