//! Request heads of HTTP/1.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_user as raw_probe_read_user;
use tracer_ebpf::{Counter, HEAD_BYTES, HeadKey};

use super::{
    kernel::read_user,
    maps::{HEADS, SCRATCH, bounded, count},
    task::{current_syscall, position, second_argument},
};

/// Two numbers as one: a function of the kernel's takes five.
#[inline(always)]
pub fn pack(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The two numbers again.
#[inline(always)]
pub fn unpack(packed: u64) -> (u32, u32) {
    ((packed >> 32) as u32, packed as u32)
}

/// Address of the user buffer of the current send or receive call, 0 when there is none that can
/// be found (io_uring, sendfile, splice). System call numbers of x86-64.
#[inline(always)]
fn user_buffer() -> u64 {
    if position().is_none() {
        return 0;
    }
    let argument = second_argument();
    match current_syscall() {
        // read, write, sendto, recvfrom: the buffer
        0 | 1 | 44 | 45 => argument,
        // readv, writev: struct iovec { base, len }
        19 | 20 => read_user(argument),
        // sendmsg, recvmsg, sendmmsg, recvmmsg: struct user_msghdr, msg_iov at 16
        46 | 47 | 299 | 307 => read_user(read_user(argument + 16)),
        _ => 0,
    }
}

/// First four bytes of the methods of RFC 9110, and of the HTTP/2 preface (`PRI `).
#[inline(always)]
fn looks_like_http(word: u32) -> bool {
    const fn first(bytes: &[u8; 4]) -> u32 {
        u32::from_le_bytes(*bytes)
    }
    const GET: u32 = first(b"GET ");
    const POST: u32 = first(b"POST");
    const PUT: u32 = first(b"PUT ");
    const HEAD: u32 = first(b"HEAD");
    const DELETE: u32 = first(b"DELE");
    const PATCH: u32 = first(b"PATC");
    const OPTIONS: u32 = first(b"OPTI");
    const CONNECT: u32 = first(b"CONN");
    const TRACE: u32 = first(b"TRAC");
    const PREFACE: u32 = first(b"PRI ");
    // comparisons, not a table: a table would live in a data section of its own
    matches!(
        word,
        GET | POST | PUT | HEAD | DELETE | PATCH | OPTIONS | CONNECT | TRACE | PREFACE
    )
}

/// Keeps the first bytes of an HTTP/1 request; other protocols' bytes are never copied. `place` has
/// the lane and the number of bytes, `kept` the socket's `heads` and `head_hash`, whose new values
/// are returned. A global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep_head(sk: u64, opened_ns: u64, turn: u32, place: u64, kept: u64) -> u64 {
    let buffer = user_buffer();
    if buffer == 0 || !looks_like_http(read_user::<u32>(buffer)) {
        return kept;
    }
    let (lane, bytes) = unpack(place);
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return kept;
    };
    // SAFETY: this CPU's slot.
    let head = unsafe { &mut (*scratch).head };
    let len = if bytes as usize > HEAD_BYTES {
        HEAD_BYTES as u32
    } else {
        bytes
    };
    // SAFETY: `len` is at most the destination's size; the helper checks the source.
    let failed = unsafe {
        raw_probe_read_user(
            head.bytes.as_mut_ptr().cast::<c_void>(),
            bounded::<0xff>(len),
            buffer as *const c_void,
        )
    };
    if failed != 0 {
        return kept;
    }
    let hash = hash_head(lane, len);
    let (heads, hash_before) = unpack(kept);
    if hash_before == hash {
        // the same request as before, which user space has or finds in the map
        return kept;
    }
    head.len = len;
    head.opened_ns = opened_ns;
    head.turn = turn;
    let latest = u64::from(heads & 1 != 0);
    if HEADS.insert(&HeadKey { sk, latest }, head, 0).is_err() {
        count(Counter::HeadMapFull);
        return kept;
    }
    pack(heads | 1 << latest, hash)
}

/// A hash of the first `len` bytes of the lane's head, never 0. Two requests in a row that differ
/// have the same one once in four thousand million times. A global function, see
/// [`super::capture::capture_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hash_head(lane: u32, len: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr(lane) else {
        return 1;
    };
    // SAFETY: this program's room on this CPU.
    let bytes = unsafe { &(*scratch).head.bytes };
    let mut hash = u64::from(len);
    let mut at = 0;
    while at + 8 <= HEAD_BYTES {
        if at as u32 >= len {
            break;
        }
        // SAFETY: eight bytes inside the array, which has the alignment of `Head`'s first field.
        let mut word = unsafe { bytes.as_ptr().add(at).cast::<u64>().read() };
        let left = len - at as u32;
        if left < 8 {
            word &= u64::MAX >> (64 - 8 * (left & 7));
        }
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
        at += 8;
    }
    hash as u32 | 1
}
