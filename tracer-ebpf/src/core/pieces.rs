//! Requests of HTTP/1 that a client sends piece by piece, as Rust's `write!` does to a socket: the first
//! pieces of a turn are joined until line and host are whole. Before a line is, it is not known whose
//! protocol it is.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{
        bpf_probe_read_kernel as raw_probe_read_kernel, bpf_probe_read_user as raw_probe_read_user,
    },
    macros::map,
    maps::{LruHashMap, PerCpuArray},
};
use tracer_ebpf::{HEADS_HTTP, HOST_BYTES, LINE_BYTES, ROLE_CLIENT};

use super::{
    heads::{HEADS_BITS, NO_ROOM, expected_after, hash_head, store_head},
    lines::{LINE_IS_CUT, LINE_IS_OTHER, line_kind, word},
    maps::{SCRATCH, bounded},
    packed::{pack, unpack},
    sockets::entry,
    user_buffer::Pieces,
};

/// In place of a request's hash, which is odd: the first pieces of one were sent.
pub const IN_PIECES: u32 = 4;

/// Bytes taken of a piece; behind a longer one nothing is joined.
const PIECE_BYTES_MAX: u32 = 255;
/// Bytes from which on nothing is added.
const JOINED_BYTES: u32 = 512;
/// Pieces of one call that are taken.
const PIECES_MAX: u32 = 8;
/// Room for what is joined.
const ROOM: usize = 768;

/// What was joined so far.
#[repr(C)]
#[derive(Clone, Copy)]
struct Joined {
    opened_ns: u64,
    turn: u32,
    len: u32,
    /// Not 0: what follows is not joined.
    full: u32,
    pad: u32,
    text: [u8; ROOM],
}

/// By socket.
#[map]
static JOINED: LruHashMap<u64, Joined> = LruHashMap::with_max_entries(128, 0);

/// An empty entry, to insert.
#[map]
static NOTHING_JOINED: PerCpuArray<Joined> = PerCpuArray::with_max_entries(1, 0);

/// The first of a turn's pieces, `bytes` bytes, ends within its line; 0 where it is none to join. A
/// global function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn begin_pieces(sk: u64, bytes: u32) -> u32 {
    let (Some(sock), Some(nothing)) = (entry(sk), NOTHING_JOINED.get_ptr_mut(0)) else {
        return 0;
    };
    if sock.role != ROLE_CLIENT {
        return 0;
    }
    // SAFETY: this program's room on this CPU; its text stays empty.
    let nothing = unsafe {
        (*nothing).opened_ns = sock.opened_ns;
        (*nothing).turn = sock.turns;
        &*nothing
    };
    if JOINED.insert(&sk, nothing, 0).is_err() {
        return 0;
    }
    join(sk, bytes)
}

/// Adds what the current call sends to what is joined; 0 where it can't be. A global function, so that
/// it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn join(sk: u64, bytes: u32) -> u32 {
    let (Some(joined), Some(mut pieces)) = (JOINED.get_ptr_mut(&sk), Pieces::current(bytes)) else {
        return 0;
    };
    // SAFETY: a live map value; one call at a time sends on the socket of a turn.
    let joined = unsafe { &mut *joined };
    let mut i = 0;
    while i < PIECES_MAX {
        if pieces.len == 0 && (pieces.left == 0 || !pieces.next()) {
            break;
        }
        let mut len = pieces.len;
        if len > PIECE_BYTES_MAX {
            len = PIECE_BYTES_MAX;
            joined.full = 1;
        }
        // SAFETY: both masks together are less than the text has; the helper checks the source.
        let failed = unsafe {
            raw_probe_read_user(
                joined
                    .text
                    .as_mut_ptr()
                    .add(bounded::<{ JOINED_BYTES - 1 }>(joined.len) as usize)
                    .cast::<c_void>(),
                bounded::<PIECE_BYTES_MAX>(len),
                pieces.at as *const c_void,
            )
        };
        if failed != 0 {
            return 0;
        }
        joined.len += len;
        if joined.len >= JOINED_BYTES {
            joined.full = 1;
        }
        if joined.full != 0 {
            return 1;
        }
        pieces.pass(len);
        i += 1;
    }
    if pieces.left != 0 {
        joined.full = 1;
    }
    1
}

/// What was joined for the socket, with the first piece's turn, as [`super::heads::keep_head`] answers;
/// `place` and `kept` are its. The bytes of the call are added before, where they are not the first.
/// A global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep_joined(sk: u64, place: u64, kept: u64) -> u64 {
    let kept = joined_so_far(sk, place, kept);
    if kept as u32 != IN_PIECES {
        let _ = JOINED.remove(&sk);
    }
    kept
}

#[inline(always)]
fn joined_so_far(sk: u64, place: u64, kept: u64) -> u64 {
    let (lane, bytes) = unpack(place);
    let heads = (kept >> 32) as u32;
    let over = pack(heads, 0);
    let (Some(joined), Some(sock), Some(scratch)) =
        (JOINED.get_ptr(&sk), entry(sk), SCRATCH.get_ptr_mut(lane))
    else {
        return over;
    };
    // SAFETY: a live map value.
    let joined = unsafe { &*joined };
    if joined.opened_ns != sock.opened_ns || joined.turn != sock.turns {
        return over;
    }
    if bytes != 0 && join(sk, bytes) == 0 {
        return over;
    }
    let len = joined.len;
    // SAFETY: this program's room on this CPU, which is larger; the helper checks the source.
    unsafe {
        raw_probe_read_kernel(
            (&raw mut (*scratch).window).cast::<c_void>(),
            ROOM as u32,
            joined.text.as_ptr().cast::<c_void>(),
        );
    }
    let kind = line_kind(lane, len);
    if kind == LINE_IS_OTHER {
        return over;
    }
    if kind == LINE_IS_CUT && len < LINE_BYTES as u32 && joined.full == 0 {
        return pack(heads, IN_PIECES);
    }
    let stored = store_head(sk, pack(lane, len), heads);
    if stored == NO_ROOM {
        return over;
    }
    let response = expected_after(word(scratch, 0) as u32);
    let says = stored | u32::from(HEADS_HTTP) | u32::from(response) << HEADS_BITS;
    // SAFETY: as above.
    let host_len = unsafe { (*scratch).head.host_len };
    let whole = host_len != 0 && host_len <= HOST_BYTES as u16;
    if whole || joined.full != 0 {
        return pack(says, hash_head(lane, len));
    }
    pack(says, IN_PIECES)
}
