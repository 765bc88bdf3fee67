//! Heads of HTTP/1 responses, read where the client has just received them: status, and how the end
//! of the body is told. Only numbers are kept. What is not understood is not guessed: the answer
//! then has a status and no more, or nothing.

use tracer_ebpf::{
    RESPONSE_AWAITED, RESPONSE_CHUNKED, RESPONSE_HEAD_READ, RESPONSE_LAST_CHUNK, RESPONSE_LENGTH,
    RESPONSE_TO_CONNECT, RESPONSE_UPGRADED, Sock,
};

use super::{
    kernel::read_user,
    lines::{byte, each_end, is_blank, lines_after, place, small_letters},
    maps::{SCRATCH, Scratch},
    notes::note,
    sockets::entry,
    user_buffer::UserBuffer,
};

/// What was read so far of a head.
#[repr(C)]
pub struct Reading {
    /// `Content-Length`.
    length: u64,
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

/// A response may go on with these bytes: whether one is awaited, or is chunked.
#[inline(always)]
pub fn concerns(sock: &Sock) -> bool {
    sock.response & (RESPONSE_AWAITED | RESPONSE_CHUNKED) != 0
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
    sock.response &= !(RESPONSE_AWAITED
        | RESPONSE_HEAD_READ
        | RESPONSE_LENGTH
        | RESPONSE_CHUNKED
        | RESPONSE_LAST_CHUNK);
}

/// The current call received `bytes` on a socket whose response is read. A global function, see
/// [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_response(sk: u64, bytes: u32, lane: u32) -> u32 {
    let Some(sock) = entry(sk) else { return 0 };
    let buffer = UserBuffer::current(bytes);
    if sock.response & RESPONSE_AWAITED != 0 {
        read_head(sock, buffer, bytes, lane);
    }
    if sock.response & (RESPONSE_CHUNKED | RESPONSE_HEAD_READ)
        == RESPONSE_CHUNKED | RESPONSE_HEAD_READ
    {
        if buffer.at == 0 || buffer.len < bytes {
            // its end is elsewhere, and so may be the end of all
            lose_track(sock);
        } else if ends_with_last_chunk(buffer.at, bytes) {
            sock.response |= RESPONSE_LAST_CHUNK;
        } else {
            sock.response &= !RESPONSE_LAST_CHUNK;
        }
    }
    0
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

#[inline(always)]
fn read_head(sock: &mut Sock, buffer: UserBuffer, bytes: u32, lane: u32) {
    let before = sock.response_bytes.wrapping_sub(u64::from(bytes)) as u32;
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return;
    };
    let len = if buffer.at == 0 {
        0
    } else {
        buffer.look(scratch)
    };
    if len == 0 {
        lose_track(sock);
        return;
    }
    // SAFETY: this program's room on this CPU.
    let reading = unsafe { &mut (*scratch).reading };
    reading.length = sock.response_length;
    reading.end = 0;
    reading.status = sock.response_status;
    // the final response comes after an interim one's blank line
    reading.expecting = u8::from(sock.response_status == 0 || sock.response_head != 0);
    reading.found = sock.response & (RESPONSE_LENGTH | RESPONSE_CHUNKED);
    let answer = match response_line(lane, 0, len) {
        ON => each_end(scratch, len, |at| response_lines(lane, at, len)),
        answer => Some(answer),
    };
    sock.response_status = reading.status;
    sock.response_length = reading.length;
    match answer {
        Some(END) => {
            let mut response = sock.response & !RESPONSE_AWAITED | RESPONSE_HEAD_READ;
            response |= reading.found;
            let connected = response & RESPONSE_TO_CONNECT != 0 && reading.status / 100 == 2;
            if reading.status == 101 || connected {
                response |= RESPONSE_UPGRADED;
            }
            sock.response = response;
            sock.response_head = before + reading.end;
        }
        // a line that ended with these bytes: the next ones go on with another
        None if len == bytes && byte(scratch, len - 1) == b'\n' => {
            sock.response |= reading.found;
            sock.response_head = u32::from(reading.expecting);
        }
        _ => {
            note!(
                "a response with status {} can't be followed",
                sock.response_status
            );
            lose_track(sock);
        }
    }
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
