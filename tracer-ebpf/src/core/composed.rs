//! The request from which a lane's head was composed: the next connection's first request is often the
//! same, and need not be taken apart again.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel as raw_probe_read_kernel;

use super::{
    heads::COMPARED_BYTES,
    lines::word,
    maps::{SCRATCH, Scratch},
};

/// A request of at most [`COMPARED_BYTES`].
#[repr(C)]
pub struct Composed {
    /// All of it, in words of eight bytes; what is behind its end does not count.
    bytes: [u64; COMPARED_BYTES as usize / 8],
    /// Its length; 0: the head is of something else.
    len: u64,
}

impl Composed {
    /// The head is of something else from here on.
    #[inline(always)]
    pub fn forget(&mut self) {
        self.len = 0;
    }
}

/// The lane's head was composed from the request of `len` bytes in its window.
#[inline(always)]
pub fn remember_composed(scratch: *mut Scratch, len: u32) {
    if len > COMPARED_BYTES {
        return;
    }
    // SAFETY: this program's room on this CPU; the window is larger.
    unsafe {
        raw_probe_read_kernel(
            (&raw mut (*scratch).composed.bytes).cast::<c_void>(),
            COMPARED_BYTES,
            (&raw const (*scratch).window).cast::<c_void>(),
        );
        (*scratch).composed.len = u64::from(len);
    }
}

/// Not 0: the lane's head was composed from a request that equals the one of `len` bytes in its window,
/// to the last byte. A global function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_composed(lane: u32, len: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr(lane) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    let composed = unsafe { &(*scratch).composed };
    if len == 0 || len > COMPARED_BYTES || composed.len != u64::from(len) {
        return 0;
    }
    let mut at = 0;
    while at < COMPARED_BYTES {
        if at >= len {
            break;
        }
        let different = word(scratch, at) ^ composed.bytes[at as usize / 8];
        if different & of_first(len - at) != 0 {
            return 0;
        }
        at += 8;
    }
    1
}

/// The bits of the first `left` (> 0) bytes of a word.
#[inline(always)]
pub fn of_first(left: u32) -> u64 {
    if left < 8 {
        u64::MAX >> (64 - 8 * (left & 7))
    } else {
        u64::MAX
    }
}
