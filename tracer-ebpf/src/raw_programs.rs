//! The tracepoints of `programs` once more, attached as raw tracepoints: for kernels that were
//! built without type information, where a BTF file tells the offsets. Same hooks, same contexts,
//! same losses without them.

use aya_ebpf::{EbpfContext as _, macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    kernel::{Address, read},
    processes, sockets, syscalls,
    transfers::{MSG_PEEK, transferred},
};

/// An argument of the tracepoint as a plain number.
#[inline(always)]
fn argument(ctx: &RawTracePointContext, index: usize) -> u64 {
    read(ctx.as_ptr() as u64, index * size_of::<u64>())
}

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`, 4.16.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn raw_tcp_state(ctx: RawTracePointContext) -> u32 {
    let (old, new) = (argument(&ctx, 1), argument(&ctx, 2));
    sockets::state_changed(argument(&ctx, 0), old as u8, new as u8);
    0
}

/// `tcp_destroy_sock(struct sock *sk)`, 4.16.
#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
pub fn raw_tcp_destroy(ctx: RawTracePointContext) -> u32 {
    sockets::destroyed(argument(&ctx, 0));
    0
}

/// `sock_send_length(struct sock *sk, int ret, int flags)`, 6.3.
#[raw_tracepoint(tracepoint = "sock_send_length")]
pub fn raw_sent(ctx: RawTracePointContext) -> u32 {
    transferred(argument(&ctx, 0), argument(&ctx, 1) as i32, true);
    0
}

/// `sock_recv_length(struct sock *sk, int ret, int flags)`, 6.3.
#[raw_tracepoint(tracepoint = "sock_recv_length")]
pub fn raw_received(ctx: RawTracePointContext) -> u32 {
    if argument(&ctx, 2) as i32 & MSG_PEEK == 0 {
        transferred(argument(&ctx, 0), argument(&ctx, 1) as i32, false);
    }
    0
}

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn raw_process_fork(ctx: RawTracePointContext) -> u32 {
    processes::forked(argument(&ctx, 0), argument(&ctx, 1));
    0
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn raw_process_exec(_ctx: RawTracePointContext) -> u32 {
    processes::executed();
    0
}

/// `sched_process_exit(struct task_struct *p, bool group_dead)`, before 6.16 without the last.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn raw_process_exit(ctx: RawTracePointContext) -> u32 {
    let task: Address = argument(&ctx, 0);
    processes::exited(task);
    0
}

/// `sys_exit(struct pt_regs *regs, long ret)`; the caller's context, at the end of every system
/// call of the host, which is why it is attached on request only. Lost without it where nothing
/// else observes sends and receives: activity, request counts, URLs.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn syscall_transferred(ctx: RawTracePointContext) -> u32 {
    syscalls::transfer_returned(argument(&ctx, 0), argument(&ctx, 1) as i64);
    0
}

/// The same, for `connect` and `accept`. Lost without it where nothing else observes them: the
/// owner and the stack of accepted sockets, and of UNIX connections that are never used.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn syscall_opened(ctx: RawTracePointContext) -> u32 {
    syscalls::opening_returned(argument(&ctx, 0), argument(&ctx, 1) as i64);
    0
}
