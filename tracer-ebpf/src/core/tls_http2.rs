//! HTTP/2 inside TLS: the frames that a client hands to its TLS library, and those that the library
//! hands out, are taken in like those of connections in the clear (`http2.rs`). What the library's
//! connection is known by stands for the socket, which is found by what is sent.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, LruHashMap},
};
use tracer_ebpf::{
    Counter, FRAME_HEADER_BYTES, Flow, Http2, MATCHES_SURE, ROLE_SERVER, STACK_NONE,
    STREAM_REQUESTED, Stream, StreamKey, TlsHttp2, TlsKey, WHEN_REQUEST,
};

use super::{
    capture::capture_stack,
    heads::PREFACE,
    helpers::{current_thread, now_ns},
    http2::{DONE, HTTP2, ON, ROUNDS, STREAM, STREAMS, begins_request, take_some},
    kernel::read_user,
    maps::{LANE_RUNTIME, LANE_TLS_RECEIVED, SCRATCH, count},
    packed::pack,
    sockets::entry,
    submitted::who_submitted,
    task::current_tgid,
    user_buffer::{Pieces, UserBuffer},
};

/// Connections whose frames are followed.
#[map]
pub static TLS_HTTP2: HashMap<TlsKey, TlsHttp2> = HashMap::with_max_entries(2_048, 0);

/// Processes whose reads are seen, which user space says.
#[map]
static TLS_READERS: HashMap<u32, u32> = HashMap::with_max_entries(1_024, 0);

/// A thread's call that reads.
#[repr(C)]
#[derive(Clone, Copy)]
struct Reading {
    object: u64,
    /// Where the plaintext goes.
    at: u64,
    /// Where the number of its bytes goes; 0: it is returned.
    count_at: u64,
}

/// By thread.
#[map]
static TLS_READS: LruHashMap<u64, Reading> = LruHashMap::with_max_entries(4_096, 0);

/// Most bytes of plaintext in one record (RFC 8446 section 5.1).
const RECORD_BYTES_MAX: u32 = 1 << 14;

#[inline(always)]
fn key_of(object: u64) -> TlsKey {
    TlsKey {
        object,
        tgid: current_tgid(),
        pad: 0,
    }
}

/// The current thread hands `bytes` bytes at `at` to the library's connection `object`, which are no
/// request of HTTP/1. 1 where they are frames of HTTP/2. A global function, so that it is verified
/// once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn frames_written(object: u64, at: u64, bytes: u32) -> u32 {
    let key = key_of(object);
    let begins: [u64; 2] = read_user(at);
    let preface = begins[0] as u32 == PREFACE;
    if preface && begin_to_follow_tls(object, 0) == 0 {
        return 0;
    }
    let known = match TLS_HTTP2.get_ptr_mut(&key) {
        Some(known) => known,
        None if is_request(at, bytes) != 0 && begin_to_follow_tls(object, 1) != 0 => {
            match TLS_HTTP2.get_ptr_mut(&key) {
                Some(known) => known,
                None => return 0,
            }
        }
        None => return 0,
    };
    // SAFETY: a live map value; a library's connection is used by one thread at a time.
    let known = unsafe { &mut *known };
    let end = at + u64::from(bytes);
    let same_end = known.written_at + u64::from(known.written) == end;
    // the same again, after the socket had no room, or what of it did not fit into one record
    let unsent = known.pending != 0 || known.written_at == at;
    let again = unsent && known.written == bytes && known.begins == begins;
    let rest = same_end && at > known.written_at && known.written > RECORD_BYTES_MAX;
    if !rest {
        known.written_at = at;
        known.written = bytes;
        known.begins = begins;
        known.pending = 1;
    }
    if !again && !rest {
        take_tls(known.number, at, pack(LANE_RUNTIME, bytes));
    }
    1
}

/// What is written to the library's connection `object` lies where it is not looked at. A global
/// function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn miss_written(object: u64) -> u32 {
    // SAFETY: a map lookup; the value is not kept.
    match unsafe { TLS_HTTP2.get(&key_of(object)) } {
        Some(known) => lose_tls(known.number),
        None => 0,
    }
}

/// Whether what is written begins with the frame of a request: its block begins with the pseudo-headers
/// of one (RFC 9113 section 8.3.1), as those of the static table (RFC 7541 appendix A). A global
/// function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_request(at: u64, len: u32) -> u32 {
    const PADDED: u8 = 0x08;
    const WITH_PRIORITY: u8 = 0x20;
    if !begins_request(UserBuffer { at, len }) {
        return 0;
    }
    let flags: u8 = read_user(at + 4);
    let mut first = at + FRAME_HEADER_BYTES as u64;
    if flags & PADDED != 0 {
        first += 1;
    }
    if flags & WITH_PRIORITY != 0 {
        first += 5;
    }
    let first: u8 = read_user(first);
    // indexed; literals with the names 1, 2 and 4, which are added to the table, not, or never
    let indexed = (0x82..=0x87).contains(&first);
    let named = first & 0x0f;
    let literal = matches!(first >> 4, 0 | 1 | 4) && matches!(named, 1 | 2 | 4);
    u32::from(indexed || literal)
}

/// Makes the entries of a connection, which begins now, or is `joined_late`; 0 where there is no room.
/// A global function, so that its records take no room on the stack of the caller.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn begin_to_follow_tls(object: u64, joined_late: u32) -> u32 {
    let now = now_ns();
    let connection = Http2 {
        opened_ns: now,
        since_ns: now,
        sure: 1,
        ..Http2::default()
    };
    if HTTP2.insert(&now, &connection, 0).is_err() {
        count(Counter::StreamMapFull);
        return 0;
    }
    let key = key_of(object);
    // SAFETY: a map lookup; the value is not kept.
    let readers = unsafe { TLS_READERS.get(&key.tgid) };
    let known = TlsHttp2 {
        number: now,
        reads: u32::from(joined_late == 0 && readers.is_some()),
        ..TlsHttp2::default()
    };
    if TLS_HTTP2.insert(&key, &known, 0).is_err() {
        let _ = HTTP2.remove(&now);
        count(Counter::StreamMapFull);
        return 0;
    }
    1
}

/// Takes in the frames that lie at `at`; `place` has the lane and the number of bytes. A global
/// function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_tls(number: u64, at: u64, place: u64) -> u32 {
    let (lane, bytes) = ((place >> 32) as u32, place as u32);
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    unsafe { (*scratch).pieces = Pieces::one(at, bytes) };
    let mut answer = ON;
    let mut round = 0;
    while round < ROUNDS {
        answer = take_some(number, lane);
        if answer == STREAM {
            // from here: under what takes in frames there is no room on the stack for its capture
            let stack = stack_of_latest(number);
            answer = open_tls_stream(number, stack);
        }
        if answer != ON {
            break;
        }
        round += 1;
    }
    if answer != DONE {
        lose_tls(number);
    }
    1
}

/// The stack of whoever asked for the connection's latest stream. A global function, so that it is
/// verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn stack_of_latest(number: u64) -> u32 {
    let Some(connection) = HTTP2.get_ptr(&number) else {
        return STACK_NONE;
    };
    // SAFETY: a live map value.
    let asked = who_submitted(number, unsafe { (*connection).latest });
    if asked != STACK_NONE {
        return asked;
    }
    capture_stack(0, 0, u32::from(WHEN_REQUEST), LANE_RUNTIME)
}

/// A request with this stack opens the connection's latest stream. A global function, so that it is
/// verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn open_tls_stream(number: u64, stack: u32) -> u32 {
    let Some(connection) = HTTP2.get_ptr(&number) else {
        return ON;
    };
    // SAFETY: a live map value.
    let stream = unsafe { (*connection).latest };
    let value = Stream {
        opened_ns: number,
        began_ns: now_ns(),
        progress_ns: 0,
        stack,
        tgid: current_tgid(),
        state: STREAM_REQUESTED,
        pad: 0,
    };
    let key = StreamKey {
        sk: number,
        stream,
        pad: 0,
    };
    if STREAMS.insert(&key, &value, 0).is_err() {
        count(Counter::StreamMapFull);
    }
    ON
}

/// Something does not fit, or was not seen: of the streams that are open nothing is known any more. A
/// global function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn lose_tls(number: u64) -> u32 {
    let Some(connection) = HTTP2.get_ptr_mut(&number) else {
        return 0;
    };
    // SAFETY: a live map value, which only this connection's calls change.
    let connection = unsafe { &mut *connection };
    connection.since_ns = now_ns();
    connection.flows = [Flow::default(); 2];
    1
}

/// A record of the length of what was written on `object` last is sent on a socket. A global function,
/// so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn sent_for(object: u64, sk: u64) -> u32 {
    let key = key_of(object);
    let (Some(known), Some(sock)) = (TLS_HTTP2.get_ptr_mut(&key), entry(sk)) else {
        return 0;
    };
    // SAFETY: as in `frames_written`.
    let known = unsafe { &mut *known };
    known.pending = 0;
    if known.sk == sk && known.opened_ns == sock.opened_ns {
        known.matches += 1;
        return 1;
    }
    let sure = known.matches >= MATCHES_SURE;
    // one may be a chance: something of the same length that waited to be sent
    known.matches >>= 1;
    if sure && known.matches >= MATCHES_SURE {
        return 0;
    }
    if sure || sock.role == ROLE_SERVER {
        // another connection has the library's object now, or it is none of a client
        let _ = HTTP2.remove(&known.number);
        let _ = TLS_HTTP2.remove(&key);
        return 0;
    }
    known.sk = sk;
    known.opened_ns = sock.opened_ns;
    known.matches = 1;
    1
}

/// The current thread begins to read from the library's connection `object`. A global function, so
/// that its record takes no room on the stack of the caller.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_begins(object: u64, at: u64, count_at: u64) -> u32 {
    // SAFETY: a map lookup; the value is not kept.
    if unsafe { TLS_HTTP2.get(&key_of(object)) }.is_none() {
        return 0;
    }
    let thread = current_thread();
    // SAFETY: a map lookup; the value is copied at once.
    if let Some(unfinished) = unsafe { TLS_READS.get(&thread) }.copied() {
        // its end was not seen
        // SAFETY: as above.
        if let Some(known) = unsafe { TLS_HTTP2.get(&key_of(unfinished.object)) } {
            lose_tls(known.number);
        }
    }
    let reading = Reading {
        object,
        at,
        count_at,
    };
    let _ = TLS_READS.insert(&thread, &reading, 0);
    1
}

/// The read that the current thread began ends, with this result. A global function, so that it is
/// verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_ends(result: u32) -> u32 {
    let thread = current_thread();
    // SAFETY: a map lookup; the value is copied at once.
    let Some(reading) = unsafe { TLS_READS.get(&thread) }.copied() else {
        return 0;
    };
    let _ = TLS_READS.remove(&thread);
    let Some(known) = TLS_HTTP2.get_ptr_mut(&key_of(reading.object)) else {
        return 0;
    };
    // SAFETY: as in `frames_written`.
    let known = unsafe { &mut *known };
    if known.reads == 0 {
        known.reads = 1;
        // what was received before was not seen
        if let Some(connection) = HTTP2.get_ptr_mut(&known.number) {
            // SAFETY: as in `lose_tls`.
            let connection = unsafe { &mut *connection };
            connection.since_ns = now_ns();
            connection.flows[0] = Flow::default();
        }
    }
    let bytes = match (reading.count_at, result as i32) {
        (_, ..=0) => return 0,
        (0, bytes) => bytes as u32,
        (at, _) => read_user::<u64>(at) as u32,
    };
    let place = pack(LANE_TLS_RECEIVED, bytes);
    take_tls(known.number, reading.at, place)
}
