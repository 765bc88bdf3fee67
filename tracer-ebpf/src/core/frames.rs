//! Frames of interpreters, followed in their own structures by a plan.

use tracer_ebpf::{
    PHP_ADDRESS, PHP_OUTERMOST, RUNTIME_FRAMES_MAX, RUNTIME_NONE, RUNTIME_PHP, RUNTIME_RUBY,
    RUNTIME_V8, RUNTIME_WAY, RuntimeFrame, RuntimePlan, STACK_NONE, TASK_FRAMES_MAX, TRIE_END,
    TrieKey,
};

use super::{
    helpers::current_task,
    kernel::{read, read_user},
    maps::{PLANS, SCRATCH, TRIE},
};
use crate::offset;

/// PHP's structures (`Zend/zend_compile.h`, `Zend/zend_types.h`), the same since 8.0.
mod php {
    /// In a frame: the instruction, the function, the kind of the call, the caller's frame.
    pub const INSTRUCTION: u64 = 0;
    pub const FUNCTION: u64 = 24;
    pub const CALL: u64 = 40;
    pub const PREVIOUS: u64 = 48;
    /// In an instruction: its line.
    pub const LINE: u64 = 24;
    /// In a string: its hash.
    pub const HASH: u64 = 8;
    /// What a function begins with that is written in C.
    pub const INTERNAL: u8 = 1;
}

/// Ruby's structures (`vm_core.h`), the same since 3.0.
mod ruby {
    /// In an execution context: its stack, that one's words, the innermost frame.
    pub const STACK: u64 = 0;
    pub const STACK_WORDS: u64 = 8;
    pub const INNERMOST: u64 = 16;
    /// In a frame: the next instruction, the instruction sequence, the environment.
    pub const INSTRUCTION: u64 = 0;
    pub const SEQUENCE: u64 = 16;
    pub const ENVIRONMENT: u64 = 32;
    /// How far below its environment the frame of a method written in C has its method entry.
    pub const METHOD: u64 = 16;
}

/// Instead of an id or a number: the frames are those that [`super::awaits`] finds.
pub const OF_V8: u32 = u32::MAX - 1;

/// Behind more frames nobody is looked for who waits.
pub const FRAMES_BEFORE_TASKS: usize = RUNTIME_FRAMES_MAX - TASK_FRAMES_MAX - 1;

/// Instead of an id: the path may go on with those that [`super::tasks`] finds, from the trie's node
/// that [`node_before_tasks`] has.
pub const OF_TASKS: u32 = u32::MAX - 2;
/// The frame of the lane that has that node: nothing else uses it while a path is looked for.
const NODE_AT: usize = RUNTIME_FRAMES_MAX - 1;

/// Where a walk is.
pub struct Walk {
    /// Address of a frame; 0 at the end. V8: the microtask that runs.
    pub at: u64,
    /// Where frames end that lie side by side.
    end: u64,
}

/// Goes on through the current thread's interpreted frames, innermost first. A global function,
/// see [`super::capture::find_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_frames(tgid: u32, node: u32, lane: u32) -> u32 {
    // SAFETY: a map lookup; the value is only read, and not changed while the process lives.
    let Some(plan) = (unsafe { PLANS.get(&tgid) }) else {
        return STACK_NONE;
    };
    if plan.kind == RUNTIME_V8 {
        return OF_V8;
    }
    let mut key = TrieKey {
        address: 0,
        tgid,
        node,
    };
    let mut walk = innermost(plan);
    let mut frame = 0;
    while frame < RUNTIME_FRAMES_MAX {
        if walk.at == 0 || walk.at >= walk.end {
            return match frame {
                ..=FRAMES_BEFORE_TASKS => before_tasks(key.node, lane),
                _ => STACK_NONE,
            };
        }
        key.address = executing(plan, walk.at).key();
        // SAFETY: a map lookup; the value is copied at once.
        let Some(step) = (unsafe { TRIE.get(&key) }) else {
            return STACK_NONE;
        };
        if step.delta == TRIE_END {
            return step.node;
        }
        key.node = step.node;
        walk.at = caller(plan, walk.at);
        frame += 1;
    }
    STACK_NONE
}

/// Puts the current thread's interpreted frames into the lane; their number. A global function,
/// see [`super::capture::find_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn collect_frames(tgid: u32, lane: u32) -> u32 {
    // SAFETY: as in `walk_frames`.
    let Some(plan) = (unsafe { PLANS.get(&tgid) }) else {
        return 0;
    };
    if plan.kind == RUNTIME_V8 {
        return OF_V8;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    let frames = unsafe { &mut (*scratch).frames };
    let mut walk = innermost(plan);
    let mut found = 0;
    while found < RUNTIME_FRAMES_MAX {
        if walk.at == 0 || walk.at >= walk.end {
            break;
        }
        frames[found] = executing(plan, walk.at);
        if plan.extra != RUNTIME_NONE {
            frames[found].extra = u64::from(read_user::<u8>(further(walk.at, plan.extra)));
        }
        walk.at = caller(plan, walk.at);
        found += 1;
    }
    found as u32
}

#[inline(always)]
fn before_tasks(node: u32, lane: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return STACK_NONE;
    };
    // SAFETY: this program's room on this CPU.
    unsafe { (*scratch).frames[NODE_AT].code = node.into() };
    OF_TASKS
}

/// See [`OF_TASKS`].
#[inline(always)]
pub fn node_before_tasks(lane: u32) -> u32 {
    // SAFETY: as in `before_tasks`.
    SCRATCH.get_ptr(lane).map_or(0, |scratch| unsafe {
        (*scratch).frames[NODE_AT].code as u32
    })
}

/// The current thread's innermost frame.
#[inline(always)]
pub fn innermost(plan: &RuntimePlan) -> Walk {
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
    if plan.kind != RUNTIME_RUBY || at == 0 {
        return Walk { at, end: u64::MAX };
    }
    let words: u64 = read_user(at.wrapping_add(ruby::STACK_WORDS));
    Walk {
        end: read_user::<u64>(at.wrapping_add(ruby::STACK)).wrapping_add(words.wrapping_mul(8)),
        at: read_user(at.wrapping_add(ruby::INNERMOST)),
    }
}

/// The frame at this address, without what does not tell frames apart.
#[inline(always)]
pub fn executing(plan: &RuntimePlan, at: u64) -> RuntimeFrame {
    if plan.kind == RUNTIME_PHP {
        return of_php(plan, at);
    }
    if plan.kind == RUNTIME_RUBY {
        return of_ruby(at);
    }
    let instruction: u64 = read_user(further(at, plan.instruction));
    RuntimeFrame {
        code: read_user(further(at, plan.code)),
        instruction: instruction & u64::MAX.wrapping_shr(64 - 8 * plan.instruction_bytes),
        extra: 0,
    }
}

#[inline(always)]
fn of_php(plan: &RuntimePlan, at: u64) -> RuntimeFrame {
    let function: u64 = read_user(at.wrapping_add(php::FUNCTION));
    let call: u32 = read_user(at.wrapping_add(php::CALL));
    let extra = u64::from(call & PHP_OUTERMOST);
    if function == 0 || read_user::<u8>(function) == php::INTERNAL {
        return RuntimeFrame {
            code: function,
            instruction: 0,
            extra,
        };
    }
    let instruction: u64 = read_user(at.wrapping_add(php::INSTRUCTION));
    let line: u32 = read_user(instruction.wrapping_add(php::LINE));
    let file: u64 = read_user(function.wrapping_add(u64::from(plan.varying)));
    let hash: u64 = read_user(file.wrapping_add(php::HASH));
    RuntimeFrame {
        code: function,
        instruction: instruction & PHP_ADDRESS | hash << 48,
        extra: extra | u64::from(line) << 32,
    }
}

#[inline(always)]
fn of_ruby(at: u64) -> RuntimeFrame {
    let sequence: u64 = read_user(at.wrapping_add(ruby::SEQUENCE));
    if sequence != 0 {
        return RuntimeFrame {
            code: sequence,
            instruction: read_user(at.wrapping_add(ruby::INSTRUCTION)),
            extra: 0,
        };
    }
    let environment: u64 = read_user(at.wrapping_add(ruby::ENVIRONMENT));
    RuntimeFrame {
        code: read_user(environment.wrapping_sub(ruby::METHOD)),
        instruction: 0,
        extra: 0,
    }
}

/// Address of the caller's frame; 0 at the end.
#[inline(always)]
pub fn caller(plan: &RuntimePlan, at: u64) -> u64 {
    if plan.kind == RUNTIME_PHP {
        return read_user(at.wrapping_add(php::PREVIOUS));
    }
    if plan.kind == RUNTIME_RUBY {
        return at.wrapping_add(u64::from(plan.varying));
    }
    read_user(further(at, plan.previous))
}

#[inline(always)]
fn further(address: u64, distance: i32) -> u64 {
    address.wrapping_add_signed(i64::from(distance))
}
