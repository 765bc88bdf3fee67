//! The descriptor scan.

use crate::core::{
    descriptors,
    kernel::{Address, read},
};

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
