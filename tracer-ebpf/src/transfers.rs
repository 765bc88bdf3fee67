//! Sends and receives: activity, turns, request heads, and the owner of accepted sockets.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_probe_read_user as raw_probe_read_user};
use tracer_ebpf::{
    Counter, HEAD_BYTES, HeadKey, SOCK_ACCEPT_UNOWNED, SOCK_CONNECTED, STACK_NONE, Sock,
    WHEN_FIRST_IO, WHEN_REQUEST,
};

use crate::{
    capture::{self, Occasion},
    config,
    kernel::{
        AF_UNIX, Address, current_is_target, current_tgid, current_tid, family, inode, netns,
        read_user, request_direction, user_regs,
    },
    maps::{HEADS, SCRATCH, SOCKS, count},
    sockets::{ESTABLISHED, entry, fold, insert, ticks},
    unix,
};

/// `MSG_PEEK`: looks without taking.
pub const MSG_PEEK: i32 = 2;
const SENT: u8 = 1;
const RECEIVED: u8 = 2;

/// `bytes` (> 0) were sent or received on `sk` by the current task.
#[inline(always)]
pub fn transferred(sk: Address, bytes: i32, sent: bool) {
    if bytes <= 0 {
        return;
    }
    let sock = match entry(sk) {
        Some(sock) => sock,
        None => {
            if !first_seen(sk) {
                return;
            }
            let Some(sock) = entry(sk) else { return };
            sock
        }
    };
    if sock.flags & SOCK_ACCEPT_UNOWNED != 0 && !take_over(sk, sock) {
        return;
    }
    let now = ticks(sock);
    let direction = if sent {
        sock.sent_ticks = now;
        SENT
    } else {
        sock.received_ticks = now;
        RECEIVED
    };
    let turn_begins = direction == request_direction(sock.role) && sock.last_direction != direction;
    sock.last_direction = direction;
    if turn_begins {
        // UNIX sockets may end unseen, and the kernel may use their memory again
        if sock.family == AF_UNIX as u8 && sock.inode != 0 && sock.inode != inode(sk) {
            count(Counter::Replaced);
            fold(sk, sock);
            let _ = SOCKS.remove(&sk);
            if !first_seen(sk) {
                return;
            }
        }
        let Some(sock) = entry(sk) else { return };
        turn(sk, sock, now, bytes);
    } else if sock.open_stack == STACK_NONE && sock.turns == 0 {
        sock.open_stack = capture::stack(Occasion {
            sk,
            opened_ns: sock.opened_ns,
            when: WHEN_FIRST_IO,
        });
        sock.open_stack_of = WHEN_FIRST_IO;
    }
}

/// A UNIX stream socket that a target process uses for the first time. (TCP sockets are known
/// from their state changes, or found by the descriptor scan.)
#[inline(always)]
fn first_seen(sk: Address) -> bool {
    if !current_is_target() || family(sk) != AF_UNIX || !unix::is_stream(sk) {
        return false;
    }
    let mut sock = Sock {
        // SAFETY: the helper has no preconditions.
        opened_ns: unsafe { bpf_ktime_get_ns() },
        tgid: current_tgid(),
        tid: current_tid(),
        inode: inode(sk),
        fd: -1,
        netns: netns(sk),
        family: AF_UNIX as u8,
        state: ESTABLISHED,
        flags: SOCK_CONNECTED,
        ..Sock::default()
    };
    unix::identify(&mut sock, sk);
    insert(sk, &sock);
    true
}

/// The current process is the first to use an accepted socket, so it is the owner.
#[inline(always)]
fn take_over(sk: Address, sock: &mut Sock) -> bool {
    if current_is_target() {
        sock.tgid = current_tgid();
        sock.tid = current_tid();
        sock.flags &= !SOCK_ACCEPT_UNOWNED;
        return true;
    }
    // another process accepts on the same port: not ours to record
    fold(sk, sock);
    let _ = SOCKS.remove(&sk);
    false
}

/// A request begins.
#[inline(always)]
fn turn(sk: Address, sock: &mut Sock, now: u32, bytes: i32) {
    sock.turns += 1;
    sock.turn_ticks = now;
    sock.request_stack = capture::stack(Occasion {
        sk,
        opened_ns: sock.opened_ns,
        when: WHEN_REQUEST,
    });
    if sock.open_stack == STACK_NONE {
        sock.open_stack = sock.request_stack;
        sock.open_stack_of = WHEN_FIRST_IO;
    }
    if config!(want_heads) != 0 {
        keep_head(sk, sock, bytes as u32);
    }
}

/// Address of the user buffer of the current send or receive call, 0 when there is none that can
/// be found (io_uring, sendfile, splice). System call numbers of x86-64.
#[inline(always)]
fn user_buffer() -> u64 {
    let Some(regs) = user_regs() else { return 0 };
    match regs.orig_ax {
        // read, write, sendto, recvfrom: the buffer
        0 | 1 | 44 | 45 => regs.si,
        // readv, writev: struct iovec { base, len }
        19 | 20 => read_user(regs.si),
        // sendmsg, recvmsg, sendmmsg, recvmmsg: struct user_msghdr, msg_iov at 16
        46 | 47 | 299 | 307 => read_user(read_user(regs.si + 16)),
        _ => 0,
    }
}

/// First four bytes of the methods of RFC 9110, and of the HTTP/2 preface (`PRI `).
#[inline(always)]
fn looks_like_http(word: u32) -> bool {
    const METHODS: [u32; 10] = [
        u32::from_le_bytes(*b"GET "),
        u32::from_le_bytes(*b"POST"),
        u32::from_le_bytes(*b"PUT "),
        u32::from_le_bytes(*b"HEAD"),
        u32::from_le_bytes(*b"DELE"),
        u32::from_le_bytes(*b"PATC"),
        u32::from_le_bytes(*b"OPTI"),
        u32::from_le_bytes(*b"CONN"),
        u32::from_le_bytes(*b"TRAC"),
        u32::from_le_bytes(*b"PRI "),
    ];
    METHODS.contains(&word)
}

/// Keeps the first bytes of an HTTP/1 request; other protocols' bytes are never copied.
#[inline(always)]
fn keep_head(sk: Address, sock: &mut Sock, bytes: u32) {
    let buffer = user_buffer();
    if buffer == 0 || !looks_like_http(read_user::<u32>(buffer)) {
        return;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return;
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
            len & 0xff,
            buffer as *const c_void,
        )
    };
    if failed != 0 {
        return;
    }
    head.len = len;
    head.opened_ns = sock.opened_ns;
    head.turn = sock.turns;
    let latest = u64::from(sock.heads & 1 != 0);
    if HEADS.insert(&HeadKey { sk, latest }, head, 0).is_err() {
        count(Counter::HeadMapFull);
    } else {
        sock.heads |= 1 << latest;
    }
}
