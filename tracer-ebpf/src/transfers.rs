//! Sends and receives: activity, turns, request heads, and the owner of accepted sockets.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_user as raw_probe_read_user;
use tracer_ebpf::{
    Counter, HEAD_BYTES, HeadKey, SOCK_ACCEPT_UNOWNED, SOCK_CONNECTED, STACK_GO, STACK_NONE,
    STACK_TICKET, Sock, WHEN_FIRST_IO, WHEN_REQUEST,
};

use crate::{
    capture::capture_stack,
    config,
    kernel::{
        AF_UNIX, Address, Object, active, current_is_target, current_syscall, current_tgid, family,
        inode, netns, position, read_user, request_direction, second_argument,
    },
    maps::{HEADS, LANE_SENT, SCRATCH, bounded, count},
    sockets::{ESTABLISHED, coarse_ticks, entry, fold_socket, insert, insert_again, opened_now},
    unix,
};

/// `MSG_PEEK`: looks without taking.
pub const MSG_PEEK: i32 = 2;
/// Of `want_stacks`: those of each request, too.
const STACKS_OF_REQUESTS: u32 = 2;
const SENT: u8 = 1;
const RECEIVED: u8 = 2;

/// `bytes` (> 0) were sent or received on `sk` by the current task.
#[inline(always)]
pub fn transferred(object: impl Object, bytes: i32, sent: bool) {
    if bytes <= 0 || !active() {
        return;
    }
    let direction = if sent { SENT } else { RECEIVED };
    let sk = object.address();
    let sock = match entry(sk) {
        Some(sock) if sock.family != AF_UNIX as u8 || is_stale(sk, sock.inode) == 0 => sock,
        // every transfer of every process that is not watched comes by here: only UNIX sockets of
        // those that are can be new
        None if family(object) != AF_UNIX || !current_is_target() => return,
        _ => {
            if begin_to_follow(sk) == 0 {
                return;
            }
            let Some(sock) = entry(sk) else { return };
            sock
        }
    };
    if sock.flags & SOCK_ACCEPT_UNOWNED != 0 && take_over(sk) == 0 {
        return;
    }
    let now = coarse_ticks(sock);
    if sent {
        sock.sent_ticks = now;
    } else {
        sock.received_ticks = now;
    }
    let turn_begins = direction == request_direction(sock.role) && sock.last_direction != direction;
    sock.last_direction = direction;
    if !turn_begins && sock.open_stack != STACK_NONE {
        return;
    }
    let when = if turn_begins {
        WHEN_REQUEST
    } else {
        WHEN_FIRST_IO
    };
    // A Go program's transport sends on another goroutine; who asked for it is known already.
    let stack = if sock.request_stack & (STACK_GO | STACK_TICKET) == STACK_GO
        || (sock.open_stack != STACK_NONE && config!(want_stacks) < STACKS_OF_REQUESTS)
    {
        sock.request_stack
    } else {
        capture_stack(sk, sock.opened_ns, u32::from(when), lane(sock, sent))
    };
    if sock.open_stack == STACK_NONE {
        sock.open_stack = stack;
        sock.open_stack_of = WHEN_FIRST_IO;
    }
    if turn_begins {
        sock.turns += 1;
        sock.turn_ticks = now;
        sock.request_stack = stack;
        if config!(want_heads) != 0 {
            let place = pack(lane(sock, sent), bytes as u32);
            let kept = pack(u32::from(sock.heads), sock.head_hash);
            let (heads, hash) = unpack(keep_head(sk, sock.opened_ns, sock.turns, place, kept));
            sock.heads = heads as u16;
            sock.head_hash = hash;
        }
    }
}

/// The lane of the program that runs.
#[inline(always)]
fn lane(sock: &Sock, sent: bool) -> u32 {
    LANE_SENT + u32::from(!sent) + 2 * u32::from(sock.family == AF_UNIX as u8)
}

/// Whether the entry of a UNIX socket, which has this inode, belongs to another one: they may end
/// unseen, and the kernel may use their memory again. A global function, as are the next, so that
/// what is seldom needed takes no room on the stack of every run.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_stale(sk: u64, known: u32) -> u32 {
    u32::from(known != 0 && known != inode(sk))
}

/// Takes up a UNIX socket in place of one that was there before; 0 where it is not one to follow.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn begin_to_follow(sk: u64) -> u32 {
    if fold_socket(sk) != 0 {
        count(Counter::Replaced);
    }
    u32::from(first_seen(sk, false))
}

/// A UNIX stream socket that a target process opens (`opening`) or uses for the first time; `true`
/// when it is stored. (TCP sockets are known from their state changes, or found by the descriptor
/// scan.)
#[inline(always)]
pub fn first_seen(sk: Address, opening: bool) -> bool {
    if !current_is_target() || family(sk) != AF_UNIX || !unix::is_stream(sk) {
        return false;
    }
    let mut sock = opened_now();
    sock.tgid = current_tgid();
    sock.inode = inode(sk);
    sock.netns = netns(sk);
    sock.family = AF_UNIX as u8;
    sock.state = ESTABLISHED;
    sock.flags = SOCK_CONNECTED;
    unix::identify(&mut sock, sk);
    if opening {
        insert(sk, &sock);
    } else if !insert_again(sk, &sock) {
        count(Counter::TransferUntracked);
        return false;
    }
    true
}

/// The current process is the first to use an accepted socket, so it is the owner; 0 where it is
/// none to follow.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_over(sk: u64) -> u32 {
    if !current_is_target() {
        // another process accepts on the same port: not ours to record
        fold_socket(sk);
        return 0;
    }
    let Some(sock) = entry(sk) else { return 0 };
    sock.tgid = current_tgid();
    sock.flags &= !SOCK_ACCEPT_UNOWNED;
    1
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

/// Two numbers as one: a function of the kernel's takes five.
#[inline(always)]
fn pack(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[inline(always)]
fn unpack(packed: u64) -> (u32, u32) {
    ((packed >> 32) as u32, packed as u32)
}

/// Keeps the first bytes of an HTTP/1 request; other protocols' bytes are never copied. `place` has
/// the lane and the number of bytes, `kept` the socket's `heads` and `head_hash`, whose new values
/// are returned. A global function, see [`is_stale`].
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
/// [`capture_stack`].
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
