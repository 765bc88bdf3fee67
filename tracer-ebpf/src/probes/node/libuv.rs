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
    helpers::{current_thread, now_ns},
    kernel::read_user,
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

impl UvKey {
    /// That of the current process's handle at this address.
    #[inline(always)]
    pub fn of(handle: u64) -> UvKey {
        UvKey {
            handle,
            tgid: current_tgid(),
            pad: 0,
        }
    }
}

/// Stacks of those who made a handle.
#[map]
pub static UV_HANDLES: LruHashMap<UvKey, u32> = LruHashMap::with_max_entries(4_096, 0);

/// A connect that failed: when, monotonic nanoseconds, and the stack of whoever asked for it.
#[repr(C)]
#[derive(Clone, Copy)]
struct UvFailed {
    at_ns: u64,
    stack: u32,
    pad: u32,
}

/// By thread: the connect that failed last, until its handle is closed.
#[map]
static UV_FAILED: LruHashMap<u64, UvFailed> = LruHashMap::with_max_entries(1_024, 0);

/// From a `uv_connect_t` to the address of its handle.
pub const CONNECT_HANDLE: u64 = 72;
/// Another address is tried right after the one that failed.
const PROMPT_NS: u64 = 10_000_000;

/// `int uv_tcp_init(uv_loop_t *, uv_tcp_t *handle)` and `uv_tcp_init_ex` (libuv 1.7), which may be
/// inlined in it: called when a socket object is made.
#[uprobe]
pub fn uv_handle_made(ctx: ProbeContext) -> u32 {
    if current_is_target() {
        let key = UvKey::of(argument!(ctx, si));
        let stack = match retried() {
            STACK_NONE => capture_stack(0, 0, u32::from(WHEN_CONNECT), LANE_RUNTIME),
            asked => asked,
        };
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
        let key = UvKey::of(argument!(ctx, si));
        // SAFETY: a map lookup; the value is copied at once.
        let stack = unsafe { UV_HANDLES.get(&key) }.copied();
        // it stays until another handle is made there: the connect may fail
        hand_on(stack.unwrap_or(STACK_NONE));
    }
    0
}

/// `ConnectionWrap<TCPWrap, uv_tcp_t>::AfterConnect(uv_connect_t *, int status)` of Node.js: a
/// connect has ended. Where it failed and the host has another address, Node.js makes a handle for
/// that at once, and only then closes this one (`internalConnectMultiple` in lib/net.js): the new
/// one was asked for by whoever asked for the first.
#[uprobe]
pub fn uv_connected(ctx: ProbeContext) -> u32 {
    if current_is_target() && (argument!(ctx, si) as i32) < 0 {
        let request: u64 = argument!(ctx, di);
        let key = UvKey::of(read_user(request.wrapping_add(CONNECT_HANDLE)));
        // SAFETY: a map lookup; the value is copied at once.
        if let Some(stack) = unsafe { UV_HANDLES.get(&key) }.copied() {
            let failed = UvFailed {
                at_ns: now_ns(),
                stack,
                pad: 0,
            };
            let _ = UV_FAILED.insert(&current_thread(), &failed, 0);
        }
    }
    0
}

/// `void uv_close(uv_handle_t *, uv_close_cb)`: whoever makes a handle from now on asks for it
/// himself.
#[uprobe]
pub fn uv_closing(_ctx: ProbeContext) -> u32 {
    if current_is_target() {
        let _ = UV_FAILED.remove(&current_thread());
    }
    0
}

/// The stack of whoever asked for the connection that is tried at another address now.
#[inline(always)]
fn retried() -> u32 {
    // SAFETY: a map lookup; the value is copied at once.
    match unsafe { UV_FAILED.get(&current_thread()) }.copied() {
        Some(failed) if now_ns().wrapping_sub(failed.at_ns) < PROMPT_NS => failed.stack,
        _ => STACK_NONE,
    }
}
