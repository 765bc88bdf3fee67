//! The life of a socket: opened, accepted, its states, its end.

use tracer_ebpf::{
    Counter, ErrorKey, FILTER_HOST, ListenKey, ListenValue, ROLE_CLIENT, ROLE_SERVER,
    SOCK_ACCEPT_UNOWNED, SOCK_CLOSED, SOCK_CONNECTED, SOCK_PEER_CLOSED, SOCK_RESET, SOCK_SHUTDOWN,
    STACK_NONE, Sock, TICK_SHIFT, WHEN_CONNECT,
};

use super::{
    asked::asked_for,
    capture::capture_stack,
    ends::fold_socket,
    helpers::{jiffies, now_ns},
    kernel::{
        AF_INET, AF_INET6, Address, IPPROTO_TCP, Object, family, is_of_user, netns, protocol,
    },
    maps::{
        CLOCK, ERRORS, LANE_OPEN, LANE_SOFTIRQ, LISTENERS, LISTENING, SCRATCH, SOCKS, atomic_add,
        count,
    },
    mptcp,
    task::{active, current_is_target, current_syscall, current_tgid},
};
use crate::{config, offset};

// TCP states, include/net/tcp_states.h
/// Connected.
pub const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const SYN_RECV: u8 = 3;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
/// Not connected.
pub const CLOSE: u8 = 7;
/// The peer closed, we did not.
pub const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
/// Accepts connections.
pub const LISTEN: u8 = 10;
const CLOSING: u8 = 11;

/// Number of the system call `connect`.
pub const SYS_CONNECT: u64 = 42;
const SYS_SHUTDOWN: u64 = 48;
const SHUTDOWN_BOTH: u8 = 3;
const EADDRNOTAVAIL: u16 = 99;

/// Now, in ticks since the socket was opened.
#[inline(always)]
pub fn ticks(sock: &Sock) -> u32 {
    let age = now_ns().wrapping_sub(sock.opened_ns);
    (age >> TICK_SHIFT) as u32 + 1
}

/// The same by a clock that is read once in each of the kernel's ticks (a few milliseconds), and
/// costs less.
#[inline(always)]
pub fn coarse_ticks(sock: &Sock) -> u32 {
    let Some(clock) = CLOCK.get_ptr_mut(0) else {
        return ticks(sock);
    };
    // SAFETY: this CPU's slot. An interrupt may write it in between; the time is right then, too.
    let clock = unsafe { &mut *clock };
    let jiffies = jiffies();
    if clock.jiffies != jiffies {
        clock.now_ns = now_ns();
        clock.jiffies = jiffies;
    }
    // it may have been read before the opening
    let age = clock.now_ns.saturating_sub(sock.opened_ns);
    (age >> TICK_SHIFT) as u32 + 1
}

/// The entry of a socket. Entries are updated in place, without locks: transfers of one socket are
/// serialized by the socket lock, and a lost update costs a tick, not a connection.
#[inline(always)]
pub fn entry(sk: Address) -> Option<&'static mut Sock> {
    // SAFETY: map values stay valid while the program runs.
    SOCKS.get_ptr_mut(&sk).map(|sock| unsafe { &mut *sock })
}

/// The record of a socket that opens now, to be filled in.
#[inline(always)]
pub fn opened_now() -> Sock {
    Sock {
        opened_ns: now_ns(),
        ..Sock::default()
    }
}

/// The same in the lane's room, for programs that run so often that they should not need much
/// stack: beyond 64 bytes the kernel gives a program a stack of its own, away from the one in use
/// (kernel/bpf/verifier.c, 6.13), and the first touch of it costs a fifth of a run.
#[inline(always)]
fn opened_in(lane: u32) -> Option<&'static mut Sock> {
    let scratch = SCRATCH.get_ptr_mut(lane)?;
    // SAFETY: this program's room on this CPU.
    let sock = unsafe { &mut (*scratch).sock };
    *sock = opened_now();
    Some(sock)
}

/// Fills in addresses and ports of an inet socket, whose role is set, and a server's namespace.
#[inline(always)]
pub fn read_addresses(sock: &mut Sock, sk: impl Object) {
    sock.family = family(sk) as u8;
    if sock.role == ROLE_SERVER {
        sock.netns_or_left = netns(sk);
    }
    sock.local_port = sk.get(offset!(skc_num));
    sock.remote_port = u16::from_be(sk.get(offset!(skc_dport)));
    sock.remote_addr = if u16::from(sock.family) == AF_INET6 {
        words(sk, offset!(skc_v6_daddr))
    } else {
        [sk.get(offset!(skc_daddr)), 0, 0, 0]
    };
    let [first, second, third, fourth] = sock.remote_addr;
    if first | second == 0 && third == V4_MAPPED {
        // ::ffff:a.b.c.d, which is a.b.c.d
        sock.family = AF_INET as u8;
        sock.remote_addr = [fourth, 0, 0, 0];
    }
}

/// The third word of an IPv4 address that is written as one of IPv6.
const V4_MAPPED: u32 = 0xffff_u32.to_be();

/// An IPv6 address, in the sizes that a typed pointer can be read in.
#[inline(always)]
fn words(sk: impl Object, offset: usize) -> [u32; 4] {
    [
        sk.get(offset),
        sk.get(offset + 4),
        sk.get(offset + 8),
        sk.get(offset + 12),
    ]
}

/// `BPF_NOEXIST`: only if there is none yet.
pub const IF_NEW: u64 = 1;
/// Answer of [`IF_NEW`] when there is one.
const EEXIST: i32 = -17;
/// Answer of a full map.
const E2BIG: i32 = -7;

/// Stores a socket that came into view by an event that each socket has once; one that finds no
/// room is counted as lost.
#[inline(always)]
pub fn insert(sk: Address, sock: &Sock) {
    match store(sk, sock) {
        0 | EEXIST => {}
        error => {
            count(Counter::Seen);
            count(if error == E2BIG {
                Counter::SocketMapFull
            } else {
                Counter::SocketMapBusy
            });
        }
    }
}

/// Stores a socket by something that will happen again (a transfer, a scan): finding no room is
/// not a loss by itself. `false` when it was not stored.
#[inline(always)]
pub fn insert_again(sk: Address, sock: &Sock) -> bool {
    store(sk, sock) == 0
}

#[inline(always)]
fn store(sk: Address, sock: &Sock) -> i32 {
    let mut result = SOCKS.insert(&sk, sock, IF_NEW);
    if let Err(EEXIST) = result {
        count(Counter::Replaced);
        fold_socket(sk);
        result = SOCKS.insert(&sk, sock, IF_NEW);
    }
    match result {
        Ok(()) => {
            count(Counter::Seen);
            0
        }
        Err(error) => error,
    }
}

/// A TCP socket changes its state.
#[inline(always)]
pub fn state_changed(sk: impl Object, old: u8, new: u8) {
    if !active() {
        return;
    }
    match new {
        // nothing that a socket's record tells: spare the look-up
        SYN_RECV | FIN_WAIT2 | CLOSING => {}
        SYN_SENT => connecting(sk),
        ESTABLISHED if old == SYN_RECV => accepted(sk),
        LISTEN => {
            listening(sk.address());
        }
        CLOSE if old == LISTEN => {
            forget_listener(sk.address());
        }
        // closed by us before, which was seen then; its end comes next, but for a connection of MPTCP,
        // of which nothing more is told
        CLOSE if was_finished(old) && sk.follow(offset!(sk_socket)).address() == 0 => {
            if mptcp::is_connection(sk) {
                fold_socket(sk.address());
            }
        }
        _ => {
            if let Some(sock) = entry(sk.address()) {
                progressed(sk, sock, old, new);
            }
        }
    }
}

/// Whether we had sent a FIN in this state.
#[inline(always)]
fn was_finished(state: u8) -> bool {
    matches!(state, FIN_WAIT1 | FIN_WAIT2 | LAST_ACK | CLOSING)
}

#[inline(always)]
fn connecting(sk: impl Object) {
    if !current_is_target() || !mptcp::is_followed(protocol(sk)) || !is_of_user(sk) {
        return;
    }
    let Some(sock) = opened_in(LANE_OPEN) else {
        return;
    };
    sock.tgid = current_tgid();
    sock.role = ROLE_CLIENT;
    sock.state = SYN_SENT;
    sock.set_open_stack_of(WHEN_CONNECT);
    read_addresses(sock, sk);
    let sk = sk.address();
    sock.open_stack = match asked_for(sock.opened_ns) {
        STACK_NONE => capture_stack(sk, sock.opened_ns, u32::from(WHEN_CONNECT), LANE_OPEN),
        asked => asked,
    };
    insert(sk, sock);
}

/// Runs in softirq context, under any `current`: whether it is ours is known by the listening
/// port, and which process takes it only at its first transfer or the next descriptor scan.
#[inline(always)]
fn accepted(sk: impl Object) {
    // SAFETY: a map lookup; the value is copied at once.
    let listener = unsafe { LISTENERS.get(&listen_key(sk)) }.map_or(0, |l| l.tgid);
    if (listener == 0 && config!(filter) != FILTER_HOST) || protocol(sk) != IPPROTO_TCP {
        return;
    }
    let Some(sock) = opened_in(LANE_SOFTIRQ) else {
        return;
    };
    sock.tgid = listener;
    sock.role = ROLE_SERVER;
    sock.state = ESTABLISHED;
    sock.flags = SOCK_CONNECTED | SOCK_ACCEPT_UNOWNED;
    read_addresses(sock, sk);
    let connection = mptcp::connection_of(sk.address());
    if connection != sk.address() && entry(connection).is_some() {
        // one more subflow
        return;
    }
    insert(connection, sock);
}

/// Whether sockets accepted here are counted as soon as their handshake ends.
#[inline(always)]
pub fn listener_is_known(sk: Address) -> bool {
    config!(filter) == FILTER_HOST || LISTENERS.get_ptr(&listen_key(sk)).is_some()
}

/// Where it listens, or was accepted.
#[inline(always)]
pub fn listen_key(sk: impl Object) -> ListenKey {
    ListenKey {
        netns: netns(sk),
        port: u32::from(sk.get::<u16>(offset!(skc_num))),
    }
}

/// A global function, see [`crate::core::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn listening(sk: u64) -> u32 {
    if current_is_target() {
        remember_listener(sk, current_tgid());
    }
    0
}

/// Stores a listening socket of a target process.
#[inline(always)]
pub fn remember_listener(sk: Address, tgid: u32) {
    let family = family(sk);
    let key = listen_key(sk);
    if !is_inet(family) || !mptcp::is_followed(protocol(sk)) || key.port == 0 {
        return;
    }
    // an address that is used again was another's before, or the same one's
    // SAFETY: a map lookup; the value is copied at once.
    let before = unsafe { LISTENING.get(&sk) }.copied();
    if before == Some(key) && LISTENERS.get_ptr(&key).is_some() {
        return;
    }
    if before.is_some() {
        forget_listener(sk);
    }
    let addr = if family == AF_INET6 {
        words(sk, offset!(skc_v6_rcv_saddr))
    } else {
        [sk.get(offset!(skc_rcv_saddr)), 0, 0, 0]
    };
    if LISTENING.insert(&sk, &key, 0).is_err() {
        count(Counter::ListenerMapFull);
        return;
    }
    if let Some(known) = LISTENERS.get_ptr_mut(&key) {
        // SAFETY: a live map value.
        unsafe { atomic_add(&raw mut (*known).sockets, 1) };
        return;
    }
    let value = ListenValue {
        addr,
        tgid,
        family: u32::from(family),
        sockets: 1,
    };
    if LISTENERS.insert(&key, &value, 0).is_err() {
        let _ = LISTENING.remove(&sk);
        count(Counter::ListenerMapFull);
    }
}

/// A listening socket is gone; the port is, too, with the last one on it. A global function, see
/// [`crate::core::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn forget_listener(sk: u64) -> u32 {
    // SAFETY: a map lookup; the value is copied at once.
    let Some(key) = unsafe { LISTENING.get(&sk) }.copied() else {
        return 0;
    };
    if LISTENING.remove(&sk).is_err() {
        return 0;
    }
    let Some(known) = LISTENERS.get_ptr_mut(&key) else {
        return 0;
    };
    // SAFETY: a live map value. What two that close at once leave behind, the next of the port that
    // closes removes.
    unsafe {
        atomic_add(&raw mut (*known).sockets, u32::MAX);
        if (*known).sockets == 0 || (*known).sockets > u32::MAX / 2 {
            let _ = LISTENERS.remove(&key);
        }
    }
    0
}

/// Any other change of a socket that we know.
#[inline(always)]
fn progressed(sk: impl Object, sock: &mut Sock, old: u8, new: u8) {
    sock.state = new;
    match new {
        ESTABLISHED => {
            sock.flags |= SOCK_CONNECTED;
            sock.local_port = sk.get(offset!(skc_num));
            if sock.remote_port == 0 {
                // a connection of MPTCP has its addresses only now
                read_addresses_of_connection(sk.address());
            }
        }
        FIN_WAIT1 | LAST_ACK => finished_by_us(sk, sock),
        CLOSE_WAIT => {
            peer_closed(sock);
        }
        CLOSE => closed(sk, sock, old),
        _ => {}
    }
}

/// A global function, see [`crate::core::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_addresses_of_connection(sk: u64) -> u32 {
    if let Some(sock) = entry(sk) {
        read_addresses(sock, mptcp::addressed(sk));
    }
    0
}

/// `close`, the end of the process, or only `shutdown`? tcp_close marks both directions as shut
/// down before it changes the state (net/ipv4/tcp.c), and so does `shutdown(SHUT_RDWR)`.
#[inline(always)]
fn finished_by_us(sk: impl Object, sock: &mut Sock) {
    let both = sk.get::<u8>(offset!(sk_shutdown)) & SHUTDOWN_BOTH == SHUTDOWN_BOTH;
    if both && current_syscall() != SYS_SHUTDOWN {
        sock.flags |= SOCK_CLOSED;
        sock.ended_ticks = coarse_ticks(sock);
    } else {
        sock.flags |= SOCK_SHUTDOWN;
    }
}

/// The peer has closed its end now, and we have not.
#[inline(always)]
fn peer_closed(sock: &mut Sock) {
    sock.flags |= SOCK_PEER_CLOSED;
    if sock.flags & SOCK_CLOSED == 0 {
        sock.ended_ticks = coarse_ticks(sock);
    }
}

#[inline(always)]
fn closed(sk: impl Object, sock: &mut Sock, old: u8) {
    if sock.flags & SOCK_CLOSED != 0 {
        return;
    }
    // numbers of errors are below 134 (include/uapi/asm-generic/errno.h)
    let mut error = sk.get::<u32>(offset!(sk_err)) as u16;
    if old == SYN_SENT {
        if error == 0 && current_syscall() == SYS_CONNECT && !mptcp::is_connection(sk) {
            // the only failure after SYN_SENT that leaves no sk_err: no free local port
            error = EADDRNOTAVAIL;
        }
        sock.error = error as u8;
        if error != 0 {
            count_error(sock.tgid, u32::from(error));
        }
    } else if error != 0 {
        sock.error = error as u8;
        sock.flags |= SOCK_RESET;
        if sock.flags & SOCK_PEER_CLOSED == 0 {
            peer_closed(sock);
        }
    } else if was_finished(old) {
        // we shut down, then the peer closed, and the descriptor is still there
        peer_closed(sock);
    } else {
        finished_by_us(sk, sock);
    }
}

/// A global function, see [`crate::core::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn count_error(tgid: u32, error: u32) -> u32 {
    let key = ErrorKey { tgid, error };
    if let Some(number) = ERRORS.get_ptr_mut(&key) {
        // SAFETY: a live map value.
        unsafe { atomic_add(number, 1) };
    } else if ERRORS.insert(&key, &1, 0).is_err() {
        count(Counter::ErrorMapFull);
    }
    0
}

/// Whether a socket is one whose life is followed here.
#[inline(always)]
pub fn is_inet(family: u16) -> bool {
    family == AF_INET || family == AF_INET6
}
