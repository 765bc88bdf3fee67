//! The descriptor scan: an iterator over every file of every process, which tells who holds
//! which socket now, finds sockets older than the tracer, and reads what has no event.

use tracer_ebpf::{
    AWAITED, AWAITED_BY_NOBODY, AWAITED_UNKNOWN, Counter, FILTER_HOST, Offsets, ROLE_CLIENT,
    ROLE_SERVER, SCAN_NUMBER, SCAN_UNSTORED, SOCK_ACCEPT_UNOWNED, SOCK_CLOSED, SOCK_CONNECTED,
    SOCK_PEER_CLOSED, SOCK_PREEXISTING, Sock,
};

use super::{
    ends::fold_socket,
    kernel::{AF_UNIX, Address, family, protocol, read},
    maps::{LISTENERS, SCAN, TARGETS, count},
    mptcp,
    sockets::{
        CLOSE, CLOSE_WAIT, ESTABLISHED, LISTEN, entry, insert_again, is_inet, listen_key,
        opened_now, read_addresses, remember_listener, ticks,
    },
    unix,
};
use crate::{config, offset};

/// `S_IFMT`, `S_IFSOCK`: include/uapi/linux/stat.h
const FILE_TYPE: u16 = 0xf000;
const SOCKET: u16 = 0xc000;
/// `SOCKFS_MAGIC`: include/uapi/linux/magic.h
const SOCKFS: u64 = 0x534f_434b;
const MISSING: usize = Offsets::MISSING as usize;
/// States in which a FIN was received; it takes one sequence number that is not data.
const FIN_RECEIVED: u32 = 1 << CLOSE | 1 << CLOSE_WAIT | 1 << 9 | 1 << 11;

/// A descriptor `fd` of `task` refers to `file`.
#[inline(always)]
pub fn visit(task: Address, fd: u32, file: Address) {
    let file_inode: Address = read(file, offset!(file_inode));
    if read::<u16>(file_inode, offset!(inode_mode)) & FILE_TYPE != SOCKET
        || read::<u64>(read(file_inode, offset!(inode_sb)), offset!(sb_magic)) != SOCKFS
    {
        return;
    }
    let sk: Address = read(read(file, offset!(file_private_data)), offset!(socket_sk));
    if sk == 0 {
        return;
    }
    let tgid: u32 = read(task, offset!(task_tgid));
    let scan = SCAN.get(SCAN_NUMBER).copied().unwrap_or(0);
    let family = family(sk);
    let state: u8 = read(sk, offset!(skc_state));
    if is_inet(family) && state == LISTEN {
        if is_target(tgid) {
            remember_listener(sk, tgid);
        }
        return;
    }
    if scan == 0 {
        return;
    }
    let inode = read::<u64>(file_inode, offset!(inode_ino)) as u32;
    let sock = match entry(sk) {
        Some(sock) if sock.inode == 0 || sock.inode == inode => sock,
        stale => {
            if stale.is_some() {
                count(Counter::Replaced);
                fold_socket(sk);
            }
            if !is_target(tgid) || !found(sk, family, state, tgid) {
                return;
            }
            let Some(sock) = entry(sk) else { return };
            sock
        }
    };
    if sock.flags & SOCK_ACCEPT_UNOWNED != 0 {
        if !is_target(tgid) {
            return;
        }
        sock.tgid = tgid;
        sock.flags &= !SOCK_ACCEPT_UNOWNED;
    }
    sock.inode = inode;
    let mut shown = None;
    if sock.scan != scan as u16 || tgid == sock.tgid {
        sock.scan = scan as u16;
        sock.holder = tgid;
        shown = Some(fd);
    }
    sock.set_descriptor(shown, awaited(sk));
    observe(sk, sock, family, state);
}

/// Whether somebody is in the socket's wait queue: a thread that receives, or polls, or an epoll
/// instance that it was added to.
#[inline(always)]
fn awaited(sk: Address) -> u8 {
    if offset!(sk_wq) == MISSING || offset!(wq_waiters) == MISSING {
        return AWAITED_UNKNOWN;
    }
    let queue: Address = read(sk, offset!(sk_wq));
    let waiters = queue + offset!(wq_waiters) as u64;
    // a list that is empty points to itself: include/linux/list.h
    match read::<Address>(waiters, 0) {
        first if queue == 0 || first == 0 => AWAITED_UNKNOWN,
        first if first == waiters => AWAITED_BY_NOBODY,
        _ => AWAITED,
    }
}

/// Whether a process (not the current one) is to be watched. For cgroup targets user space keeps
/// `TARGETS` filled.
#[inline(always)]
fn is_target(tgid: u32) -> bool {
    if config!(filter) == FILTER_HOST {
        return tgid != config!(own_tgid);
    }
    // SAFETY: a map lookup; the value is not kept.
    unsafe { TARGETS.get(&tgid) }.is_some()
}

/// A connection that no event told of: older than the tracer, or never used since it was opened.
#[inline(always)]
fn found(sk: Address, family: u16, state: u8, tgid: u32) -> bool {
    if state == CLOSE {
        return false;
    }
    if family == AF_UNIX {
        if !unix::is_stream(sk) || state != ESTABLISHED {
            return false;
        }
    } else if !is_inet(family) || !mptcp::is_followed(protocol(sk)) {
        return false;
    }
    // how much older it is cannot be known: a socket's inode keeps no times of its own
    let mut sock = opened_now();
    sock.tgid = tgid;
    sock.state = state;
    sock.flags = SOCK_CONNECTED | SOCK_PREEXISTING;
    if family == AF_UNIX {
        sock.family = AF_UNIX as u8;
        unix::identify(&mut sock, sk);
    } else {
        let addressed = mptcp::addressed(sk);
        let key = listen_key(addressed);
        // SAFETY: a map lookup; the value is not kept.
        let accepted = unsafe { LISTENERS.get(&key) }.is_some();
        sock.role = if accepted { ROLE_SERVER } else { ROLE_CLIENT };
        read_addresses(&mut sock, addressed);
    }
    if !insert_again(sk, &sock) {
        if let Some(unstored) = SCAN.get_ptr_mut(SCAN_UNSTORED) {
            // SAFETY: a live map value, written by the one scan that runs at a time.
            unsafe { *unstored += 1 };
        }
        return false;
    }
    count(Counter::FoundByScan);
    true
}

/// Takes in what the socket itself knows.
#[inline(always)]
fn observe(sk: Address, sock: &mut Sock, family: u16, state: u8) {
    if family == AF_UNIX {
        sock.unread = read(sk, offset!(sk_receive_qlen));
        if read::<u8>(sk, offset!(sk_shutdown)) & 3 == 3 {
            peer_closed(sock);
        }
        return;
    }
    sock.state = state;
    if mptcp::is_connection(sk) {
        // it has no sequence numbers of TCP: pieces in its queue
        sock.unread = read(sk, offset!(sk_receive_qlen));
        if state == CLOSE_WAIT {
            peer_closed(sock);
        }
        return;
    }
    let received: u32 = read(sk, offset!(tcp_rcv_nxt));
    let copied: u32 = read(sk, offset!(tcp_copied_seq));
    let fin = u32::from(1u32.wrapping_shl(u32::from(state)) & FIN_RECEIVED != 0);
    let unread = received.wrapping_sub(copied);
    sock.unread = if unread >= fin && unread < 1 << 31 {
        unread - fin
    } else {
        0
    };
    if state == CLOSE_WAIT {
        peer_closed(sock);
    }
}

#[inline(always)]
fn peer_closed(sock: &mut Sock) {
    if sock.flags & SOCK_PEER_CLOSED == 0 {
        sock.flags |= SOCK_PEER_CLOSED;
        if sock.flags & SOCK_CLOSED == 0 {
            sock.ended_ticks = ticks(sock);
        }
    }
}
