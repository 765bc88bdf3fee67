//! A uprobe on Node.js where a URL is parsed: who asks for it.
//!
//! `fetch` with a body, got and other clients write their requests from callbacks that nobody waits
//! for, so neither opener nor request have a frame of who asked. But they parse the URL in the call
//! that asks. Runs in the context of the thread that runs the loop. Where it can't attach, such
//! requests have no call site.

use aya_ebpf::{EbpfContext as _, macros::uprobe, programs::ProbeContext};
use tracer_ebpf::{URL_BYTES, WHEN_REQUEST};

use crate::core::{
    capture::capture_stack,
    maps::LANE_RUNTIME,
    task::{UserRegs, active, current_is_target},
    urls::{asked_for_url, hash_of_url},
};

/// `tl::expected<ada::url_aggregator, ada::errors> ada::parse(std::string_view, const
/// ada::url_aggregator *base)` (deps/ada, Node.js 18.17): what it returns is written to where the
/// first argument points.
#[uprobe]
pub fn node_url_parsed(ctx: ProbeContext) -> u32 {
    if !active() || !current_is_target() {
        return 0;
    }
    let (first, second): (u64, u64) = (argument!(ctx, si), argument!(ctx, dx));
    // libstdc++ has the length of a view first, libc++ the address
    let (len, at) = if first < URL_BYTES as u64 {
        (first, second)
    } else {
        (second, first)
    };
    if len >= URL_BYTES as u64 {
        return 0;
    }
    let hash = hash_of_url(at, len as u32);
    if hash != 0 {
        let stack = capture_stack(0, 0, u32::from(WHEN_REQUEST), LANE_RUNTIME);
        asked_for_url(hash, stack);
    }
    0
}
