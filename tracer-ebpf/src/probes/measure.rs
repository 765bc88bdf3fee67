//! Not attached to anything: run by user space to see what a stack copy costs.

use aya_ebpf::{EbpfContext as _, macros::raw_tracepoint, programs::RawTracePointContext};

use crate::core::capture::copy_once;

/// Copies the current task's stack; the first argument is the size in bytes, 0 for none. Run by
/// `BPF_PROG_TEST_RUN` (for raw tracepoints since 5.10) in the context of the caller.
#[raw_tracepoint]
pub fn measure_copy(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the context of a raw tracepoint is an array of 64-bit arguments, of which user space
    // gives one.
    let bytes = unsafe { core::ptr::read_volatile(ctx.as_ptr() as *const u64) };
    i32::from(bytes == 0 || copy_once(bytes) != 0)
}
