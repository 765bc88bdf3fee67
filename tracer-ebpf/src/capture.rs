//! User stacks: recognized by their call path, copied when they are new.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_get_current_task, bpf_get_smp_processor_id, bpf_ktime_get_ns,
    generated::{
        bpf_probe_read_kernel as raw_probe_read_kernel, bpf_probe_read_user as raw_probe_read_user,
    },
};
use tracer_ebpf::{
    Budget, COPY_BYTES_MAX, COPY_BYTES_MIDDLE, COPY_BYTES_MIN, CopySizeKey, Counter, FRAMES_MAX,
    PYTHON_FRAMES_MAX, PythonFrame, PythonPlan, SHAPE_FRAMES, SHAPE_WORDS, SHAPES_MAX, STACK_NONE,
    STACK_TICKET, StackCopy, TRIE_END, TRIE_PYTHON, TRIE_ROOT, TrieKey, TrieValue,
};

use crate::{
    config,
    kernel::{Position, current_tgid, current_tid, position, read, read_user, saved_regs},
    maps::{
        BUDGETS, COPY_SIZES, HINTS, PYTHON, SCRATCH, SHAPES, STACKS, TICKETS, TRIE, bounded, count,
    },
    offset,
};

const PAGE: u64 = 4096;
const NS_PER_S: u64 = 1_000_000_000;

/// A copy with its bytes, as it lies in the ring buffer.
#[repr(C)]
struct Record<const BYTES: usize> {
    head: StackCopy,
    python: [PythonFrame; PYTHON_FRAMES_MAX],
    bytes: [u8; BYTES],
}

/// For which socket, and at which moment.
#[derive(Clone, Copy)]
struct Occasion {
    sk: u64,
    opened_ns: u64,
    when: u32,
    lane: u32,
}

/// The id of the current user stack; a ticket when it had to be copied; [`STACK_NONE`] when it
/// could not be taken, which is counted by cause.
///
/// A global function: the verifier checks it once, by itself, instead of once for every path that
/// leads here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn capture_stack(sk: u64, opened_ns: u64, when: u32, lane: u32) -> u32 {
    let occasion = Occasion {
        sk,
        opened_ns,
        when,
        lane,
    };
    if config!(want_stacks) == 0 {
        return STACK_NONE;
    }
    let Some(regs) = position() else {
        count(Counter::StackUnreadable);
        return STACK_NONE;
    };
    let tgid = current_tgid();
    let known = recognize(&regs, tgid, lane);
    if known != STACK_NONE {
        return known;
    }
    if !within_budget(tgid) {
        count(Counter::StackOverBudget);
        return STACK_NONE;
    }
    let key = CopySizeKey {
        ip: regs.ip,
        tgid,
        pad: 0,
    };
    // SAFETY: a map lookup; the value is copied at once.
    let wanted = unsafe { COPY_SIZES.get(&key) }.map_or(COPY_BYTES_MIN as u32, |bytes| *bytes);
    copy_some(occasion, &regs, tgid, wanted as usize)
}

#[inline(always)]
fn copy_some(occasion: Occasion, regs: &Position, tgid: u32, wanted: usize) -> u32 {
    match wanted {
        ..=COPY_BYTES_MIN => copy::<COPY_BYTES_MIN>(occasion, regs, tgid),
        ..=COPY_BYTES_MIDDLE => copy::<COPY_BYTES_MIDDLE>(occasion, regs, tgid),
        _ => copy::<COPY_BYTES_MAX>(occasion, regs, tgid),
    }
}

/// A copy of this size, whatever is known; its ticket, or [`STACK_NONE`]. For measurements.
#[inline(always)]
pub fn copy_once(bytes: u64) -> u32 {
    let occasion = Occasion {
        sk: 0,
        opened_ns: 0,
        when: 0,
        lane: 0,
    };
    match position() {
        Some(regs) => copy_some(occasion, &regs, current_tgid(), bytes as usize),
        None => STACK_NONE,
    }
}

/// The id of a known path. Most often it is the one that was last taken from here with the same
/// stack pointer, which is confirmed at a stroke; else the trie knows.
#[inline(always)]
fn recognize(regs: &Position, tgid: u32, lane: u32) -> u32 {
    let place = (regs.ip ^ regs.sp.rotate_left(32) ^ u64::from(tgid).rotate_left(48))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let Some(hint) = HINTS.get_ptr_mut((place >> 40) as u32 % SHAPES_MAX) else {
        return STACK_NONE;
    };
    // SAFETY: a live map value; a stale one leads to a path that is not confirmed.
    let node = unsafe { *hint };
    let mut end = TrieValue {
        node,
        delta: confirm(regs.ip, regs.sp, tgid, node, lane),
    };
    if end.delta == 0 {
        end = walk(regs, tgid);
        // SAFETY: as above.
        unsafe { *hint = end.node };
    }
    if end.delta == TRIE_PYTHON {
        return walk_python(tgid, end.node);
    }
    end.node
}

/// Whether the stack has the return addresses of this path, all of them and nothing less:
/// [`Shape::end`], or 0. A global function, see [`capture_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn confirm(ip: u64, sp: u64, tgid: u32, node: u32, lane: u32) -> u32 {
    let Some(shape) = SHAPES.get(node % SHAPES_MAX) else {
        return 0;
    };
    let frames = shape.frames as usize;
    if node == 0
        || shape.node != node
        || shape.tgid != tgid
        || shape.ip != ip
        || frames == 0
        || frames > SHAPE_FRAMES
    {
        return 0;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    let stack = unsafe { &mut (*scratch).stack };
    let last = usize::from(shape.words[(frames - 1) & (SHAPE_FRAMES - 1)]) & (SHAPE_WORDS - 1);
    // SAFETY: at most the buffer's size; the helper checks the source.
    let failed = unsafe {
        raw_probe_read_user(
            stack.as_mut_ptr().cast::<c_void>(),
            bounded::<0x7ff>(last as u32 * 8) + 8,
            sp as *const c_void,
        )
    };
    if failed != 0 {
        return 0;
    }
    let mut different = 0;
    let mut frame = 0;
    while frame < SHAPE_FRAMES {
        if frame >= frames {
            break;
        }
        let found = stack[usize::from(shape.words[frame]) & (SHAPE_WORDS - 1)];
        let address = shape.addresses[frame];
        different |= (found ^ address) | u64::from(address == 0);
        frame += 1;
    }
    if different == 0 { shape.end } else { 0 }
}

/// Follows the trie from the registers outwards, to the value of the last native frame; all zero
/// for a path that is not known.
#[inline(always)]
fn walk(regs: &Position, tgid: u32) -> TrieValue {
    let unknown = TrieValue { node: 0, delta: 0 };
    let mut key = TrieKey {
        address: regs.ip,
        tgid,
        node: TRIE_ROOT,
    };
    let mut slot = regs.sp;
    let mut frame = 0;
    while frame < FRAMES_MAX {
        // SAFETY: a map lookup; the value is copied at once.
        let Some(step) = (unsafe { TRIE.get(&key) }) else {
            return unknown;
        };
        let (node, delta) = (step.node, step.delta);
        if delta == TRIE_END || delta == TRIE_PYTHON {
            return TrieValue { node, delta };
        }
        slot += u64::from(delta);
        key.node = node;
        key.address = read_user(slot);
        frame += 1;
    }
    unknown
}

/// Goes on through the current thread's Python frames, innermost first. A global function, see
/// [`capture_stack`].
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
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
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
/// [`capture_stack`].
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

/// Takes one copy off the process's budget for this second.
#[inline(always)]
fn within_budget(tgid: u32) -> bool {
    // SAFETY: the helper has no preconditions.
    let second = unsafe { bpf_ktime_get_ns() } / NS_PER_S;
    match BUDGETS.get_ptr_mut(&tgid) {
        Some(budget) => {
            // SAFETY: a map value; a lost update only makes the budget imprecise.
            let budget = unsafe { &mut *budget };
            if budget.second != second {
                *budget = Budget { second, used: 0 };
            }
            budget.used += 1;
            budget.used <= u64::from(config!(copies_per_second))
        }
        None => {
            let _ = BUDGETS.insert(&tgid, &Budget { second, used: 1 }, 0);
            true
        }
    }
}

/// Process id of the current process's parent.
#[inline(always)]
fn parent_tgid() -> u32 {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    read(read(task, offset!(task_real_parent)), offset!(task_tgid))
}

#[inline(always)]
fn next_ticket() -> u32 {
    let number = match TICKETS.get_ptr_mut(0) {
        // SAFETY: this CPU's slot.
        Some(slot) => unsafe {
            *slot += 1;
            *slot
        },
        None => 0,
    };
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } & 0xff;
    STACK_TICKET | ((number << 8) & !STACK_TICKET) | cpu
}

#[inline(always)]
fn copy<const BYTES: usize>(occasion: Occasion, regs: &Position, tgid: u32) -> u32 {
    let Some(mut entry) = STACKS.reserve::<Record<BYTES>>(0) else {
        count(Counter::RingFull);
        return STACK_NONE;
    };
    let ticket = next_ticket();
    let saved = saved_regs();
    let python_frames = collect_python(tgid, occasion.lane);
    let record = entry.as_mut_ptr();
    // SAFETY: the reserved entry is ours until submitted, and every byte that user space reads
    // (the head and `len` bytes) is written here.
    unsafe {
        let bytes = (&raw mut (*record).bytes).cast::<u8>();
        let mut done = 0usize;
        while done < BYTES {
            let from = regs.sp + done as u64;
            let to = bytes.add(done).cast::<c_void>();
            if raw_probe_read_user(to, PAGE as u32, from as *const c_void) != 0 {
                // the stack's last page: up to its end
                let rest = (PAGE - (from & (PAGE - 1))) as u32 & (PAGE as u32 - 1);
                if raw_probe_read_user(to, rest, from as *const c_void) == 0 {
                    done += rest as usize;
                }
                break;
            }
            done += PAGE as usize;
        }
        if python_frames != 0
            && let Some(scratch) = SCRATCH.get_ptr(occasion.lane)
        {
            raw_probe_read_kernel(
                (&raw mut (*record).python).cast::<c_void>(),
                bounded::<0x7ff>(python_frames * size_of::<PythonFrame>() as u32),
                (&raw const (*scratch).python).cast::<c_void>(),
            );
        }
        (*record).head = StackCopy {
            sk: occasion.sk,
            opened_ns: occasion.opened_ns,
            taken_ns: bpf_ktime_get_ns(),
            tgid,
            tid: current_tid(),
            ticket,
            len: done as u32,
            when: occasion.when,
            python_frames,
            ip: regs.ip,
            sp: regs.sp,
            bp: saved.bp,
            saved: [saved.bx, saved.r12, saved.r13, saved.r14, saved.r15],
            parent: parent_tgid(),
            pad: 0,
        };
    }
    entry.submit(0);
    count(Counter::StackCopied);
    ticket
}

/// Tells user space that the current process runs another program now.
#[inline(always)]
pub fn notify_exec() {
    let Some(mut entry) = STACKS.reserve::<StackCopy>(0) else {
        count(Counter::RingFull);
        return;
    };
    entry.write(StackCopy {
        tgid: current_tgid(),
        tid: current_tid(),
        when: u32::from(tracer_ebpf::WHEN_EXEC),
        // SAFETY: the helper has no preconditions.
        taken_ns: unsafe { bpf_ktime_get_ns() },
        ..StackCopy::default()
    });
    entry.submit(0);
}
