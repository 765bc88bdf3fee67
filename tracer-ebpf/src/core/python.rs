//! Frames of CPython, followed in the interpreter's own structures.

use tracer_ebpf::{PYTHON_FRAMES_MAX, PythonFrame, PythonPlan, STACK_NONE, TRIE_END, TrieKey};

use super::{
    helpers::current_task,
    kernel::{read, read_user},
    maps::{PYTHON, SCRATCH, TRIE},
};
use crate::offset;

/// Goes on through the current thread's Python frames, innermost first. A global function, see
/// [`super::capture::capture_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_python(tgid: u32, node: u32) -> u32 {
    // SAFETY: a map lookup; the value is only read, and not changed while the process lives.
    let Some(plan) = (unsafe { PYTHON.get(&tgid) }) else {
        return STACK_NONE;
    };
    let mut key = TrieKey {
        address: 0,
        tgid,
        node,
    };
    let mut at = innermost_python_frame(plan);
    let mut frame = 0;
    while frame < PYTHON_FRAMES_MAX {
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
        at = read_user(at + u64::from(plan.frame_previous));
        frame += 1;
    }
    STACK_NONE
}

/// Address of the current thread's innermost Python frame; 0 when it runs none.
#[inline(always)]
fn innermost_python_frame(plan: &PythonPlan) -> u64 {
    let task = current_task();
    let storage: u64 = read(task, offset!(task_fsbase));
    let state: u64 = read_user(storage + u64::from(plan.thread_state));
    if state == 0 {
        return 0;
    }
    let current: u64 = read_user(state + u64::from(plan.current));
    if plan.c_frame_current == u32::MAX || current == 0 {
        return current;
    }
    read_user(current + u64::from(plan.c_frame_current))
}

/// The frame at this address, without its owner.
#[inline(always)]
fn executing(plan: &PythonPlan, at: u64) -> PythonFrame {
    let instruction: u64 = read_user(at + u64::from(plan.frame_instruction));
    PythonFrame {
        code: read_user(at + u64::from(plan.frame_code)),
        instruction: instruction & u64::MAX.wrapping_shr(64 - 8 * plan.instruction_bytes),
        owner: 0,
    }
}

/// Puts the current thread's Python frames into the lane; their number. A global function, see
/// [`super::capture::capture_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn collect_python(tgid: u32, lane: u32) -> u32 {
    // SAFETY: as in `walk_python`.
    let Some(plan) = (unsafe { PYTHON.get(&tgid) }) else {
        return 0;
    };
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    let frames = unsafe { &mut (*scratch).python };
    let mut at = innermost_python_frame(plan);
    let mut found = 0;
    while found < PYTHON_FRAMES_MAX {
        if at == 0 {
            break;
        }
        frames[found] = executing(plan, at);
        if plan.frame_owner != u32::MAX {
            frames[found].owner = u64::from(read_user::<u8>(at + u64::from(plan.frame_owner)));
        }
        at = read_user(at + u64::from(plan.frame_previous));
        found += 1;
    }
    found as u32
}
