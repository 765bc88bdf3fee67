//! Requests inside TLS: what a thread hands to its TLS library is kept until the record that
//! carries it is sent, by the same thread.
//!
//! Some libraries send in the same call, others only fill a buffer that the program sends later
//! (asyncio, Node.js, Netty), so the call says nothing of the socket. The record does: encryption
//! adds a little to the length of what it carries, and the length stands in front of it.

use aya_ebpf::{macros::map, maps::LruHashMap};
use tracer_ebpf::{
    Counter, HEAD_TLS, HEADS_FIRST, HEADS_LATEST, HEADS_PLAINTEXT, Head, HeadKey, STACK_GO,
    STACK_NONE, STACK_TICKET, WHEN_REQUEST,
};

use super::{
    asked::asked_of,
    capture::capture_stack,
    greetings::{keep_message, pass_on_kept},
    heads::{compose, expected_after},
    helpers::current_thread,
    kernel::read_user,
    maps::{HEADS, LANE_RUNTIME, SCRATCH, count},
    sockets::{coarse_ticks, entry},
    task::{SavedRegs, active, current_is_target},
    tls_http2::{frames_written, miss_written, sent_for},
    user_buffer::UserBuffer,
};

/// What a thread has written last that begins like a request.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Plaintext {
    /// The request.
    pub head: Head,
    /// Bytes written.
    pub bytes: u32,
    /// Stack of who wrote.
    pub stack: u32,
    /// The library's connection where what was written is no such request, but frames of HTTP/2,
    /// else 0.
    pub object: u64,
    /// Where it is neither: bytes of a message that the head's line has, else 0.
    pub message: u32,
    /// Bytes of that message in all.
    pub told: u32,
}

/// By thread.
#[map]
pub static PLAINTEXTS: LruHashMap<u64, Plaintext> = LruHashMap::with_max_entries(1_024, 0);

/// The beginning of an answer of HTTP/1.
const ANSWER: u32 = u32::from_le_bytes(*b"HTTP");
/// Content type of records that carry what programs write (RFC 8446 section 5.1).
const APPLICATION_DATA: u8 = 23;
/// Most bytes of plaintext in one record.
const RECORD_BYTES_MAX: u32 = 1 << 14;
/// Bytes that encryption adds: a tag of 16 (RFC 7905), up to nonce, hash and padding of a block
/// cipher (RFC 5246 section 6.2.3.2).
const ADDED_MIN: u32 = 16;
const ADDED_MAX: u32 = 96;
/// The ciphers of HTTP/2 (RFC 9113 section 9.2.2) add a tag; before TLS 1.3 a nonce (RFC 5288), since
/// then the type of what is inside (RFC 8446 section 5.2).
const ADDED_BY_TYPE: u32 = 17;
const ADDED_BY_NONCE: u32 = 24;
/// Records of one send among which the right one is looked for: a handshake's last may stand first.
const RECORDS_MAX: u32 = 4;

/// Pieces of one write that are counted; of more, none is looked at.
const PIECES_MAX: u32 = 8;

/// What a thread hands to its TLS library.
pub struct Written {
    /// Where it begins.
    at: u64,
    /// Bytes that lie there.
    first: u32,
    /// Bytes in all.
    all: u32,
}

impl Written {
    /// It lies in one piece.
    #[inline(always)]
    pub fn one(at: u64, bytes: u32) -> Written {
        Written {
            at,
            first: bytes,
            all: bytes,
        }
    }

    /// It lies in as many pieces, which `at` lists as `struct iovec`.
    #[inline(always)]
    pub fn pieces(at: u64, count: u32) -> Written {
        let [first, len]: [u64; 2] = read_user(at);
        let mut written = Written::one(first, len as u32);
        let mut i = 1;
        while i < PIECES_MAX {
            if i >= count {
                return written;
            }
            written.all += read_user::<u64>(at + 16 * u64::from(i) + 8) as u32;
            i += 1;
        }
        if count > PIECES_MAX {
            written.first = 0;
        }
        written
    }
}

/// The current thread hands these bytes to its TLS library.
#[inline(always)]
pub fn keep_plaintext(object: u64, written: Written, saved: &SavedRegs) {
    if !active() || !current_is_target() {
        return;
    }
    let Written {
        at: buffer,
        first,
        all: bytes,
    } = written;
    if first == 0 {
        return;
    }
    let begins = read_user(buffer);
    if expected_after(begins) == 0 {
        // what servers of HTTP/1 write is told at once
        if begins == ANSWER {
            return;
        }
        if first != bytes {
            miss_written(object);
        } else if frames_written(object, buffer, bytes) != 0 {
            await_record(object, bytes);
        } else {
            let message = keep_message(buffer, bytes);
            if message != 0 {
                remember(bytes, STACK_NONE, message);
            }
        }
        return;
    }
    let stack = match asked_of(saved) {
        STACK_NONE => capture_stack(0, 0, u32::from(WHEN_REQUEST), LANE_RUNTIME),
        asked => asked,
    };
    let Some(scratch) = SCRATCH.get_ptr_mut(LANE_RUNTIME) else {
        return;
    };
    let len = UserBuffer {
        at: buffer,
        len: first,
    }
    .look(scratch);
    if len == 0 || compose(LANE_RUNTIME, len) == 0 {
        return;
    }
    // SAFETY: this program's room on this CPU.
    let head = unsafe { &mut (*scratch).head };
    head.line_len |= HEAD_TLS;
    remember(bytes, stack, 0);
}

/// Keeps the lane's head for the current thread, or `message` bytes that lie in its place. A global function, so that its copy takes no room
/// on the stack of the caller.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn remember(bytes: u32, stack: u32, message: u32) -> u32 {
    let thread = current_thread();
    let Some(scratch) = SCRATCH.get_ptr_mut(LANE_RUNTIME) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    let kept = unsafe { &mut (*scratch).plaintext };
    // SAFETY: as above, and another field.
    kept.head = unsafe { (*scratch).head };
    kept.bytes = bytes;
    kept.stack = stack;
    kept.object = 0;
    kept.message = message;
    kept.told = bytes;
    u32::from(PLAINTEXTS.insert(&thread, kept, 0).is_ok())
}

/// The current thread's next record tells which socket has the library's connection `object`. A global
/// function, see [`remember`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn await_record(object: u64, bytes: u32) -> u32 {
    let thread = current_thread();
    if PLAINTEXTS.get_ptr(&thread).is_none() {
        let Some(scratch) = SCRATCH.get_ptr_mut(LANE_RUNTIME) else {
            return 0;
        };
        // SAFETY: this program's room on this CPU. What it has of an earlier request is not used.
        let _ = PLAINTEXTS.insert(&thread, unsafe { &(*scratch).plaintext }, 0);
    }
    let Some(kept) = PLAINTEXTS.get_ptr_mut(&thread) else {
        return 0;
    };
    // SAFETY: a live map value, which only this thread changes.
    let kept = unsafe { &mut *kept };
    kept.object = object;
    kept.message = 0;
    kept.bytes = bytes;
    1
}

/// Whether the current call sends the record of what its thread handed to its TLS library last;
/// then the request is the socket's. A global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_plaintext(sk: u64, bytes: u32) -> u32 {
    let thread = current_thread();
    let Some(kept) = PLAINTEXTS.get_ptr_mut(&thread) else {
        return 0;
    };
    // SAFETY: a live map value, which only this thread changes.
    let kept = unsafe { &mut *kept };
    if kept.bytes == 0 {
        return 0;
    }
    let buffer = UserBuffer::current(bytes);
    let authenticated = kept.object != 0 || kept.message != 0;
    if buffer.at == 0 || !carries(buffer, kept.bytes, authenticated) {
        return 0;
    }
    if kept.message != 0 {
        kept.bytes = 0;
        pass_on_kept(sk, thread);
        // its turns are those of a connection in the clear
        return 0;
    }
    if kept.object != 0 {
        kept.bytes = 0;
        sent_for(kept.object, sk);
        // its turns are those of a connection in the clear
        return 0;
    }
    let Some(sock) = entry(sk) else { return 0 };
    // what came before was the handshake
    sock.turns = if sock.heads & HEADS_PLAINTEXT == 0 {
        1
    } else {
        sock.turns + 1
    };
    sock.turn_ticks = coarse_ticks(sock);
    if kept.stack != STACK_NONE && sock.request_stack & (STACK_GO | STACK_TICKET) != STACK_GO {
        sock.request_stack = kept.stack;
    }
    sock.heads |= HEADS_PLAINTEXT;
    let latest = u64::from(sock.heads & HEADS_FIRST != 0);
    kept.head.opened_ns = sock.opened_ns;
    kept.head.turn = sock.turns;
    if HEADS
        .insert(&HeadKey { sk, latest }, &kept.head, 0)
        .is_err()
    {
        count(Counter::HeadMapFull);
    } else {
        sock.heads |= if latest == 0 {
            HEADS_FIRST
        } else {
            HEADS_LATEST
        };
    }
    let _ = PLAINTEXTS.remove(&thread);
    1
}

/// Whether one of the first records in the buffer may carry this many bytes; where `authenticated`, with
/// a cipher of HTTP/2, as all are that are in use.
#[inline(always)]
fn carries(buffer: UserBuffer, bytes: u32, authenticated: bool) -> bool {
    let bytes = if bytes > RECORD_BYTES_MAX {
        RECORD_BYTES_MAX
    } else {
        bytes
    };
    let mut at = 0;
    let mut record = 0;
    while record < RECORDS_MAX {
        if at + 5 > buffer.len {
            return false;
        }
        // type, version, length in network byte order
        let header: [u8; 5] = read_user(buffer.at + u64::from(at));
        if header[1] != 3 {
            return false;
        }
        let len = u32::from(header[3]) << 8 | u32::from(header[4]);
        let added = len.wrapping_sub(bytes);
        let fits = if authenticated {
            matches!(added, ADDED_MIN | ADDED_BY_TYPE | ADDED_BY_NONCE)
        } else {
            (ADDED_MIN..=ADDED_MAX).contains(&added)
        };
        if header[0] == APPLICATION_DATA && fits {
            return true;
        }
        at += 5 + len;
        record += 1;
    }
    false
}
