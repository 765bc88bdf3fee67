//! Who asked for a connection, where another function opens it: an event loop connects when the one
//! that asked has long returned. A probe on the loop takes the stack of who asks, and hands it on
//! right before the connect.

use aya_ebpf::{
    macros::map,
    maps::{Array, LruHashMap},
};
use tracer_ebpf::STACK_NONE;

use super::{
    helpers::{current_thread, now_ns},
    task::{SavedRegs, current_tgid},
};

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

/// A TLS connection of Node.js: its object, and the process.
#[repr(C)]
#[derive(Clone, Copy)]
struct WrapKey {
    wrap: u64,
    tgid: u32,
    pad: u32,
}

/// Who asked for the request that a TLS connection of Node.js is to send next.
#[map]
static ASKED_BY_WRAP: LruHashMap<WrapKey, Asked> = LruHashMap::with_max_entries(4_096, 0);
/// Not 0: something was ever kept there.
#[map]
static ANY_BY_WRAP: Array<u32> = Array::with_max_entries(1, 0);

/// A request is written soon after its connection was chosen; one that is written later was given
/// up, or its writer is on the stack.
const SOON_NS: u64 = 100_000_000;

/// The request that this object sends next was asked for by whoever has this stack.
#[inline(always)]
pub fn asked_by_wrap(wrap: u64, stack: u32) {
    let key = WrapKey {
        wrap,
        tgid: current_tgid(),
        pad: 0,
    };
    let asked = Asked {
        at_ns: now_ns(),
        stack,
        pad: 0,
    };
    let _ = ASKED_BY_WRAP.insert(&key, &asked, 0);
    if let Some(any) = ANY_BY_WRAP.get_ptr_mut(0) {
        // SAFETY: a live map value, which is only ever set to 1.
        unsafe { *any = 1 };
    }
}

/// The stack of whoever asked for what is encrypted now; [`STACK_NONE`] where none was kept. The
/// functions that encrypt (`TLSWrap::DoWrite`, `ClearIn` in src/crypto/crypto_tls.cc) need their
/// object afterwards, so it is in a register that callees preserve.
#[inline(always)]
pub fn asked_of(saved: &SavedRegs) -> u32 {
    if ANY_BY_WRAP.get(0).is_none_or(|any| *any == 0) {
        return STACK_NONE;
    }
    let tgid = current_tgid();
    let mut stack = take_asked(saved.bx, tgid);
    if stack == STACK_NONE {
        stack = take_asked(saved.r12, tgid);
    }
    if stack == STACK_NONE {
        stack = take_asked(saved.r13, tgid);
    }
    if stack == STACK_NONE {
        stack = take_asked(saved.r14, tgid);
    }
    if stack == STACK_NONE {
        stack = take_asked(saved.r15, tgid);
    }
    stack
}

/// A global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_asked(wrap: u64, tgid: u32) -> u32 {
    let key = WrapKey { wrap, tgid, pad: 0 };
    // SAFETY: a map lookup; the value is copied at once.
    let Some(asked) = unsafe { ASKED_BY_WRAP.get(&key) }.copied() else {
        return STACK_NONE;
    };
    let _ = ASKED_BY_WRAP.remove(&key);
    if now_ns().wrapping_sub(asked.at_ns) < SOON_NS {
        asked.stack
    } else {
        STACK_NONE
    }
}
