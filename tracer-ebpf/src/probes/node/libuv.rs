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
    macros::{map, uprobe},
    maps::LruHashMap,
    programs::ProbeContext,
};
use tracer_ebpf::{STACK_NONE, WHEN_CONNECT};

use crate::core::{
    asked::hand_on,
    capture::capture_stack,
    maps::LANE_RUNTIME,
    task::{UserRegs, current_is_target, current_tgid},
};

/// A libuv handle.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UvKey {
    handle: u64,
    tgid: u32,
    pad: u32,
}

/// Stacks of those who made a handle.
#[map]
pub static UV_HANDLES: LruHashMap<UvKey, u32> = LruHashMap::with_max_entries(4_096, 0);
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
        // SAFETY: a map lookup; the value is copied at once.
        let stack = unsafe { UV_HANDLES.get(&key) }.copied();
        hand_on(stack.unwrap_or(STACK_NONE));
        if stack.is_some() {
            let _ = UV_HANDLES.remove(&key);
        }
    }
    0
}
