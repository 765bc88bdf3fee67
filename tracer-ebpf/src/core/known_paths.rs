//! Call paths that user space knows already, by the return addresses on the user stack.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_user as raw_probe_read_user;
use tracer_ebpf::{
    FRAMES_MAX, SHAPE_FRAMES, SHAPE_WORDS, SHAPES_MAX, STACK_NONE, TRIE_END, TRIE_FRAME,
    TRIE_FRAME_BIAS, TRIE_ROOT, TRIE_RUNTIME, TrieKey, TrieValue,
};

use super::{
    awaits::{collect_awaits, match_awaits},
    frames::{OF_TASKS, OF_V8, node_before_tasks, walk_frames},
    kernel::read_user,
    maps::{HINTS, SCRATCH, SHAPES, TRIE, bounded},
    task::Position,
    tasks::collect_tasks,
};

/// The id of a known path. Most often it is the one that was last taken from here with the same
/// stack pointer, which one read confirms; else the trie knows.
#[inline(always)]
pub fn recognize(regs: &Position, tgid: u32, lane: u32) -> u32 {
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
    if end.delta == TRIE_RUNTIME {
        let known = walk_frames(tgid, end.node, lane);
        if known == OF_V8 {
            return match_awaits(tgid, end.node, lane, collect_awaits(tgid, lane));
        }
        if known == OF_TASKS {
            let node = node_before_tasks(lane);
            return match_awaits(tgid, node, lane, collect_tasks(tgid, lane, 0));
        }
        return known;
    }
    end.node
}

/// Whether the stack has the return addresses of this path, all of them and nothing less:
/// [`tracer_ebpf::Shape::end`], or 0. A global function, see [`super::capture::capture_stack`].
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
    let stack = unsafe { &mut (*scratch).window };
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
        if delta == TRIE_END || delta == TRIE_RUNTIME {
            return TrieValue { node, delta };
        }
        slot = if delta & TRIE_FRAME == 0 {
            slot + u64::from(delta)
        } else {
            // a frame of an interpreter, whose size varies
            read_user::<u64>(slot - 8) + u64::from(delta & 0xffff) - TRIE_FRAME_BIAS
        };
        key.node = node;
        key.address = read_user(slot);
        frame += 1;
    }
    unknown
}
