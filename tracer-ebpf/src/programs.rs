//! The programs: thin wrappers that name the hook they sit on and hand over.
//!
//! Each names the tracepoint or function, its prototype, since which kernel it exists, in whose
//! context it runs, and what is lost without it.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use crate::{
    descriptors,
    kernel::{Address, Object as _, Typed, read},
    processes, sockets,
    transfers::{MSG_PEEK, transferred},
};

/// The `struct sock *` that is the first argument.
#[inline(always)]
fn socket(ctx: &BtfTracePointContext) -> Typed {
    Typed::new(ctx.arg(0))
}

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`, 4.16.
/// To SYN_SENT and away from ESTABLISHED by us: in the caller's context; else in any.
/// Without it there is no TCP at all.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn tcp_state(ctx: BtfTracePointContext) -> u32 {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    sockets::state_changed(socket(&ctx), old as u8, new as u8);
    0
}

/// `tcp_destroy_sock(struct sock *sk)`, 4.16; any context. Without it ends are seen by scans only.
#[btf_tracepoint(function = "tcp_destroy_sock")]
pub fn tcp_destroy(ctx: BtfTracePointContext) -> u32 {
    sockets::destroyed(socket(&ctx).address());
    0
}

/// `sock_send_length(struct sock *sk, int ret, int flags)`, 6.3; the caller's context, every
/// family. Without it (and without `tcp_sendmsg`): no activity, turns, request heads, and UNIX
/// sockets only by scans.
#[btf_tracepoint(function = "sock_send_length")]
pub fn sent(ctx: BtfTracePointContext) -> u32 {
    transferred(socket(&ctx), ctx.arg(1), true);
    0
}

/// `sock_recv_length(struct sock *sk, int ret, int flags)`, 6.3; the caller's context, every
/// family. Lost without it: as `sent`, and the owner of accepted sockets between scans.
#[btf_tracepoint(function = "sock_recv_length")]
pub fn received(ctx: BtfTracePointContext) -> u32 {
    if ctx.arg::<i32>(2) & MSG_PEEK == 0 {
        transferred(socket(&ctx), ctx.arg(1), false);
    }
    0
}

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`; the parent's
/// context. Without it children are found by user space at sweeps.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn process_fork(ctx: BtfTracePointContext) -> u32 {
    processes::forked(ctx.arg(0), ctx.arg(1));
    0
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`; the
/// process's own context. Without it a program's stacks may be taken for its predecessor's.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(_ctx: BtfTracePointContext) -> u32 {
    processes::executed();
    0
}

/// `sched_process_exit(struct task_struct *p, bool group_dead)`, before 6.16 without the last; the exiting thread's context. Without it user
/// space removes ended processes from the target at sweeps.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(ctx: BtfTracePointContext) -> u32 {
    processes::exited(ctx.arg(0));
    0
}

/// Context of `iter/task_file` (`struct bpf_iter__task_file`, kernel/bpf/task_iter.c, 5.8).
#[repr(C)]
pub struct TaskFile {
    meta: u64,
    task: u64,
    fd: u32,
    pad: u32,
    file: u64,
}

/// One open file of one task; the reader's context. Without it nothing can be reconciled.
///
/// # Safety
/// Only the kernel calls it, with its own context.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub unsafe extern "C" fn scan_descriptors(ctx: *const TaskFile) -> i32 {
    // as plain numbers: the functions that they go to take no others
    let base = ctx as u64;
    let task: Address = read(base, core::mem::offset_of!(TaskFile, task));
    let file: Address = read(base, core::mem::offset_of!(TaskFile, file));
    let fd: u32 = read(base, core::mem::offset_of!(TaskFile, fd));
    if task != 0 && file != 0 {
        descriptors::visit(task, fd, file);
    }
    0
}
