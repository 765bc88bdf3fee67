//! User stacks: a number where the path is known, a copy where it is new.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_probe_read_kernel as raw_probe_read_kernel, bpf_probe_read_user as raw_probe_read_user,
};
use tracer_ebpf::{
    Budget, COPY_BYTES_MAX, COPY_BYTES_MIDDLE, COPY_BYTES_MIN, CopySizeKey, Counter,
    RUNTIME_FRAMES_MAX, RuntimeFrame, STACK_NONE, STACK_TICKET, StackCopy, TRIE_END,
};

use super::{
    awaits::collect_awaits,
    frames::{OF_V8, collect_frames},
    helpers::{cpu, current_task, now_ns},
    kernel::read,
    known_paths::{recognize, taken_again},
    maps::{BUDGETS, COPY_SIZES, SCRATCH, STACKS, TICKETS, bounded, count},
    packed::{pack, unpack},
    sockets::entry,
    task::{Position, current_tgid, current_tid, position, saved_regs},
    tasks::collect_tasks,
};
use crate::{config, offset};

const PAGE: u64 = 4096;
const NS_PER_S: u64 = 1_000_000_000;

/// A copy with its bytes, as it lies in the ring buffer.
#[repr(C)]
struct Record<const BYTES: usize> {
    head: StackCopy,
    frames: [RuntimeFrame; RUNTIME_FRAMES_MAX],
    bytes: [u8; BYTES],
}

/// For which socket, and at which moment.
#[derive(Clone, Copy)]
struct Occasion {
    sk: u64,
    opened_ns: u64,
    when: u32,
    lane: u32,
    /// Interpreted frames that the lane has.
    frames: u32,
}

/// The id of the current user stack; a ticket when it had to be copied; [`STACK_NONE`] when it
/// could not be taken, which is counted by cause.
#[inline(always)]
pub fn capture_stack(sk: u64, opened_ns: u64, when: u32, lane: u32) -> u32 {
    if config!(want_stacks) == 0 {
        return STACK_NONE;
    }
    let again = taken_again(lane);
    match unpack(again) {
        (TRIE_END, id) => id,
        _ => find_stack(sk, opened_ns, when, lane, again),
    }
}

/// The same for the socket that has this record, where stacks are wanted.
#[inline(always)]
pub fn stack_of_transfer(sk: u64, when: u8, lane: u32) -> u32 {
    let again = taken_again(lane);
    match unpack(again) {
        (TRIE_END, id) => id,
        _ => find_stack_of_transfer(sk, pack(u32::from(when), lane), again),
    }
}

/// A global function, so that what it needs takes no room on the stack of every transfer.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn find_stack_of_transfer(sk: u64, when_and_lane: u64, again: u64) -> u32 {
    let Some(sock) = entry(sk) else {
        return STACK_NONE;
    };
    let (when, lane) = unpack(when_and_lane);
    find_stack(sk, sock.opened_ns, when, lane, again)
}

/// The same where the path is not known by one look, which found `again`.
///
/// A global function: the verifier checks it once, by itself, instead of once for every path that
/// leads here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn find_stack(sk: u64, opened_ns: u64, when: u32, lane: u32, again: u64) -> u32 {
    let Some(regs) = position() else {
        count(Counter::StackUnreadable);
        return STACK_NONE;
    };
    let tgid = current_tgid();
    let known = recognize(&regs, tgid, lane, again);
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
    let frames = frames_found(tgid, lane);
    let lane_and_frames = lane | frames << FRAMES_SHIFT;
    match wanted as usize {
        ..=COPY_BYTES_MIN => copy_small(sk, opened_ns, when, lane_and_frames),
        ..=COPY_BYTES_MIDDLE => copy_middle(sk, opened_ns, when, lane_and_frames),
        _ => copy_large(sk, opened_ns, when, lane_and_frames),
    }
}

/// Above the lane, in an argument of [`copy_small`].
const FRAMES_SHIFT: u32 = 16;

/// Puts the interpreted frames into the lane; their number.
#[inline(always)]
fn frames_found(tgid: u32, lane: u32) -> u32 {
    let found = collect_frames(tgid, lane);
    if found == OF_V8 {
        collect_awaits(tgid, lane)
    } else {
        found + collect_tasks(tgid, lane, found)
    }
}

/// A copy of `BYTES`, as far as there are as many; its ticket, or [`STACK_NONE`].
#[inline(always)]
fn copy_of<const BYTES: usize>(sk: u64, opened_ns: u64, when: u32, lane_and_frames: u32) -> u32 {
    let occasion = Occasion {
        sk,
        opened_ns,
        when,
        lane: lane_and_frames & 0xff,
        frames: lane_and_frames >> FRAMES_SHIFT,
    };
    match position() {
        Some(regs) => copy::<BYTES>(occasion, &regs, current_tgid()),
        None => STACK_NONE,
    }
}

/// [`copy_of`] each size. Global functions, so that what calls them needs less of the stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn copy_small(sk: u64, opened_ns: u64, when: u32, lane_and_frames: u32) -> u32 {
    copy_of::<COPY_BYTES_MIN>(sk, opened_ns, when, lane_and_frames)
}

/// See [`copy_small`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn copy_middle(sk: u64, opened_ns: u64, when: u32, lane_and_frames: u32) -> u32 {
    copy_of::<COPY_BYTES_MIDDLE>(sk, opened_ns, when, lane_and_frames)
}

/// See [`copy_small`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn copy_large(sk: u64, opened_ns: u64, when: u32, lane_and_frames: u32) -> u32 {
    copy_of::<COPY_BYTES_MAX>(sk, opened_ns, when, lane_and_frames)
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
        frames: frames_found(current_tgid(), 0),
    };
    match position() {
        Some(regs) => copy_some(occasion, &regs, current_tgid(), bytes as usize),
        None => STACK_NONE,
    }
}

/// Takes one copy off the process's budget for this second.
#[inline(always)]
fn within_budget(tgid: u32) -> bool {
    let second = now_ns() / NS_PER_S;
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
    let task = current_task();
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
    let cpu = cpu() & 0xff;
    STACK_TICKET | ((number << 8) & !STACK_TICKET) | cpu
}

#[inline(always)]
fn copy<const BYTES: usize>(occasion: Occasion, regs: &Position, tgid: u32) -> u32 {
    let Some(mut entry) = STACKS.reserve::<Record<BYTES>>(0) else {
        count(Counter::RingFull);
        return STACK_NONE;
    };
    let ticket = next_ticket();
    let found_frames = occasion.frames;
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
        if found_frames != 0
            && let Some(scratch) = SCRATCH.get_ptr(occasion.lane)
        {
            raw_probe_read_kernel(
                (&raw mut (*record).frames).cast::<c_void>(),
                bounded::<0x7ff>(found_frames * size_of::<RuntimeFrame>() as u32),
                (&raw const (*scratch).frames).cast::<c_void>(),
            );
        }
        // member by member: a record made first would take more stack than there is
        let head = &raw mut (*record).head;
        (*head).sk = occasion.sk;
        (*head).opened_ns = occasion.opened_ns;
        (*head).taken_ns = now_ns();
        (*head).tgid = tgid;
        (*head).tid = current_tid();
        (*head).ticket = ticket;
        (*head).len = done as u32;
        (*head).when = occasion.when;
        (*head).found_frames = found_frames;
        (*head).ip = regs.ip;
        (*head).sp = regs.sp;
        let saved = saved_regs();
        (*head).bp = saved.bp;
        (*head).saved = [saved.bx, saved.r12, saved.r13, saved.r14, saved.r15];
        (*head).parent = parent_tgid();
        (*head).pad = 0;
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
        taken_ns: now_ns(),
        ..StackCopy::default()
    });
    entry.submit(0);
}
