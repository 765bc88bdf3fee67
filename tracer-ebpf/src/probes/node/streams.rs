//! Uprobes on Node.js's client of HTTP/2: who asks for a stream.
//!
//! `request` of a session that is connected asks nghttp2 for a stream at once; what is to be sent for
//! it is written from the event loop a moment later, when the function that asked is gone from the
//! stack. Both run in the context of the thread that runs the loop. Where they can't attach, streams
//! have no call site.

use aya_ebpf::{EbpfContext as _, macros::uprobe, programs::ProbeContext};
use tracer_ebpf::WHEN_REQUEST;

use crate::core::{
    capture::capture_stack,
    maps::LANE_RUNTIME,
    submitted::{submitted, writes},
    task::{UserRegs, active, current_is_target},
};

/// `Http2Stream *Http2Session::SubmitRequest(const Http2Priority &, const Http2Headers &, int32_t *,
/// int)` of Node.js (src/node_http2.cc).
#[uprobe]
pub fn node_h2_submit(ctx: ProbeContext) -> u32 {
    if active() && current_is_target() {
        let stack = capture_stack(0, 0, u32::from(WHEN_REQUEST), LANE_RUNTIME);
        submitted(argument!(ctx, di), stack);
    }
    0
}

/// `uint8_t Http2Session::SendPendingData()` of Node.js (src/node_http2.cc): what is pending is
/// written in this call.
#[uprobe]
pub fn node_h2_write(ctx: ProbeContext) -> u32 {
    if active() && current_is_target() {
        writes(argument!(ctx, di));
    }
    0
}
