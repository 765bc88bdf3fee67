//! Frames of interpreters, followed in their own structures by a plan.

use tracer_ebpf::{
    RUNTIME_FRAMES_MAX, RUNTIME_NONE, RUNTIME_WAY, RuntimeFrame, RuntimePlan, STACK_NONE, TRIE_END,
    TrieKey,
};

use super::{
    helpers::current_task,
    kernel::{read, read_user},
    maps::{PLANS, SCRATCH, TRIE},
};
use crate::offset;

/// Goes on through the current thread's interpreted frames, innermost first. A global function,
/// see [`super::capture::capture_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_frames(tgid: u32, node: u32) -> u32 {
    // SAFETY: a map lookup; the value is only read, and not changed while the process lives.
    let Some(plan) = (unsafe { PLANS.get(&tgid) }) else {
        return STACK_NONE;
    };
    let mut key = TrieKey {
        address: 0,
        tgid,
        node,
    };
    let mut at = innermost(plan);
    let mut frame = 0;
    while frame < RUNTIME_FRAMES_MAX {
        if at == 0 {
            return STACK_NONE;
        }
        key.address = executing(plan, at).key();
        // SAFETY: a map lookup; the value is copied at once.
        let Some(step) = (unsafe { TRIE.get(&key) }) else {
            return STACK_NONE;
        };
        if step.delta == TRIE_END {
            return step.node;
        }
        key.node = step.node;
        at = caller(plan, at);
        frame += 1;
    }
    STACK_NONE
}

/// Puts the current thread's interpreted frames into the lane; their number. A global function,
/// see [`super::capture::capture_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn collect_frames(tgid: u32, lane: u32) -> u32 {
    // SAFETY: as in `walk_frames`.
    let Some(plan) = (unsafe { PLANS.get(&tgid) }) else {
        return 0;
    };
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    let frames = unsafe { &mut (*scratch).frames };
    let mut at = innermost(plan);
    let mut found = 0;
    while found < RUNTIME_FRAMES_MAX {
        if at == 0 {
            break;
        }
        frames[found] = executing(plan, at);
        if plan.extra_bytes == 1 {
            frames[found].extra = u64::from(read_user::<u8>(further(at, plan.extra)));
        }
        at = caller(plan, at);
        found += 1;
    }
    found as u32
}

/// Address of the current thread's innermost frame; 0 when it runs none.
#[inline(always)]
fn innermost(plan: &RuntimePlan) -> u64 {
    let mut at = plan.base;
    if at == 0 {
        at = read(current_task(), offset!(task_fsbase));
    }
    let mut step = 0;
    while step < RUNTIME_WAY {
        let distance = plan.way[step];
        if distance == RUNTIME_NONE || at == 0 {
            break;
        }
        at = read_user(further(at, distance));
        step += 1;
    }
    at
}

/// The frame at this address, without what does not tell frames apart.
#[inline(always)]
fn executing(plan: &RuntimePlan, at: u64) -> RuntimeFrame {
    let instruction: u64 = read_user(further(at, plan.instruction));
    let mut extra = 0;
    if plan.extra_bytes == 8 {
        extra = read_user(further(at, plan.extra));
        if plan.extra_next != RUNTIME_NONE {
            extra = read_user(further(extra, plan.extra_next));
        }
    }
    RuntimeFrame {
        code: read_user(further(at, plan.code)),
        instruction: instruction & u64::MAX.wrapping_shr(64 - 8 * plan.instruction_bytes),
        extra,
    }
}

/// Address of the caller's frame; 0 at the end.
#[inline(always)]
fn caller(plan: &RuntimePlan, at: u64) -> u64 {
    if plan.previous == RUNTIME_NONE {
        return at + u64::from(plan.stride);
    }
    read_user(further(at, plan.previous))
}

#[inline(always)]
fn further(address: u64, distance: i32) -> u64 {
    address.wrapping_add_signed(i64::from(distance))
}
