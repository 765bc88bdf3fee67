//! Uprobes on libuv, Node.js's event loop: who asked for a connection.
//!
//! `net.connect` and all that is built on it (http, fetch) make the handle at once and connect from
//! the event loop a moment later, when the function that asked is long gone from the stack. So the
//! stack is taken where the handle is made, and handed to the socket when its connect begins.
//!
//! Both run in the context of the thread that runs the loop; a probe fires for every process of the
//! executable, and those that are not of the target leave at once. Where uprobes can't attach, the
//! stack of the connect itself remains.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
    macros::{map, uprobe},
    maps::LruHashMap,
    programs::ProbeContext,
};
use tracer_ebpf::{STACK_NONE, WHEN_CONNECT};

use crate::{
    capture::capture_stack,
    kernel::{UserRegs, current_is_target, current_tgid},
    maps::LANE_RUNTIME,
};

/// A libuv handle.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UvKey {
    handle: u64,
    tgid: u32,
    pad: u32,
}

/// A stack and when it was handed on, monotonic nanoseconds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UvAsked {
    at_ns: u64,
    stack: u32,
    pad: u32,
}

/// Stacks of those who made a handle.
#[map]
pub static UV_HANDLES: LruHashMap<UvKey, u32> = LruHashMap::with_max_entries(4_096, 0);
/// By thread: the stack for the connect that follows.
#[map]
pub static UV_CONNECTS: LruHashMap<u64, UvAsked> = LruHashMap::with_max_entries(1_024, 0);

/// From the beginning of `uv_tcp_connect` to the socket's change of state there are two system
/// calls; what took longer belongs to a connect that failed on the way.
const PROMPT_NS: u64 = 10_000_000;

macro_rules! argument {
    ($ctx:expr, $name:ident) => {
        // SAFETY: the context of a uprobe is `struct pt_regs`; volatile, so that each register is
        // loaded by itself, as the verifier wants it.
        unsafe { core::ptr::read_volatile(&raw const (*($ctx.as_ptr() as *const UserRegs)).$name) }
    };
}

/// `int uv_tcp_init(uv_loop_t *, uv_tcp_t *handle)` and `uv_tcp_init_ex` (libuv 1.7), which may be
/// inlined in it: called when a socket object is made.
#[uprobe]
pub fn uv_handle_made(ctx: ProbeContext) -> u32 {
    if current_is_target() {
        let key = UvKey {
            handle: argument!(ctx, si),
            tgid: current_tgid(),
            pad: 0,
        };
        let stack = capture_stack(0, 0, u32::from(WHEN_CONNECT), LANE_RUNTIME);
        if stack == STACK_NONE {
            // an earlier handle's at the same address
            let _ = UV_HANDLES.remove(&key);
        } else {
            let _ = UV_HANDLES.insert(&key, &stack, 0);
        }
    }
    0
}

/// `int uv_tcp_connect(uv_connect_t *, uv_tcp_t *handle, const struct sockaddr *, uv_connect_cb)`
/// (libuv 0.11.24): the connect follows in the same call.
#[uprobe]
pub fn uv_connecting(ctx: ProbeContext) -> u32 {
    if current_is_target() {
        let key = UvKey {
            handle: argument!(ctx, si),
            tgid: current_tgid(),
            pad: 0,
        };
        let thread = bpf_get_current_pid_tgid();
        // SAFETY: a map lookup; the value is copied at once.
        match unsafe { UV_HANDLES.get(&key) }.copied() {
            Some(stack) => {
                let asked = UvAsked {
                    // SAFETY: the helper has no preconditions.
                    at_ns: unsafe { bpf_ktime_get_ns() },
                    stack,
                    pad: 0,
                };
                let _ = UV_CONNECTS.insert(&thread, &asked, 0);
                let _ = UV_HANDLES.remove(&key);
            }
            None => {
                let _ = UV_CONNECTS.remove(&thread);
            }
        }
    }
    0
}

/// The stack of whoever asked for the connection that the current thread opens now;
/// [`STACK_NONE`] where none was kept.
#[inline(always)]
pub fn asked_for(now_ns: u64) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: a map lookup; the value is copied at once.
    let Some(asked) = unsafe { UV_CONNECTS.get(&thread) }.copied() else {
        return STACK_NONE;
    };
    let _ = UV_CONNECTS.remove(&thread);
    if now_ns.wrapping_sub(asked.at_ns) < PROMPT_NS {
        asked.stack
    } else {
        STACK_NONE
    }
}
