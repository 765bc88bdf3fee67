//! Call paths that user space knows already, by the return addresses on the user stack.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_user as raw_probe_read_user;
use tracer_ebpf::{
    FRAMES_MAX, SHAPE_FRAMES, SHAPE_WORDS, SHAPES_MAX, TRIE_END, TRIE_FRAME, TRIE_FRAME_BIAS,
    TRIE_ROOT, TRIE_RUNTIME, TrieKey, TrieValue,
};

use super::{
    awaits::{collect_awaits, match_awaits},
    frames::{OF_TASKS, OF_V8, node_before_tasks, walk_frames},
    kernel::read_user,
    maps::{HINTS, SCRATCH, SHAPES, TRIE, bounded},
    packed::{pack, unpack},
    task::{Position, current_tgid, position},
    tasks::collect_tasks,
};

/// The id of a known path, where [`taken_again`] has found this. Most often it is the one that was last
/// taken from here with the same stack pointer, which one read confirms; else the trie knows.
#[inline(always)]
pub fn recognize(regs: &Position, tgid: u32, lane: u32, again: u64) -> u32 {
    let (delta, node) = unpack(again);
    let mut end = TrieValue { node, delta };
    if end.delta == 0 {
        end = walk(regs, tgid);
        if let Some(hint) = HINTS.get_ptr_mut(place(regs, tgid)) {
            // SAFETY: a live map value.
            unsafe { *hint = end.node };
        }
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

/// Where `HINTS` has the path that was last taken from here.
#[inline(always)]
fn place(regs: &Position, tgid: u32) -> u32 {
    let hash = (regs.ip ^ regs.sp.rotate_left(32) ^ u64::from(tgid).rotate_left(48))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 40) as u32 % SHAPES_MAX
}

/// Whether the current user stack has the return addresses of the path that was last taken from this
/// instruction with this stack pointer, all of them and nothing less: its [`tracer_ebpf::Shape::end`]
/// above its node, or 0. A global function that needs little of the stack, because most runs need no more than it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn taken_again(lane: u32) -> u64 {
    let Some(regs) = position() else {
        return 0;
    };
    let tgid = current_tgid();
    let Some(hint) = HINTS.get_ptr(place(&regs, tgid)) else {
        return 0;
    };
    // SAFETY: a live map value; a stale one leads to a path that is not confirmed.
    let node = unsafe { *hint };
    let Some(shape) = SHAPES.get(node % SHAPES_MAX) else {
        return 0;
    };
    let frames = shape.frames as usize;
    if node == 0
        || shape.node != node
        || shape.tgid != tgid
        || shape.ip != regs.ip
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
            regs.sp as *const c_void,
        )
    };
    if failed != 0 {
        return 0;
    }
    let (mut different, mut missing) = (0, 0);
    let mut frame = 0;
    while frame < SHAPE_FRAMES {
        if frame >= frames {
            break;
        }
        let found = stack[usize::from(shape.words[frame]) & (SHAPE_WORDS - 1)];
        let address = shape.addresses[frame];
        different |= found ^ address;
        // its top bit is set by an address of zero alone
        missing |= address.wrapping_sub(1);
        frame += 1;
    }
    if different == 0 && missing >> 63 == 0 {
        pack(shape.end, node)
    } else {
        0
    }
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
