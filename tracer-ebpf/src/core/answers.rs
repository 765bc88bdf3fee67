//! Answers to DNS queries that watched processes receive: by them addresses have names.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::bpf_probe_read_user as raw_probe_read_user, macros::map, maps::RingBuf,
};
use tracer_ebpf::{ANSWER_BYTES, Answer, Counter};

use super::{
    helpers::now_ns,
    kernel::{Object, family},
    maps::{bounded, count},
    sockets::is_inet,
    task::{active, current_is_target, current_tgid},
    user_buffer::UserBuffer,
};
use crate::{config, offset};

/// Answers on their way to user space.
#[map]
static ANSWERS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// The port of DNS (RFC 1035 section 4.2), host byte order.
pub const PORT: u16 = 53;
/// `BPF_RB_NO_WAKEUP`: user space looks when it sweeps.
const NO_WAKEUP: u64 = 1;

/// Whether a socket that is not followed is connected to a DNS server: one of UDP, because those of TCP
/// are followed.
#[inline(always)]
pub fn comes_by(object: impl Object) -> bool {
    object.get::<u16>(offset!(skc_dport)) == PORT.to_be() && is_inet(family(object))
}

/// Hands what the current call received to user space. A global function, see
/// [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pass_on_answer(bytes: u32, stream: u32) -> u32 {
    if config!(want_heads) == 0 || !active() || !current_is_target() {
        return 0;
    }
    let buffer = UserBuffer::current(bytes);
    if buffer.at == 0 {
        return 0;
    }
    let mut kept = buffer.len;
    if kept >= ANSWER_BYTES as u32 {
        kept = ANSWER_BYTES as u32 - 1;
    }
    let Some(mut entry) = ANSWERS.reserve::<Answer>(0) else {
        count(Counter::AnswerRingFull);
        return 0;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the reserved entry is ours until submitted, and what user space reads of it (all but the
    // bytes behind those kept) is written here; the mask is less than the room.
    unsafe {
        (*record).at_ns = now_ns();
        (*record).tgid = current_tgid();
        (*record).kept = kept;
        (*record).stream = stream;
        (*record).pad = 0;
        let failed = raw_probe_read_user(
            (&raw mut (*record).bytes).cast::<c_void>(),
            bounded::<{ ANSWER_BYTES as u32 - 1 }>(kept),
            buffer.at as *const c_void,
        );
        if failed != 0 {
            (*record).kept = 0;
        }
    }
    entry.submit(NO_WAKEUP);
    1
}
