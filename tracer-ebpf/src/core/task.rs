//! The current task: whether it is watched, and where its user code was.

use core::mem::offset_of;

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use tracer_ebpf::{FILTER_CGROUP, FILTER_HOST, FILTER_PROCESS, Offsets};

use super::{
    helpers::{current_cgroup_at, current_task, current_thread},
    kernel::{Address, Object as _, Typed, read},
    maps::{ACTIVE, TARGETS},
};
use crate::{config, offset};

/// Whether this set of programs is the one that collects.
#[inline(always)]
pub fn active() -> bool {
    let generation = config!(generation);
    generation == 0 || ACTIVE.get(0).is_some_and(|active| *active == generation)
}

/// The current process.
#[inline(always)]
pub fn current_tgid() -> u32 {
    (current_thread() >> 32) as u32
}

/// The current thread.
#[inline(always)]
pub fn current_tid() -> u32 {
    current_thread() as u32
}

/// Whether the current process is to be watched.
#[inline(always)]
pub fn current_is_target() -> bool {
    let tgid = current_tgid();
    match config!(filter) {
        // SAFETY: a map lookup; the value is not kept.
        FILTER_PROCESS => unsafe { TARGETS.get(&tgid) }.is_some(),
        FILTER_CGROUP => current_cgroup(config!(cgroup_level)) == config!(cgroup_id),
        FILTER_HOST => tgid != 0 && tgid != config!(own_tgid),
        _ => false,
    }
}

/// Id of the current task's cgroup v2, or of the ancestor of it at this level; 0 where it is not
/// that deep. 5.10 has the helper for other programs only (kernel/trace/bpf_trace.c); kernels that
/// may lack it have the ids in the cgroup itself.
#[inline(always)]
fn current_cgroup(level: u32) -> u64 {
    if offset!(cgroup_ancestor_ids) == Offsets::MISSING as usize {
        return current_cgroup_at(level);
    }
    let task = current_task();
    let set: Address = read(task, offset!(task_cgroups));
    let cgroup: Address = read(set, offset!(css_set_dfl_cgrp));
    if level > read::<u32>(cgroup, offset!(cgroup_level)) {
        return 0;
    }
    let of_level = level as usize * size_of::<u64>();
    read(cgroup, offset!(cgroup_ancestor_ids) + of_level)
}

/// The user registers of a task, as `struct pt_regs` has them on x86-64
/// (arch/x86/include/asm/ptrace.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct UserRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub bp: u64,
    pub bx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub ax: u64,
    pub cx: u64,
    pub dx: u64,
    pub si: u64,
    pub di: u64,
    pub orig_ax: u64,
    pub ip: u64,
    pub cs: u64,
    pub flags: u64,
    pub sp: u64,
}

/// The registers that a callee must preserve, as the user left them: the start of [`UserRegs`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SavedRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub bp: u64,
    pub bx: u64,
}

/// Where the user was.
#[derive(Clone, Copy, Default)]
pub struct Position {
    pub ip: u64,
    pub sp: u64,
}

/// Size of a kernel stack on x86-64 without KASAN (`THREAD_SIZE`), for kernels that lack
/// `bpf_task_pt_regs`.
const THREAD_SIZE: u64 = 16 << 10;
/// Code segment of 64-bit user code (`__USER_CS`).
const USER_CS: u16 = 0x33;

/// Address of the current task's saved user registers, where there is no helper for it.
#[inline(always)]
fn user_regs_address() -> Address {
    let task = current_task();
    read::<u64>(task, offset!(task_stack)) + THREAD_SIZE - offset!(regs_size) as u64
}

/// The same as an object.
#[inline(always)]
fn user_regs() -> Typed {
    // SAFETY: both helpers are valid in every context that these programs run in.
    Typed::new(unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64)
}

/// A word of the current task's saved user registers.
#[inline(always)]
fn user_reg(offset: usize) -> u64 {
    if config!(have_task_regs) != 0 {
        user_regs().get(offset)
    } else {
        read(user_regs_address(), offset)
    }
}

/// Where the current task was in user code, or `None` outside 64-bit user tasks.
#[inline(always)]
pub fn position() -> Option<Position> {
    const IP: usize = offset_of!(UserRegs, ip);
    const CS: usize = offset_of!(UserRegs, cs);
    const SP: usize = offset_of!(UserRegs, sp);
    // the segment is 16 bits wide; some kernels keep other things beside it
    let (cs, position): (u16, Position) = if config!(have_task_regs) != 0 {
        let regs = user_regs();
        let (ip, sp) = (regs.get(IP), regs.get(SP));
        (regs.get(CS), Position { ip, sp })
    } else {
        let regs = user_regs_address();
        let (ip, sp) = (read(regs, IP), read(regs, SP));
        (read(regs, CS), Position { ip, sp })
    };
    if cs == USER_CS { Some(position) } else { None }
}

/// The system call that the current task is in.
#[derive(Clone, Copy)]
pub struct Call {
    /// Its number.
    pub number: u64,
    /// Its second argument.
    pub second: u64,
}

/// That of the current task, `None` outside 64-bit user tasks.
#[inline(always)]
pub fn current_call() -> Option<Call> {
    const CS: usize = offset_of!(UserRegs, cs);
    const NUMBER: usize = offset_of!(UserRegs, orig_ax);
    const SECOND: usize = offset_of!(UserRegs, si);
    let (cs, number, second): (u16, u64, u64) = if config!(have_task_regs) != 0 {
        let regs = user_regs();
        (regs.get(CS), regs.get(NUMBER), regs.get(SECOND))
    } else {
        let regs = user_regs_address();
        (read(regs, CS), read(regs, NUMBER), read(regs, SECOND))
    };
    if cs == USER_CS {
        Some(Call { number, second })
    } else {
        None
    }
}

/// The registers that callees preserve.
#[inline(always)]
pub fn saved_regs() -> SavedRegs {
    if config!(have_task_regs) != 0 {
        let regs = user_regs();
        SavedRegs {
            r15: regs.get(offset_of!(UserRegs, r15)),
            r14: regs.get(offset_of!(UserRegs, r14)),
            r13: regs.get(offset_of!(UserRegs, r13)),
            r12: regs.get(offset_of!(UserRegs, r12)),
            bp: regs.get(offset_of!(UserRegs, bp)),
            bx: regs.get(offset_of!(UserRegs, bx)),
        }
    } else {
        read(user_regs_address(), 0)
    }
}

/// Number of the system call the current task is in.
#[inline(always)]
pub fn current_syscall() -> u64 {
    user_reg(offset_of!(UserRegs, orig_ax))
}

/// First argument of that system call.
#[inline(always)]
pub fn first_argument() -> u64 {
    user_reg(offset_of!(UserRegs, di))
}
