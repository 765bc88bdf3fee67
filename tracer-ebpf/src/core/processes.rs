//! Processes of the target: forks join it, exits leave it.

use tracer_ebpf::{Counter, FILTER_PROCESS};

use super::{
    capture,
    kernel::{Address, read},
    maps::{TARGETS, count},
    task::{active, current_is_target},
};
use crate::{config, offset};

/// `parent` (the current task) made `child`, a thread or a process.
#[inline(always)]
pub fn forked(parent: Address, child: Address) {
    if config!(filter) != FILTER_PROCESS || !active() {
        return;
    }
    let parent: u32 = read(parent, offset!(task_tgid));
    let child: u32 = read(child, offset!(task_tgid));
    // SAFETY: a map lookup; the value is not kept.
    if child == parent || unsafe { TARGETS.get(&parent) }.is_none() {
        return;
    }
    if TARGETS.insert(&child, &1, 0).is_err() {
        count(Counter::TargetMapFull);
    }
}

/// The current task runs another program now.
#[inline(always)]
pub fn executed() {
    if active() && current_is_target() {
        capture::notify_exec();
    }
}

/// `task` (the current one) exits; the process ends with its last thread.
#[inline(always)]
pub fn exited(task: Address) {
    if config!(filter) != FILTER_PROCESS || !active() {
        return;
    }
    let live: u32 = read(read(task, offset!(task_signal)), offset!(signal_live));
    if live == 0 {
        let _ = TARGETS.remove(&read::<u32>(task, offset!(task_tgid)));
    }
}
