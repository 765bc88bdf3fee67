//! Helpers of the kernel that may be called at any time, with nothing to promise.

use aya_ebpf::helpers::{self, generated};

/// Now, monotonic nanoseconds.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes no arguments and runs in every context.
    unsafe { helpers::bpf_ktime_get_ns() }
}

/// The kernel's tick counter.
#[inline(always)]
pub fn jiffies() -> u64 {
    // SAFETY: as above.
    unsafe { generated::bpf_jiffies64() }
}

/// Address of the current task.
#[inline(always)]
pub fn current_task() -> u64 {
    // SAFETY: as above.
    unsafe { helpers::bpf_get_current_task() }
}

/// Number of this CPU.
#[inline(always)]
pub fn cpu() -> u32 {
    // SAFETY: as above.
    unsafe { helpers::bpf_get_smp_processor_id() }
}

/// Process (upper half) and thread that run.
#[inline(always)]
pub fn current_thread() -> u64 {
    helpers::bpf_get_current_pid_tgid()
}

/// Id of the ancestor at this level of the current task's cgroup; 0 where it is not that deep.
#[inline(always)]
pub fn current_cgroup_at(level: u32) -> u64 {
    // SAFETY: any level may be asked for.
    unsafe { generated::bpf_get_current_ancestor_cgroup_id(level as i32) }
}
