//! Heads of HTTP/1 responses, read where the client has just received them: status, and how the end
//! of the body is told. Only numbers are kept. What is not understood is not guessed: the answer
//! then has a status and no more, or nothing.

use tracer_ebpf::{
    LEFT_MANY, RESPONSE_AWAITED, RESPONSE_CHUNKED, RESPONSE_HEAD_READ, RESPONSE_LAST_CHUNK,
    RESPONSE_LENGTH, RESPONSE_TO_CONNECT, RESPONSE_UPGRADED, STATUS_TO_COME, Sock,
};

use super::{
    kernel::read_user,
    lines::{byte, each_end, is_blank, lines_after, place, small_letters},
    maps::{SCRATCH, Scratch},
    notes::note,
    packed::{pack, unpack},
    user_buffer::UserBuffer,
};

/// What was read so far of a head.
#[repr(C)]
pub struct Reading {
    /// `Content-Length`, as [`Sock::netns_or_left`].
    length: u32,
    /// Where the head ended.
    end: u32,
    /// Status code, 0 before it was read.
    status: u16,
    /// Nonzero: the line to come is a status line.
    expecting: u8,
    /// `RESPONSE_LENGTH` and `RESPONSE_CHUNKED`.
    found: u8,
}

/// Answers of [`response_line`]: go on, the head ends, nothing that can be followed.
const ON: u32 = 0;
const END: u32 = 1;
const ODD: u32 = 2;

/// Digits of a length that are read.
const DIGITS_MAX: u32 = 18;

const fn word(bytes: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*bytes)
}

// the beginnings of the headers that are read
const CONTENT: u64 = word(b"content-");
const TRANSFER: u64 = word(b"transfer");

/// Bytes that are received may belong to a response that is followed.
#[inline(always)]
pub fn concerns(sock: &Sock) -> bool {
    sock.response & (RESPONSE_AWAITED | RESPONSE_CHUNKED | RESPONSE_LENGTH) != 0
}

/// They have to be looked at: the head is awaited, or the body is chunked.
#[inline(always)]
pub fn is_read(sock: &Sock) -> bool {
    sock.response & (RESPONSE_AWAITED | RESPONSE_CHUNKED) != 0
}

/// They are the next of a body whose length is known.
#[inline(always)]
pub fn pass_body(sock: &mut Sock, bytes: u32) {
    if sock.netns_or_left != LEFT_MANY {
        sock.netns_or_left = sock.netns_or_left.saturating_sub(bytes);
    }
}

/// An interim response (status 1xx) came, and the response itself is still to come; what is sent
/// meanwhile belongs to the same request.
#[inline(always)]
pub fn is_interim(sock: &Sock) -> bool {
    sock.response & RESPONSE_AWAITED != 0 && sock.response_status != 0
}

/// A part of the response was not seen: how its end is told, or whether it came.
#[inline(always)]
pub fn lose_track(sock: &mut Sock) {
    set_response_state(sock, lost(response_state(sock)));
}

/// What the socket's record has of the response as one number, which functions of the kernel's take and
/// return: what is left, the `RESPONSE_*` bits, the status.
#[inline(always)]
pub fn response_state(sock: &Sock) -> u64 {
    let status = u32::from(sock.response_status);
    pack(
        sock.netns_or_left,
        u32::from(sock.response) << BITS_SHIFT | status,
    )
}

/// Puts it back into the record.
#[inline(always)]
pub fn set_response_state(sock: &mut Sock, state: u64) {
    let (left, rest) = unpack(state);
    sock.netns_or_left = left;
    sock.response = (rest >> BITS_SHIFT) as u8;
    sock.response_status = rest as u16;
}

const BITS_SHIFT: u32 = 16;
/// What is said of a response as long as all of it is seen.
const SAID: u8 = RESPONSE_AWAITED
    | RESPONSE_HEAD_READ
    | RESPONSE_LENGTH
    | RESPONSE_CHUNKED
    | RESPONSE_LAST_CHUNK;

/// The state without what can't be said any more.
#[inline(always)]
fn lost(state: u64) -> u64 {
    state & !((SAID as u64) << BITS_SHIFT | STATUS_TO_COME as u64)
}

/// The current call received `bytes` of a response in this state: the state then.
#[inline(always)]
pub fn read_response(lane: u32, bytes: u32, mut state: u64) -> u64 {
    const BOTH: u64 = ((RESPONSE_CHUNKED | RESPONSE_HEAD_READ) as u64) << BITS_SHIFT;
    if state & (RESPONSE_AWAITED as u64) << BITS_SHIFT != 0 {
        state = read_head(lane, bytes, state);
    }
    if state & BOTH == BOTH {
        state = read_chunks(bytes, state);
    }
    state
}

/// The same of the end of a chunked body. A global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_chunks(bytes: u32, state: u64) -> u64 {
    let buffer = UserBuffer::current(bytes);
    if buffer.at == 0 || buffer.len < bytes {
        // its end is elsewhere, and so may be the end of all
        lost(state)
    } else if ends_with_last_chunk(buffer.at, bytes) {
        state | (RESPONSE_LAST_CHUNK as u64) << BITS_SHIFT
    } else {
        state & !((RESPONSE_LAST_CHUNK as u64) << BITS_SHIFT)
    }
}

/// Whether these bytes, in part a chunked body, end with `\r\n0\r\n\r\n`, or are the last five of it.
#[inline(always)]
fn ends_with_last_chunk(at: u64, bytes: u32) -> bool {
    const ENDS: u32 = u32::from_le_bytes(*b"\r\n\r\n");
    const EMPTY: u32 = u32::from_le_bytes(*b"\r\n0\r");
    if bytes < 5 {
        return false;
    }
    let end = at + u64::from(bytes);
    if read_user::<u32>(end - 4) != ENDS {
        return false;
    }
    if bytes < 7 {
        bytes == 5 && read_user::<u8>(at) == b'0'
    } else {
        read_user::<u32>(end - 7) == EMPTY
    }
}

/// The same of a head. A global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_head(lane: u32, bytes: u32, state: u64) -> u64 {
    let buffer = UserBuffer::current(bytes);
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return state;
    };
    let len = if buffer.at == 0 {
        0
    } else {
        buffer.look(scratch)
    };
    if len == 0 {
        return lost(state);
    }
    let (left, rest) = unpack(state);
    let response = (rest >> BITS_SHIFT) as u8;
    // SAFETY: this program's room on this CPU.
    let reading = unsafe { &mut (*scratch).reading };
    reading.length = left;
    reading.end = 0;
    reading.status = rest as u16 & !STATUS_TO_COME;
    // the final response comes after an interim one's blank line
    reading.expecting = u8::from(reading.status == 0 || rest as u16 & STATUS_TO_COME != 0);
    reading.found = response & (RESPONSE_LENGTH | RESPONSE_CHUNKED);
    let answer = read_lines(lane, len, bytes);
    read_so_far(lane, bytes, u32::from(response) | answer << BITS_SHIFT)
}

/// What the `len` bytes in the lane's window come to, of `bytes` that were received. A global function, so
/// that [`read_head`] needs little of the stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_lines(lane: u32, len: u32, bytes: u32) -> u32 {
    let first = response_line(lane, 0, len);
    if first != ON {
        return first;
    }
    let Some(scratch) = SCRATCH.get_ptr(lane) else {
        return ODD;
    };
    match each_end(scratch, len, |at| response_lines(lane, at, len)) {
        Some(answer) => answer,
        // a line that ended with these bytes: the next ones go on with another
        None if len == bytes && byte(scratch, len - 1) == b'\n' => ON,
        None => ODD,
    }
}

/// The state when `answer` is what the lane's reading came to. A global function, so that it is verified
/// once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_so_far(lane: u32, bytes: u32, before: u32) -> u64 {
    let Some(scratch) = SCRATCH.get_ptr(lane) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    let reading = unsafe { &(*scratch).reading };
    let (answer, mut response) = (before >> BITS_SHIFT, before as u8);
    let (mut status, mut left) = (reading.status, reading.length);
    match answer {
        END => {
            response = response & !RESPONSE_AWAITED | RESPONSE_HEAD_READ | reading.found;
            let connected = response & RESPONSE_TO_CONNECT != 0 && status / 100 == 2;
            if status == 101 || connected {
                response |= RESPONSE_UPGRADED;
            }
            if left != LEFT_MANY {
                // the first bytes of the body came with the head
                left = left.saturating_sub(bytes - reading.end);
            }
        }
        ON => {
            response |= reading.found;
            if reading.expecting != 0 {
                status |= STATUS_TO_COME;
            }
        }
        _ => {
            note!("a response with status {} can't be followed", status);
            response &= !SAID;
        }
    }
    pack(left, u32::from(response) << BITS_SHIFT | u32::from(status))
}

/// Takes in the lines that begin behind an end in the eight bytes at `at`. A global function, so that
/// it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn response_lines(lane: u32, at: u32, len: u32) -> u32 {
    match SCRATCH.get_ptr(lane) {
        Some(scratch) => lines_after(scratch, at, |at| response_line(lane, at, len)),
        None => ODD,
    }
}

/// Takes in the line that begins at `at` of `len` bytes. A global function, so that it is verified
/// once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn response_line(lane: u32, at: u32, len: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return ODD;
    };
    // SAFETY: this program's room on this CPU.
    let reading = unsafe { &mut (*scratch).reading };
    if at >= len {
        return ON;
    }
    if reading.expecting != 0 {
        return status_line(scratch, reading, at, len);
    }
    match is_blank(scratch, at, len) {
        0 => {}
        1 if reading.status / 100 == 1 && reading.status != 101 => {
            reading.expecting = 1;
            reading.found = 0;
            return ON;
        }
        1 => {
            reading.end = at + 1 + u32::from(byte(scratch, at) == b'\r');
            return END;
        }
        _ => return ODD,
    }
    match small_letters(scratch, at) {
        CONTENT => length_line(scratch, reading, at, len),
        TRANSFER => coding_line(scratch, reading, at, len),
        _ => ON,
    }
}

/// `HTTP/1.1 200 OK`
#[inline(always)]
fn status_line(scratch: *const Scratch, reading: &mut Reading, at: u32, len: u32) -> u32 {
    const HTTP1: u64 = word(b"http/1.\0");
    if at + 12 > len || small_letters(scratch, at) & (u64::MAX >> 8) != HTTP1 {
        return ODD;
    }
    // SAFETY: inside the lane's room.
    let code = unsafe { place(scratch, at + 9).cast::<[u8; 3]>().read() };
    let [hundreds, tens, ones] = code.map(|digit| u16::from(digit.wrapping_sub(b'0')));
    if hundreds == 0 || hundreds > 9 || tens > 9 || ones > 9 {
        return ODD;
    }
    reading.status = hundreds * 100 + tens * 10 + ones;
    reading.expecting = 0;
    ON
}

/// First byte of the value after a colon at `at`.
#[inline(always)]
fn value(scratch: *const Scratch, at: u32) -> u32 {
    let spaces = byte(scratch, at + 1) == b' ';
    at + 1 + u32::from(spaces)
}

/// `Content-Length: 42`
#[inline(always)]
fn length_line(scratch: *const Scratch, reading: &mut Reading, at: u32, len: u32) -> u32 {
    const REST: u64 = word(b"length:\0");
    if small_letters(scratch, at + 8) & (u64::MAX >> 8) != REST {
        return ON;
    }
    let start = value(scratch, at + 14);
    let digits = place(scratch, start);
    let mut length: u64 = 0;
    let mut i = 0;
    let mut end = 0;
    while i <= DIGITS_MAX {
        // SAFETY: less than can be read from there.
        end = unsafe { digits.add(i as usize).read() };
        let digit = end.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        length = length.wrapping_mul(10) + u64::from(digit);
        i += 1;
    }
    if i == 0 || start + i >= len || (end != b'\r' && end != b'\n') {
        return ODD;
    }
    let length = if length < u64::from(LEFT_MANY) {
        length as u32
    } else {
        LEFT_MANY
    };
    if reading.found & RESPONSE_LENGTH != 0 && reading.length != length {
        return ODD;
    }
    reading.length = length;
    reading.found |= RESPONSE_LENGTH;
    ON
}

/// `Transfer-Encoding: chunked`
#[inline(always)]
fn coding_line(scratch: *const Scratch, reading: &mut Reading, at: u32, len: u32) -> u32 {
    const REST: u64 = word(b"-encodin");
    const CHUNKED: u64 = word(b"chunked\0");
    if small_letters(scratch, at + 8) != REST || byte(scratch, at + 17) != b':' {
        return ON;
    }
    let start = value(scratch, at + 17);
    if start + 7 >= len || small_letters(scratch, start) & (u64::MAX >> 8) != CHUNKED {
        return ODD;
    }
    reading.found |= RESPONSE_CHUNKED;
    ON
}
