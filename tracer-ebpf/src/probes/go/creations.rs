//! Who began a goroutine in which a library asks on its own: the stack at the `go` statement, kept
//! for the goroutine's first requests.
//!
//! The probe sits behind the call of `runtime.newproc` of single `go` statements of libraries, those of
//! goroutines that were seen to ask with no frame of the application's on their stack. There the
//! new goroutine is the next that the thread's processor runs (`runqput` with `next`,
//! runtime/proc.go), unless another one has stolen it meanwhile; that it is says its own record of
//! who began it, and where. What fails that check is nobody's.

use aya_ebpf::{
    macros::{map, uprobe},
    maps::LruHashMap,
    programs::ProbeContext,
};
use tracer_ebpf::{GoCreation, GoRoutine, STACK_NONE};

use super::hit::{Hit, register};
use crate::core::{helpers::now_ns, kernel::read_user};

/// Who began goroutines, of late.
#[map]
static GO_CREATIONS: LruHashMap<GoRoutine, GoCreation> = LruHashMap::with_max_entries(1_024, 0);

/// Later a goroutine asks for others than who began it: it waits for work.
const YOUNG_NS: u64 = 1_000_000_000;

/// A goroutine was begun; one of the function that has the `go` statement is running.
#[uprobe]
pub fn go_begun(ctx: ProbeContext) -> u32 {
    try_begun(&ctx);
    0
}

#[inline(always)]
fn try_begun(ctx: &ProbeContext) -> Option<()> {
    let hit = Hit::new(ctx)?;
    let layout = hit.layout;
    if layout.p_runnext == 0 {
        return None;
    }
    let parent = register!(hit, r14);
    let at: u64 = register!(hit, ip);
    let goid: u64 = read_user(parent + u64::from(layout.g_goid));
    let m: u64 = read_user(parent + u64::from(layout.g_m));
    let p: u64 = read_user(m + u64::from(layout.m_p));
    let child: u64 = read_user(p + u64::from(layout.p_runnext));
    let begun_by: u64 = read_user(child + u64::from(layout.g_parent));
    let begun_at: u64 = read_user(child + u64::from(layout.g_gopc));
    if child == 0 || begun_by != goid || begun_at != at {
        return None;
    }
    let key = GoRoutine {
        goid: read_user(child + u64::from(layout.g_goid)),
        tgid: hit.tgid,
        pad: 0,
    };
    let creation = GoCreation {
        at_ns: now_ns(),
        stack: hit.stack::<false>(parent, goid),
        pad: 0,
    };
    let _ = GO_CREATIONS.insert(&key, &creation, 0);
    Some(())
}

/// The stack that began a goroutine, where that is known and not long ago.
#[inline(always)]
pub fn creator(tgid: u32, goid: u64) -> u32 {
    let key = GoRoutine { goid, tgid, pad: 0 };
    // SAFETY: a map lookup; the value is copied at once.
    match unsafe { GO_CREATIONS.get(&key) }.copied() {
        Some(creation) if now_ns().saturating_sub(creation.at_ns) < YOUNG_NS => creation.stack,
        _ => STACK_NONE,
    }
}
