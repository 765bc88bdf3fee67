//! A uprobe on Node.js where a request gets a connection that is open already: who asks for it.
//!
//! Its agent gives the connection away at once, in the call that asks, but sends from the event loop
//! a moment later, when the function that asked is gone from the stack. Runs in the context of the
//! thread that runs the loop. Where it can't attach, the stack of the send remains, and the opener's.

use aya_ebpf::{EbpfContext as _, macros::uprobe, programs::ProbeContext};
use tracer_ebpf::{HEADS_ASKED, ROLE_CLIENT, STACK_NONE, WHEN_REQUEST};

use crate::core::{
    asked::asked_by_wrap,
    capture::capture_stack,
    handles::{handle_in, receiver, socket_of},
    maps::LANE_RUNTIME,
    sockets::entry,
    task::{UserRegs, active, current_is_target},
};

/// `void AsyncWrap::AsyncReset(const v8::FunctionCallbackInfo<v8::Value> &)` of Node.js
/// (src/async_wrap.cc): `lib/_http_agent.js` calls it on the handle of a connection that is used
/// again, which is TCP's, a pipe's or TLS's around one of those.
#[uprobe]
pub fn node_reusing(ctx: ProbeContext) -> u32 {
    if !active() || !current_is_target() {
        return 0;
    }
    let wrap = receiver(argument!(ctx, di));
    if wrap == 0 {
        return 0;
    }
    let stack = capture_stack(0, 0, u32::from(WHEN_REQUEST), LANE_RUNTIME);
    if stack == STACK_NONE {
        return 0;
    }
    let handle = handle_in(wrap);
    if handle == 0 {
        // TLS's: the request is seen where it is encrypted
        asked_by_wrap(wrap, stack);
    } else if let Some(sock) = entry(socket_of(handle))
        && sock.role == ROLE_CLIENT
    {
        sock.request_stack = stack;
        sock.heads |= HEADS_ASKED;
    }
    0
}
