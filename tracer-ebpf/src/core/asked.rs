//! Who asked for a connection, where another function opens it: an event loop connects when the one
//! that asked has long returned. A probe on the loop takes the stack of who asks, and hands it on
//! right before the connect.

use aya_ebpf::{macros::map, maps::LruHashMap};
use tracer_ebpf::STACK_NONE;

use super::helpers::{current_thread, now_ns};

/// A stack and when it was handed on, monotonic nanoseconds.
#[repr(C)]
#[derive(Clone, Copy)]
struct Asked {
    at_ns: u64,
    stack: u32,
    pad: u32,
}

/// By thread: the stack for the connect that follows.
#[map]
static ASKED: LruHashMap<u64, Asked> = LruHashMap::with_max_entries(1_024, 0);

/// From the event loop's function to the socket's change of state there are two system calls; what
/// took longer belongs to a connect that failed on the way.
const PROMPT_NS: u64 = 10_000_000;

/// The current thread is about to connect for whoever has this stack; [`STACK_NONE`]: for nobody
/// who is known.
#[inline(always)]
pub fn hand_on(stack: u32) {
    let thread = current_thread();
    if stack == STACK_NONE {
        let _ = ASKED.remove(&thread);
        return;
    }
    let asked = Asked {
        at_ns: now_ns(),
        stack,
        pad: 0,
    };
    let _ = ASKED.insert(&thread, &asked, 0);
}

/// The stack of whoever asked for the connection that the current thread opens now;
/// [`STACK_NONE`] where none was kept.
#[inline(always)]
pub fn asked_for(now_ns: u64) -> u32 {
    let thread = current_thread();
    // SAFETY: a map lookup; the value is copied at once.
    let Some(asked) = unsafe { ASKED.get(&thread) }.copied() else {
        return STACK_NONE;
    };
    let _ = ASKED.remove(&thread);
    if now_ns.wrapping_sub(asked.at_ns) < PROMPT_NS {
        asked.stack
    } else {
        STACK_NONE
    }
}
