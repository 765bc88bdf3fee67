//! Lines of text in a lane's window, found eight bytes at a time.

use core::mem::offset_of;

use tracer_ebpf::SHAPE_WORDS;

use super::{
    maps::{SCRATCH, Scratch, bounded},
    user_buffer::WINDOW_BYTES,
};

const EACH: u64 = 0x0101_0101_0101_0101;
const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;

/// The top bit of each byte that is `wanted`.
#[inline(always)]
pub fn bytes_that_are(word: u64, wanted: u8) -> u64 {
    let other = word ^ (EACH * wanted as u64);
    !(((other & LOW) + LOW) | other | LOW)
}

/// Index of the lowest byte that is marked so.
#[inline(always)]
fn first(marks: u64) -> u32 {
    ((marks & marks.wrapping_neg()) - 1).count_ones() >> 3
}

/// Answer where three lines end within eight bytes, which no head has.
const STRANGE: u32 = u32::MAX;

/// Hands the place of each eight bytes in which a line ends, of the first `len`, to `ends`, until it
/// answers other than 0. `Some` with that answer, `None` where the bytes end before.
#[inline(always)]
pub fn each_end(scratch: *const Scratch, len: u32, ends: impl Fn(u32) -> u32) -> Option<u32> {
    let mut at = 0;
    while at < WINDOW_BYTES {
        if at >= len {
            break;
        }
        if bytes_that_are(word(scratch, at), b'\n') != 0 {
            let answer = ends(at);
            if answer != 0 {
                return Some(answer);
            }
        }
        at += 8;
    }
    None
}

/// Hands the start of each line that follows an end in the eight bytes at `at` to `line`, until it
/// answers other than 0, which is the answer. Lines may begin where the bytes do not count any more.
#[inline(always)]
pub fn lines_after(scratch: *const Scratch, at: u32, line: impl Fn(u32) -> u32) -> u32 {
    let ends = bytes_that_are(word(scratch, at), b'\n');
    if ends == 0 {
        return 0;
    }
    let answer = line(at + first(ends) + 1);
    if answer != 0 {
        return answer;
    }
    let more = ends & (ends - 1);
    if more == 0 {
        return 0;
    }
    let answer = line(at + first(more) + 1);
    if answer != 0 {
        return answer;
    }
    if more & (more - 1) == 0 { 0 } else { STRANGE }
}

/// The eight bytes of the window around this one.
#[inline(always)]
pub fn word(scratch: *const Scratch, at: u32) -> u64 {
    let index = (at / 8) as usize & (SHAPE_WORDS - 1);
    // SAFETY: this program's room on this CPU.
    unsafe { (*scratch).window[index] }
}

/// Where a byte of the window is. At least 128 more can be read from there: what lies behind the window
/// is the lane's own, too.
#[inline(always)]
pub fn place(scratch: *const Scratch, at: u32) -> *const u8 {
    let at = bounded::<{ 2 * WINDOW_BYTES - 1 }>(at) as usize;
    // SAFETY: inside the lane's room, by the mask.
    unsafe { scratch.cast::<u8>().add(offset_of!(Scratch, window) + at) }
}

/// A byte of the window.
#[inline(always)]
pub fn byte(scratch: *const Scratch, at: u32) -> u8 {
    // SAFETY: inside the lane's room.
    unsafe { place(scratch, at).read() }
}

/// Eight bytes of the window, letters as small ones.
#[inline(always)]
pub fn small_letters(scratch: *const Scratch, at: u32) -> u64 {
    // SAFETY: inside the lane's room.
    let word = unsafe { place(scratch, at).cast::<u64>().read_unaligned() };
    word | (EACH * 0x20)
}

/// A blank line begins here: 1, it does; 2, it may, but its end is not there yet.
#[inline(always)]
pub fn is_blank(scratch: *const Scratch, at: u32, len: u32) -> u32 {
    // SAFETY: inside the lane's room.
    let [here, next] = unsafe { place(scratch, at).cast::<[u8; 2]>().read() };
    match here {
        b'\n' => 1,
        b'\r' if at + 1 >= len => 2,
        b'\r' if next == b'\n' => 1,
        _ => 0,
    }
}

/// Of the first line of the `len` bytes in the lane's window: it does not end there; it has no version of
/// HTTP/1 at its end, so it is of a protocol that has words in common with it; it has one. A global
/// function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn line_kind(lane: u32, len: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr(lane) else {
        return OF_HTTP;
    };
    each_end(scratch, len, |at| first_line_is_other(lane, at, len)).unwrap_or(LINE_IS_CUT)
}

/// Answers of [`line_kind`].
pub const LINE_IS_CUT: u32 = 0;
/// See [`LINE_IS_CUT`].
pub const LINE_IS_OTHER: u32 = 1;
const OF_HTTP: u32 = 2;

/// The same of the line that ends in the eight bytes at `at`. A global function, so that it is verified
/// once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn first_line_is_other(lane: u32, at: u32, len: u32) -> u32 {
    const VERSION: u64 = u64::from_le_bytes(*b"HTTP/1.\0");
    let Some(scratch) = SCRATCH.get_ptr(lane) else {
        return OF_HTTP;
    };
    lines_after(scratch, at, |next| {
        if next > len {
            // of what the window had before
            return OF_HTTP;
        }
        let end = next - 1 - u32::from(next > 1 && byte(scratch, next - 2) == b'\r');
        if end < 8 {
            return LINE_IS_OTHER;
        }
        // SAFETY: inside the lane's room.
        let last = unsafe { place(scratch, end - 8).cast::<u64>().read_unaligned() };
        if last & (u64::MAX >> 8) == VERSION {
            OF_HTTP
        } else {
            LINE_IS_OTHER
        }
    })
}
