//! Uprobes on libuv's pipes, which are UNIX sockets: who asked for a connection.
//!
//! The connect happens in the call that asks for it, but kernels without probes at functions' ends
//! don't tell of it, and what is sent goes out from the event loop. So the stack is taken in the call,
//! and the socket when libuv says that it is connected, before anything is sent on it. Both run in the
//! context of the thread that runs the loop.

use aya_ebpf::{EbpfContext as _, macros::uprobe, programs::ProbeContext};
use tracer_ebpf::{STACK_NONE, WHEN_CONNECT};

use super::libuv::{CONNECT_HANDLE, UV_HANDLES, UvKey};
use crate::core::{
    accepts::unix_opened_for,
    capture::capture_stack,
    handles::socket_of,
    kernel::read_user,
    maps::LANE_RUNTIME,
    task::{UserRegs, current_is_target},
};

/// `void uv_pipe_connect(uv_connect_t *, uv_pipe_t *handle, const char *name, uv_connect_cb)`, and
/// `int uv_pipe_connect2(uv_connect_t *, uv_pipe_t *handle, const char *name, size_t, unsigned,
/// uv_connect_cb)` (libuv 1.46).
#[uprobe]
pub fn uv_pipe_connecting(ctx: ProbeContext) -> u32 {
    if current_is_target() {
        let key = UvKey::of(argument!(ctx, si));
        let stack = capture_stack(0, 0, u32::from(WHEN_CONNECT), LANE_RUNTIME);
        if stack == STACK_NONE {
            let _ = UV_HANDLES.remove(&key);
        } else {
            let _ = UV_HANDLES.insert(&key, &stack, 0);
        }
    }
    0
}

/// `ConnectionWrap<PipeWrap, uv_pipe_t>::AfterConnect(uv_connect_t *, int status)` of Node.js.
#[uprobe]
pub fn uv_pipe_connected(ctx: ProbeContext) -> u32 {
    if current_is_target() && argument!(ctx, si) as i32 == 0 {
        let request: u64 = argument!(ctx, di);
        let handle: u64 = read_user(request.wrapping_add(CONNECT_HANDLE));
        // SAFETY: a map lookup; the value is copied at once.
        if let Some(stack) = unsafe { UV_HANDLES.get(&UvKey::of(handle)) }.copied() {
            unix_opened_for(socket_of(handle), stack);
        }
    }
    0
}
