//! Processes come, become others and go.

use aya_ebpf::{
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};

use super::arguments::raw;
use crate::core::{kernel::Address, processes};

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`; the parent's
/// context. Without it children are found by user space at sweeps.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn process_fork(ctx: BtfTracePointContext) -> u32 {
    processes::forked(ctx.arg(0), ctx.arg(1));
    0
}

/// The same, raw.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn raw_process_fork(ctx: RawTracePointContext) -> u32 {
    processes::forked(raw(&ctx, 0), raw(&ctx, 1));
    0
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`; the
/// process's own context. Without it a program's stacks may be taken for its predecessor's.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(_ctx: BtfTracePointContext) -> u32 {
    processes::executed();
    0
}

/// The same, raw.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn raw_process_exec(_ctx: RawTracePointContext) -> u32 {
    processes::executed();
    0
}

/// `sched_process_exit(struct task_struct *p, bool group_dead)`, before 6.16 without the last; the
/// exiting thread's context. Without it user space removes ended processes from the target at sweeps.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(ctx: BtfTracePointContext) -> u32 {
    processes::exited(ctx.arg(0));
    0
}

/// The same, raw.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn raw_process_exit(ctx: RawTracePointContext) -> u32 {
    let task: Address = raw(&ctx, 0);
    processes::exited(task);
    0
}
