//! Calls of kernel functions under way: a return probe does not see the arguments, so the probe at
//! the entry leaves them here.

use aya_ebpf::{macros::map, maps::LruHashMap};
use tracer_ebpf::{CallKey, CallValue, Counter};

use super::{helpers::current_thread, kernel::Address, maps::count};

/// Calls that are under way, by thread and function.
#[map]
static CALLS: LruHashMap<CallKey, CallValue> = LruHashMap::with_max_entries(4_096, 0);

/// A function that sends.
pub const SEND: u32 = 1;
/// `unix_stream_recvmsg`
pub const RECEIVE_UNIX: u32 = 2;
/// `unix_stream_connect`
pub const CONNECT: u32 = 3;
/// `unix_accept`
pub const ACCEPT: u32 = 4;
/// `tcp_recvmsg`
pub const RECEIVE_TCP: u32 = 5;

/// The current thread in a function.
#[inline(always)]
fn in_function(function: u32) -> CallKey {
    CallKey {
        thread: current_thread(),
        function: u64::from(function),
    }
}

/// The current thread enters a function whose return will be seen.
#[inline(always)]
pub fn enter(function: u32, sk: Address, flags: u64) -> u32 {
    let key = in_function(function);
    // SAFETY: a map lookup; the value is not kept.
    if unsafe { CALLS.get(&key) }.is_some() {
        count(Counter::ReturnMissed);
    }
    let _ = CALLS.insert(
        &key,
        &CallValue {
            sk,
            flags,
            copied: 0,
        },
        0,
    );
    0
}

/// The same where what it calls will be seen, not its return: no call is waited for.
#[inline(always)]
pub fn enter_unwatched(function: u32, sk: Address, flags: u64) -> u32 {
    let _ = CALLS.insert(
        &in_function(function),
        &CallValue {
            sk,
            flags,
            copied: 0,
        },
        0,
    );
    0
}

/// It returns.
#[inline(always)]
pub fn leave(function: u32) -> Option<CallValue> {
    let key = in_function(function);
    // SAFETY: a map lookup; the value is copied at once.
    let call = unsafe { CALLS.get(&key) }.copied();
    let _ = CALLS.remove(&key);
    call
}

/// The call that the current thread entered last.
#[inline(always)]
pub fn entered(function: u32) -> Option<&'static mut CallValue> {
    // SAFETY: map values stay valid while the program runs; no other thread has this key.
    CALLS
        .get_ptr_mut(in_function(function))
        .map(|call| unsafe { &mut *call })
}

/// A call whose entry was not seen or is forgotten: `CALLS` keeps the latest of all threads.
#[inline(always)]
pub fn missed() -> u32 {
    count(Counter::ReturnMissed);
    0
}
