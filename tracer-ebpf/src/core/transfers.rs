//! Sends and receives: activity, turns, and the owner of accepted sockets.

use tracer_ebpf::{
    Counter, DIRECTION_RECEIVED, DIRECTION_SENT, HEADS_ASKED, HEADS_FIRST, HEADS_HTTP2,
    HEADS_PLAINTEXT, HEADS_TLS, RESPONSE_UPGRADED, ROLE_SERVER, SOCK_ACCEPT_UNOWNED,
    SOCK_CONNECTED, STACK_GO, STACK_NONE, STACK_TICKET, Sock, WHEN_FIRST_IO, WHEN_REQUEST,
};

use super::{
    answers,
    capture::stack_of_transfer,
    ends::fold_socket,
    greetings,
    heads::{HEADS_BITS, PROXIED, keep_head, late_hello},
    hello::received_hello,
    http2::{miss_frames, take_frames},
    kernel::{AF_UNIX, Address, Object, family, inode},
    maps::{LANE_SENT, count},
    notes::note,
    packed::{pack, unpack},
    pieces::{IN_PIECES, keep_joined},
    plaintext::claim_plaintext,
    responses::{
        concerns, is_interim, is_read, lose_track, pass_body, read_response, response_state,
        set_response_state,
    },
    sockets::{ESTABLISHED, coarse_ticks, entry, insert, insert_again, opened_now},
    task::{active, current_is_target, current_tgid},
    unix,
};
use crate::config;

/// `MSG_PEEK`: looks without taking.
pub const MSG_PEEK: i32 = 2;
/// Of `want_stacks`: those of each request, too.
const STACKS_OF_REQUESTS: u32 = 2;

/// What happens to some bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// They were sent.
    Sent,
    /// They were received, and lie at the beginning of the call's buffer.
    Received,
    /// They are being received: elsewhere in the buffer, or not there yet.
    Receiving,
}

/// `bytes` (> 0) were sent or received on `sk` by the current task.
#[inline(always)]
pub fn transferred(object: impl Object, bytes: i32, transfer: Transfer) {
    if bytes <= 0 || !active() {
        return;
    }
    let sent = matches!(transfer, Transfer::Sent);
    let direction = if sent {
        DIRECTION_SENT
    } else {
        DIRECTION_RECEIVED
    };
    let sk = object.address();
    let sock = match entry(sk) {
        Some(sock) if sock.family != AF_UNIX as u8 || is_stale(sk, sock.inode) == 0 => sock,
        // every transfer of every process that is not watched comes by here: only UNIX sockets of
        // those that are can be new
        None if family(object) != AF_UNIX || is_watched() == 0 => {
            if matches!(transfer, Transfer::Received) && answers::comes_by(object) {
                answers::pass_on_answer(bytes as u32, 0);
            }
            return;
        }
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
        if sock.heads & HEADS_TLS != 0 && claim_plaintext(sk, bytes as u32) != 0 {
            sock.set_last_direction(direction);
            return;
        }
    } else {
        sock.received_ticks = now;
        if concerns(sock) {
            take_response(sock, bytes as u32, transfer);
        } else if greetings::may_be_database(sock) {
            sock.response_status = match transfer {
                Transfer::Received => greetings::transaction(bytes as u32) as u16,
                _ => 0,
            };
        }
        if matches!(transfer, Transfer::Received) && sock.remote_port == answers::PORT {
            answers::pass_on_answer(bytes as u32, 1);
        }
        if matches!(transfer, Transfer::Received) && greetings::is_first(sock) {
            greetings::pass_on(sk, bytes as u32, 0);
        }
        if speaks_http2(sock) {
            let place = pack(lane(sock, false), bytes as u32);
            let lost = match transfer {
                Transfer::Received => take_frames(sk, place, STACK_NONE),
                _ => miss_frames(sk),
            };
            forget_http2(sock, lost);
        }
    }
    let turn_begins = direction == request_direction(sock.role)
        && sock.last_direction() != direction
        && !is_interim(sock)
        && sock.heads & HEADS_PLAINTEXT == 0;
    // What a server receives is often read by an event loop; the handler shows when it answers.
    let answers = sent && sock.role == ROLE_SERVER && sock.last_direction() == DIRECTION_RECEIVED;
    sock.set_last_direction(direction);
    if !turn_begins && !answers && sock.open_stack != STACK_NONE {
        if sent && speaks_http2(sock) {
            let lost = take_frames(sk, pack(lane(sock, sent), bytes as u32), STACK_NONE);
            forget_http2(sock, lost);
        } else if sent && sock.head_hash == IN_PIECES {
            let place = pack(lane(sock, sent), bytes as u32);
            let kept = pack(u32::from(sock.heads), IN_PIECES);
            let (heads, hash) = unpack(keep_joined(sk, place, kept));
            sock.heads = heads as u8;
            sock.head_hash = hash;
            sock.response |= (heads >> HEADS_BITS) as u8;
        } else if sent && greetings::is_awaited(sock) {
            let place = pack(lane(sock, sent), bytes as u32);
            let kept = pack(u32::from(sock.heads), sock.head_hash);
            // a proxy sends what it passes on behind who it is from
            let kept = if sock.head_hash == PROXIED {
                keep_head(sk, place, pack(u32::from(sock.heads), 0))
            } else {
                late_hello(sk, place, kept)
            };
            let (heads, hash) = unpack(kept);
            sock.heads = heads as u8;
            sock.head_hash = hash;
            sock.response |= (heads >> HEADS_BITS) as u8;
        } else if sock.turns == 1
            && sock.heads & (HEADS_TLS | HEADS_FIRST) == HEADS_TLS
            && matches!(transfer, Transfer::Received)
            && sock.role == ROLE_SERVER
            && received_hello(sk, pack(lane(sock, sent), bytes as u32)) != 0
        {
            sock.heads |= HEADS_FIRST;
        }
        return;
    }
    let when = if turn_begins || answers {
        WHEN_REQUEST
    } else {
        WHEN_FIRST_IO
    };
    // A Go program's transport sends on another goroutine, and an event loop when it may; who asked
    // for it is known already. What is sent after an upgrade is no request: pings are a timer's.
    let stack = if sock.request_stack & (STACK_GO | STACK_TICKET) == STACK_GO
        || sock.heads & HEADS_ASKED != 0
        || (sock.response & RESPONSE_UPGRADED != 0 && sock.request_stack != STACK_NONE)
        || (sock.open_stack != STACK_NONE && config!(want_stacks) < STACKS_OF_REQUESTS)
        || config!(want_stacks) == 0
    {
        sock.request_stack
    } else {
        stack_of_transfer(sk, when, lane(sock, sent))
    };
    sock.heads &= !HEADS_ASKED;
    if sock.open_stack == STACK_NONE {
        sock.open_stack = stack;
        sock.set_open_stack_of(WHEN_FIRST_IO);
    }
    if turn_begins || answers {
        sock.request_stack = stack;
    }
    if turn_begins {
        sock.turns += 1;
        sock.turn_ticks = now;
        if config!(want_heads) != 0 {
            let place = pack(lane(sock, sent), bytes as u32);
            let kept = pack(u32::from(sock.heads), sock.head_hash);
            let mut kept = keep_head(sk, place, kept);
            if kept as u32 == IN_PIECES {
                kept = keep_joined(sk, pack(lane(sock, sent), 0), kept);
            }
            let (heads, hash) = unpack(kept);
            sock.heads = heads as u8;
            sock.head_hash = hash;
            if sent && sock.response & RESPONSE_UPGRADED == 0 {
                sock.response = (heads >> HEADS_BITS) as u8;
                sock.response_status = 0;
                sock.netns_or_left = 0;
            }
            if sent && speaks_http2(sock) {
                forget_http2(sock, take_frames(sk, place, stack));
            }
            if sent && greetings::is_awaited(sock) && hash != IN_PIECES {
                greetings::pass_on(sk, bytes as u32, 1);
            }
        }
    }
}

/// Takes in what was received of a response.
#[inline(always)]
fn take_response(sock: &mut Sock, bytes: u32, transfer: Transfer) {
    if !is_read(sock) {
        pass_body(sock, bytes);
    } else if matches!(transfer, Transfer::Received) {
        let state = read_response(lane(sock, false), bytes, response_state(sock));
        set_response_state(sock, state);
    } else {
        lose_track(sock);
    }
}

/// Whether the frames of a connection are followed.
#[inline(always)]
fn speaks_http2(sock: &Sock) -> bool {
    sock.heads & HEADS_HTTP2 != 0 && sock.role != ROLE_SERVER
}

/// Follows it no further, where `lost`.
#[inline(always)]
fn forget_http2(sock: &mut Sock, lost: u32) {
    if lost != 0 {
        sock.heads &= !HEADS_HTTP2;
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

/// Whether the current process is. A global function, see [`is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_watched() -> u32 {
    u32::from(current_is_target())
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
        note!(
            "process {} took a socket, and is not watched",
            current_tgid()
        );
        fold_socket(sk);
        return 0;
    }
    let Some(sock) = entry(sk) else { return 0 };
    sock.tgid = current_tgid();
    sock.flags &= !SOCK_ACCEPT_UNOWNED;
    1
}

/// Direction in which requests travel, seen from a role.
#[inline(always)]
fn request_direction(role: u8) -> u8 {
    if role == ROLE_SERVER {
        DIRECTION_RECEIVED
    } else {
        DIRECTION_SENT
    }
}
