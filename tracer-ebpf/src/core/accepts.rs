//! Openings that are seen in the owner's own context.

use tracer_ebpf::{
    ROLE_SERVER, SOCK_ACCEPT_UNOWNED, SOCK_CONNECTED, STACK_NONE, WHEN_ACCEPT, WHEN_CONNECT,
};

use super::{
    capture::capture_stack,
    kernel::{AF_UNIX, Address, Object, family},
    maps::{LANE_ACCEPT, LANE_UNIX, READABLE},
    mptcp,
    sockets::{
        ESTABLISHED, LISTEN, SYS_CONNECT, entry, insert, insert_again, listener_is_known,
        opened_now, read_addresses,
    },
    syscalls::socket,
    task::{active, current_is_target, current_syscall, current_tgid, first_argument},
    transfers,
};
use crate::offset;

/// `accept` gives `sk` to the current process; 0 where it failed.
#[inline(always)]
pub fn accepted(sk: Address) -> u32 {
    if sk == 0 || !active() || !current_is_target() {
        return 0;
    }
    let (subflow, sk) = (sk, mptcp::connection_of(sk));
    if entry(sk).is_none() {
        // the listener is not one we know, the process is; or there was no room for it before
        let mut sock = opened_now();
        sock.role = ROLE_SERVER;
        sock.state = ESTABLISHED;
        sock.flags = SOCK_CONNECTED;
        read_addresses(&mut sock, subflow);
        if listener_is_known(subflow) {
            insert_again(sk, &sock);
        } else {
            insert(sk, &sock);
        }
    }
    let Some(sock) = entry(sk) else { return 0 };
    sock.tgid = current_tgid();
    sock.flags &= !SOCK_ACCEPT_UNOWNED;
    sock.open_stack = capture_stack(sk, sock.opened_ns, u32::from(WHEN_ACCEPT), LANE_ACCEPT);
    sock.set_open_stack_of(WHEN_ACCEPT);
    0
}

/// A UNIX socket was connected or accepted by the current process.
#[inline(always)]
pub fn unix_opened(sk: Address, result: i32) -> u32 {
    if result < 0 {
        return 0;
    }
    unix_opened_for(sk, STACK_NONE)
}

/// A socket became readable: a UNIX listener, where the current process has connected to it. The
/// connection stands in the listener's queue then, and its own end is what the call is about.
#[inline(always)]
pub fn unix_queued(listener: impl Object) -> u32 {
    if let Some(runs) = READABLE.get_ptr_mut(0) {
        // SAFETY: this CPU's slot; one that an interrupt adds at the same time may be lost.
        unsafe { *runs += 1 };
    }
    if family(listener) != AF_UNIX || listener.get::<u8>(offset!(skc_state)) != LISTEN {
        return 0;
    }
    unix_connecting()
}

/// The current call, if it is a `connect`, opens a UNIX connection. A global function, so that what it
/// needs takes no room on the stack of all the runs that end before.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn unix_connecting() -> u32 {
    if current_syscall() != SYS_CONNECT {
        return 0;
    }
    unix_opened_for(socket(first_argument() as i32), STACK_NONE)
}

/// The same, for whoever has this stack; [`STACK_NONE`]: for the current function.
#[inline(always)]
pub fn unix_opened_for(sk: Address, stack: u32) -> u32 {
    let is_known = || entry(sk).is_some_and(|known| transfers::is_stale(sk, known.inode) == 0);
    if sk == 0 || !active() || is_known() || !transfers::first_seen(sk, true) {
        return 0;
    }
    let Some(sock) = entry(sk) else { return 0 };
    let (when, lane) = if sock.role == ROLE_SERVER {
        (WHEN_ACCEPT, LANE_UNIX + 1)
    } else {
        (WHEN_CONNECT, LANE_UNIX)
    };
    if sock.open_stack == STACK_NONE {
        sock.open_stack = match stack {
            STACK_NONE => capture_stack(sk, sock.opened_ns, u32::from(when), lane),
            asked => asked,
        };
        sock.set_open_stack_of(when);
    }
    0
}
