//! Memory that is wiped when it is given back: without examples nothing of a request may lie in
//! buffers that nobody uses any more.
//!
//! Ours, because what a secret passes through belongs to many: the reads of maps, the parsers, the
//! strings of the standard library. A type that wipes itself (as of `zeroize`) reaches none of those.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
};

static ON: AtomicBool = AtomicBool::new(false);

/// Stack below a caller that [`stack`] wipes: deeper than the calls that read a request go.
const STACK_BYTES: usize = 64 << 10;

/// The system's allocator, which wipes what is freed from the moment that [`begin`] says so.
#[derive(Debug)]
pub struct Wiping;

/// From now on.
pub fn begin() {
    ON.store(true, Ordering::Relaxed);
}

/// Wipes what calls that have returned left on the stack of this thread.
#[inline(never)]
pub fn stack() {
    if ON.load(Ordering::Relaxed) {
        let mut below = [0u8; STACK_BYTES];
        wipe(black_box(&mut below).as_mut_ptr(), STACK_BYTES);
    }
}

fn wipe(start: *mut u8, len: usize) {
    // SAFETY: the callers own these bytes and use them no more.
    unsafe { libc::explicit_bzero(start.cast(), len) }
}

// SAFETY: every call goes to the system's allocator with the layout that it came with; a block is
// written to only while it is the caller's.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if ON.load(Ordering::Relaxed) {
            wipe(block, layout.size());
        }
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !ON.load(Ordering::Relaxed) {
            // SAFETY: as the caller promises.
            return unsafe { System.realloc(block, layout, size) };
        }
        // SAFETY: the caller promises a size that is valid with this alignment.
        let moved = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: as the caller promises; the old block stays his where there is no new one.
        unsafe {
            let new = System.alloc(moved);
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}
