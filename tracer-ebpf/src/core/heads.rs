//! Request heads of HTTP/1: of each that differs from the one before, the request line without what
//! its query says, and the host. Nothing else leaves the program's memory.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel as raw_probe_read_kernel;
use tracer_ebpf::{
    Counter, HEADS_FIRST, HEADS_HTTP, HEADS_HTTP2, HEADS_LATEST, HEADS_TLS, HOST_BYTES, Head,
    HeadKey, LINE_BYTES, RESPONSE_AWAITED, RESPONSE_TO_CONNECT, RESPONSE_TO_HEAD,
    RESPONSE_UPGRADED, ROLE_SERVER, SOCK_PREEXISTING,
};

use super::{
    composed::{is_composed, of_first, remember_composed},
    hello::{HELLO_FIRST, HELLO_LATEST, hello_in_pieces, keep_hello},
    http2::begins_request,
    kernel::read_user,
    lines::{
        LINE_IS_CUT, LINE_IS_OTHER, byte, each_end, is_blank, line_kind, lines_after, place,
        small_letters, word,
    },
    maps::{HEADS, SCRATCH, Scratch, bounded, count},
    notes::note,
    packed::{pack, unpack},
    pieces::{IN_PIECES, begin_pieces},
    query::{marks, mask_query},
    sockets::entry,
    user_buffer::{UserBuffer, WINDOW_BYTES},
};

/// Bytes by which a request is told from the one before.
pub const COMPARED_BYTES: u32 = 240;
/// Bytes of the beginning by which its protocol is known.
const BEGINNING_BYTES: u32 = 4;
/// The first bytes of TLS records: 22 or 23, and 3.
const TLS_RECORD: u32 = 0x0316;

const fn first(bytes: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*bytes)
}

// first four bytes of the methods of RFC 9110, and of the HTTP/2 preface
const GET: u32 = first(b"GET ");
const POST: u32 = first(b"POST");
const PUT: u32 = first(b"PUT ");
const HEAD: u32 = first(b"HEAD");
const DELETE: u32 = first(b"DELE");
const PATCH: u32 = first(b"PATC");
const OPTIONS: u32 = first(b"OPTI");
const CONNECT: u32 = first(b"CONN");
const TRACE: u32 = first(b"TRAC");
// the beginnings of a header of the PROXY protocol, version 1 and 2
const PROXY: u32 = first(b"PROX");
const PROXY_2: u32 = first(b"\r\n\r\n");
/// In place of a request's hash, which is odd: such a header was sent, and nothing else yet.
pub const PROXIED: u32 = 2;
/// The beginning of the connection preface of HTTP/2.
pub const PREFACE: u32 = first(b"PRI ");

/// Of a request of HTTP/1 that begins with these bytes: `RESPONSE_*` bits for the response to come; 0
/// for anything else.
#[inline(always)]
pub fn expected_after(word: u32) -> u8 {
    // comparisons, not a table: a table would live in a data section of its own
    match word {
        GET | POST | PUT | DELETE | PATCH | OPTIONS | TRACE => RESPONSE_AWAITED,
        HEAD => RESPONSE_AWAITED | RESPONSE_TO_HEAD,
        CONNECT => RESPONSE_AWAITED | RESPONSE_TO_CONNECT,
        _ => 0,
    }
}

/// What else a turn may begin with, as `HEADS_*` bits.
#[inline(always)]
fn other_protocol(word: u32) -> u8 {
    // a handshake's or an application's record: type, major version, minor version
    if word & 0xfffe == TLS_RECORD && (word >> 16) as u8 <= 4 {
        HEADS_TLS
    } else if word == PREFACE {
        HEADS_HTTP | HEADS_HTTP2
    } else {
        0
    }
}

/// Bits that tell a request's frame of HTTP/2 from most other things, and what they are: its length
/// is small, and its type 1.
const FRAME_OF_REQUEST: (u32, u32) = (0xff00_00ff, 0x0100_0000);

/// `HEADS_*` bits where a client's connection that is older than the watch sends a request of HTTP/2.
/// A global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn joined_late(sk: u64, at: u64, len: u32) -> u32 {
    let Some(sock) = entry(sk) else { return 0 };
    let late = sock.flags & SOCK_PREEXISTING != 0 && sock.role != ROLE_SERVER;
    u32::from(late && begins_request(UserBuffer { at, len })) * u32::from(HEADS_HTTP2)
}

/// Looks at the first bytes of a turn, and keeps what there is to keep of an HTTP/1 request. `place`
/// has the lane and the number of bytes, `kept` the socket's `heads` and `head_hash`, whose new
/// values are returned; above `heads` are the `RESPONSE_*` bits of the response to come. A global
/// function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep_head(sk: u64, place: u64, kept: u64) -> u64 {
    let (lane, bytes) = unpack(place);
    let buffer = UserBuffer::current(bytes);
    if buffer.at == 0 {
        return kept;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return kept;
    };
    // one read is enough for a request that equals the one before
    let looked = buffer.look_at(COMPARED_BYTES, scratch);
    let mut begins = word(scratch, 0) as u32;
    if looked < BEGINNING_BYTES {
        // a method by itself is a piece of a line, too
        begins = begins & 0x00ff_ffff | u32::from(b' ') << 24;
        if looked != BEGINNING_BYTES - 1 || expected_after(begins) == 0 {
            return kept;
        }
    }
    let response = expected_after(begins);
    if response == 0 {
        return keep_other(sk, pack(lane, buffer.len), buffer.at, begins, kept);
    }
    let mut len = buffer.len;
    if len > WINDOW_BYTES {
        len = WINDOW_BYTES;
    }
    let hash = hash_head(lane, len);
    let says = u32::from(response) << HEADS_BITS | u32::from(HEADS_HTTP);
    if kept as u32 == hash {
        // the same request as before, which user space has or finds in the map
        return kept | pack(says, 0);
    }
    keep_another(sk, place, kept, pack(says, hash))
}

/// Keeps a request that is not the one before: `new` has what it says, as above, and its hash. What was
/// kept last in this lane is kept again, as another connection's, where all of the request is the same.
/// A global function, so that what it needs takes no room on the stack of every turn.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep_another(sk: u64, place: u64, kept: u64, new: u64) -> u64 {
    let (lane, bytes) = unpack(place);
    let mut len = look_again(lane, bytes);
    if len == NO_REQUEST {
        return kept;
    }
    if len & LINE_CUT_OFF != 0 {
        if begin_pieces(sk, bytes) != 0 {
            return kept & !u64::from(u32::MAX) | u64::from(IN_PIECES);
        }
        len &= !LINE_CUT_OFF;
    }
    let (says, hash) = unpack(new);
    let kept = kept | pack(says, 0);
    match store_head(sk, pack(lane, len), (kept >> 32) as u32) {
        NO_ROOM => kept,
        stored => pack(stored, hash),
    }
}

/// Whether a proxy has opened a tunnel on this socket.
#[inline(always)]
fn in_tunnel(sk: u64) -> bool {
    const TUNNEL: u8 = RESPONSE_TO_CONNECT | RESPONSE_UPGRADED;
    entry(sk).is_some_and(|sock| sock.response & TUNNEL == TUNNEL)
}

/// Answer of [`look_again`].
const NO_REQUEST: u32 = u32::MAX;
/// With the length that [`look_again`] answers: the line does not end there, and may go on.
const LINE_CUT_OFF: u32 = 1 << 31;

/// Looks at all of a request in place of its first bytes: how many they are, or [`COMPOSED`], or
/// [`NO_REQUEST`]. A global function, so that [`keep_another`] needs little of the stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn look_again(lane: u32, bytes: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return NO_REQUEST;
    };
    let buffer = UserBuffer::current(bytes);
    if is_composed(lane, buffer.len) != 0 {
        return COMPOSED;
    }
    let len = buffer.look(scratch);
    let kind = line_kind(lane, len);
    if len == 0 || kind == LINE_IS_OTHER {
        return NO_REQUEST;
    }
    if kind == LINE_IS_CUT && len < LINE_BYTES as u32 {
        return len | LINE_CUT_OFF;
    }
    len
}

/// Of a turn that begins otherwise, with these four bytes: `kept` with what it tells of the protocol.
/// `place` has the lane and the bytes that lie at `at`. A global function, see
/// [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep_other(sk: u64, place: u64, at: u64, begins: u32, kept: u64) -> u64 {
    let (lane, len) = unpack(place);
    let mut other = other_protocol(begins);
    if begins & FRAME_OF_REQUEST.0 == FRAME_OF_REQUEST.1 {
        other |= joined_late(sk, at, len) as u8;
    }
    let kept = kept | pack(u32::from(other), 0);
    if matches!(begins, PROXY | PROXY_2) && kept as u32 == 0 {
        return kept | u64::from(PROXIED);
    }
    if other != HEADS_TLS {
        return kept;
    }
    // what names a server comes first, and once; in a tunnel, behind what asked for it
    let (has, how) = if in_tunnel(sk) {
        (HEADS_LATEST, HELLO_LATEST)
    } else {
        (HEADS_FIRST, HELLO_FIRST)
    };
    let wanted = kept >> 32 & u64::from(has) == 0;
    let hello = wanted
        && (keep_hello(sk, lane, at, len, how) != 0
            || (has == HEADS_FIRST && hello_in_pieces(sk, lane, at, len) != 0));
    kept | pack(u32::from(hello) * u32::from(has), 0)
}

/// Looks at what is sent in the middle of a turn: clients of MySQL begin a handshake right behind the
/// message that asks for it. `place` and `kept` are those of [`keep_head`]. A global function, see
/// [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn late_hello(sk: u64, place: u64, kept: u64) -> u64 {
    const CLIENT_HELLO: u8 = 1;
    let (lane, bytes) = unpack(place);
    let buffer = UserBuffer::current(bytes);
    if buffer.at == 0 || buffer.len < 6 {
        return kept;
    }
    let [a, b, c, d, _, kind]: [u8; 6] = read_user(buffer.at);
    let begins = u32::from_le_bytes([a, b, c, d]);
    if begins as u16 != TLS_RECORD as u16 || kind != CLIENT_HELLO {
        return kept;
    }
    keep_other(sk, pack(lane, buffer.len), buffer.at, begins, kept)
}

/// Answer of [`store_head`] where the map is full.
pub const NO_ROOM: u32 = u32::MAX;

/// For [`store_head`], in place of a length: the lane's head has it already.
const COMPOSED: u32 = 0;

/// Stores what is kept of the request in the lane's window; the socket's `heads` with what is new. A
/// global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn store_head(sk: u64, place: u64, heads: u32) -> u32 {
    let (lane, len) = unpack(place);
    if len != COMPOSED && compose(lane, len) == 0 {
        note!("a request to a proxy with a name before the host is not kept");
        return heads;
    }
    let (Some(scratch), Some(sock)) = (SCRATCH.get_ptr_mut(lane), entry(sk)) else {
        return heads;
    };
    if len != COMPOSED {
        remember_composed(scratch, len);
    }
    // SAFETY: this program's room on this CPU.
    let head = unsafe { &mut (*scratch).head };
    head.opened_ns = sock.opened_ns;
    head.turn = sock.turns;
    let latest = u64::from(heads & u32::from(HEADS_FIRST) != 0);
    if HEADS.insert(&HeadKey { sk, latest }, head, 0).is_err() {
        count(Counter::HeadMapFull);
        return NO_ROOM;
    }
    let has = if latest == 0 {
        HEADS_FIRST
    } else {
        HEADS_LATEST
    };
    heads | u32::from(has)
}

/// Where `RESPONSE_*` bits are in the upper half of [`keep_head`]'s answer.
pub const HEADS_BITS: u32 = 16;

/// Puts into the lane's head what is kept of the request in its window; 0: nothing. A global
/// function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn compose(lane: u32, len: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    let head = unsafe {
        (*scratch).composed.forget();
        &mut (*scratch).head
    };
    head.line_len = 0;
    head.host_len = 0;
    clear(&mut head.line);
    clear(&mut head.host);
    let _ = each_end(scratch, len, |at| request_lines(lane, at, len));
    let whole = head.line_len != 0;
    let mut line_len = if whole { u32::from(head.line_len) } else { len };
    if line_len > LINE_BYTES as u32 {
        line_len = LINE_BYTES as u32;
        head.line_len = LINE_BYTES as u16 + 1;
    }
    if !whole {
        // its end was not seen: programs write a line in pieces, too
        head.line_len = LINE_BYTES as u16 + 1;
    }
    // SAFETY: at most as many bytes as the line has; both are this program's room.
    unsafe {
        raw_probe_read_kernel(
            head.line.as_mut_ptr().cast::<c_void>(),
            bounded::<0xff>(line_len),
            (&raw const (*scratch).window).cast::<c_void>(),
        );
    }
    let marks = marks(scratch);
    if marks.query {
        mask_query(lane);
    }
    // a name and a password may stand before a host only where the target begins with one
    u32::from(!marks.at_sign || begins_with_path(&head.line))
}

/// Clears an array where it is. (An assignment would clear one on the stack and copy it.) The helper
/// writes zeros where it can't read.
#[inline(always)]
fn clear<const BYTES: usize>(bytes: &mut [u8; BYTES]) {
    // SAFETY: the destination is as long; the helper checks the source.
    unsafe {
        raw_probe_read_kernel(
            bytes.as_mut_ptr().cast::<c_void>(),
            BYTES as u32,
            core::ptr::null(),
        );
    }
}

/// Whether the target of a request line begins with a slash, as all do that are not for proxies.
#[inline(always)]
fn begins_with_path(line: &[u8; LINE_BYTES]) -> bool {
    let mut i = 0;
    while i < 9 {
        if line[i] == b' ' {
            return line[i + 1] == b'/';
        }
        i += 1;
    }
    false
}

/// Takes in the lines that begin behind an end in the eight bytes at `at`. A global function, so that
/// it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn request_lines(lane: u32, at: u32, len: u32) -> u32 {
    match SCRATCH.get_ptr(lane) {
        Some(scratch) => lines_after(scratch, at, |at| request_line(lane, at, len)),
        None => 1,
    }
}

/// Takes in the line that begins at `at`, behind the first, of `len` bytes. A global function, so
/// that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn request_line(lane: u32, at: u32, len: u32) -> u32 {
    const HOST: u64 = u64::from_le_bytes(*b"host:\0\0\0");
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return 1;
    };
    if at > len {
        // of what the window had before
        return 1;
    }
    // SAFETY: this program's room on this CPU.
    let head = unsafe { &mut (*scratch).head };
    if head.line_len == 0 {
        let carriage_return = at > 1 && byte(scratch, at - 2) == b'\r';
        head.line_len = (at - 1 - u32::from(carriage_return)) as u16;
    }
    if at >= len || is_blank(scratch, at, len) != 0 {
        return 1;
    }
    if small_letters(scratch, at) & (u64::MAX >> 24) != HOST {
        return 0;
    }
    keep_host(scratch, head, at + 5, len)
}

/// Keeps the host that begins at `at`, or behind a space there.
#[inline(always)]
fn keep_host(scratch: *const Scratch, head: &mut Head, at: u32, len: u32) -> u32 {
    let start = at + u32::from(byte(scratch, at) == b' ');
    let value = place(scratch, start);
    let mut i = 0;
    while i < HOST_BYTES {
        // SAFETY: less than can be read from there.
        let found = unsafe { value.add(i).read() };
        if found == b'\r' || found == b'\n' {
            break;
        }
        head.host[i] = found;
        i += 1;
    }
    head.host_len = if start + i as u32 >= len {
        // cut off
        HOST_BYTES as u16 + 1
    } else {
        i as u16 + u16::from(i == HOST_BYTES)
    };
    1
}

/// A hash of the first bytes of the lane's window, never 0. Two requests in a row that differ have
/// the same one once in four thousand million times. A global function, see
/// [`super::capture::find_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hash_head(lane: u32, len: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr(lane) else {
        return 1;
    };
    let whole = if len < COMPARED_BYTES {
        len & !7
    } else {
        COMPARED_BYTES
    };
    let mut hash = u64::from(len);
    let mut at = 0;
    while at < COMPARED_BYTES {
        if at >= whole {
            break;
        }
        hash = mixed(hash, word(scratch, at));
        at += 8;
    }
    let left = len - whole;
    if left != 0 && whole < COMPARED_BYTES {
        hash = mixed(hash, word(scratch, whole) & of_first(left));
    }
    hash as u32 | 1
}

#[inline(always)]
fn mixed(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 32
}
