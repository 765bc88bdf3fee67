//! The kernel's records of sockets as the other rooms see them.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tracer_ebpf::{
    AWAITED, AWAITED_BY_NOBODY, DIRECTION_SENT, ListenValue, PathValue, ROLE_PAIR, ROLE_SERVER,
    SOCK_CONNECTED, SOCK_PEER_CLOSED, SOCK_PREEXISTING, SOCK_RESET, SOCK_SHUTDOWN, Sock,
    WHEN_ACCEPT, WHEN_CONNECT,
};

use super::responses;
use crate::{
    kernel::probes::Probes,
    model::{Connection, Family, Holder, PoolState, Role, StackOf},
};

/// Sockets younger than this are left to the kernel: most of them end before they matter.
pub const YOUNG_NS: u64 = 1_000_000_000;

/// The role as the model has it; whose end is unknown counts as a client's.
pub fn role(sock: &Sock) -> Role {
    if sock.role == ROLE_SERVER {
        Role::Server
    } else {
        Role::Client
    }
}

/// The moment of the opener's stack.
pub fn moment(when: u8) -> StackOf {
    match when {
        WHEN_CONNECT => StackOf::Connect,
        WHEN_ACCEPT => StackOf::Accept,
        _ => StackOf::FirstIo,
    }
}

/// Family of a kernel record.
pub fn family(sock: &Sock) -> Family {
    match i32::from(sock.family) {
        libc::AF_UNIX => Family::Unix,
        libc::AF_INET6 => Family::Tcp6,
        _ => Family::Tcp4,
    }
}

/// `address:port` of the kernel's words.
pub fn socket_address(family: Family, words: [u32; 4], port: u16) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    match family {
        Family::Tcp6 => {
            let mut octets = [0u8; 16];
            octets.copy_from_slice(&bytes);
            let address = Ipv6Addr::from(octets);
            match address.to_ipv4_mapped() {
                Some(mapped) => SocketAddr::from((mapped, port)).to_string(),
                None => SocketAddr::from((address, port)).to_string(),
            }
        }
        _ => SocketAddr::from((Ipv4Addr::from(words[0].to_ne_bytes()), port)).to_string(),
    }
}

/// A UNIX path as users write it: abstract names begin with `@`.
pub fn unix_path(path: &PathValue) -> String {
    let bytes = path.bytes.get(..path.len as usize).unwrap_or(&path.bytes);
    match bytes.split_first() {
        Some((0, name)) => format!("@{}", String::from_utf8_lossy(name)),
        _ => {
            let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        }
    }
}

/// The remote address of a client, the listening address of a server.
pub fn address(probes: &Probes, sock: &Sock, family: Family, role: Role) -> String {
    if family == Family::Unix {
        let hash = u64::from(sock.remote_addr[0]) | u64::from(sock.remote_addr[1]) << 32;
        return match probes.paths.get(&hash) {
            Ok(Some(path)) if hash != 0 => unix_path(&path),
            _ => "(unnamed)".to_owned(),
        };
    }
    match role {
        Role::Client => socket_address(family, sock.remote_addr, sock.remote_port),
        Role::Server => {
            let key = tracer_ebpf::ListenKey {
                netns: sock.netns(),
                port: u32::from(sock.local_port),
            };
            match probes.listeners.get(&key) {
                Ok(Some(listener)) => listener_address(&listener, sock.local_port),
                _ => socket_address(family, [0; 4], sock.local_port),
            }
        }
    }
}

fn listener_address(listener: &ListenValue, port: u16) -> String {
    let family = if listener.family == libc::AF_INET6.cast_unsigned() {
        Family::Tcp6
    } else {
        Family::Tcp4
    };
    socket_address(family, listener.addr, port)
}

/// Where a port is listened on, whatever the namespace; `*` where that is not known, or differs.
pub fn listening(probes: &Probes, port: u16) -> String {
    let mut addresses = BTreeSet::new();
    let read = probes.listeners.for_each(|key, listener| {
        if key.port == u32::from(port) {
            addresses.insert(listener_address(listener, port));
        }
    });
    match (read, addresses.pop_first()) {
        (Ok(_), Some(only)) if addresses.is_empty() => only,
        _ => format!("*:{port}"),
    }
}

/// Whether it is one end of a `socketpair`: a UNIX client has the path it connected to.
fn is_pair(sock: &Sock) -> bool {
    i32::from(sock.family) == libc::AF_UNIX
        && (sock.role == ROLE_PAIR || (sock.role != ROLE_SERVER && sock.remote_addr[..2] == [0, 0]))
}

/// A kernel record as the engine sees it.
pub fn connection(sk: u64, sock: &Sock, holder: Holder) -> Connection {
    Connection {
        sk,
        opened_ns: sock.opened_ns,
        sent_ns: sock.at_ns(sock.sent_ticks),
        received_ns: sock.at_ns(sock.received_ticks),
        turn_ns: sock.at_ns(sock.turn_ticks),
        peer_closed_ns: sock.at_ns(sock.peer_closed_ticks()),
        closed_ns: sock.at_ns(sock.closed_ticks()),
        turns: sock.turns,
        unread: sock.unread,
        fd: sock.fd(),
        holder,
        connected: sock.flags & SOCK_CONNECTED != 0,
        reset: sock.flags & SOCK_RESET != 0,
        shutdown: sock.flags & SOCK_SHUTDOWN != 0,
        preexisting: sock.flags & SOCK_PREEXISTING != 0,
        error: u16::from(sock.error),
        last_was_send: sock.last_direction() == DIRECTION_SENT,
        awaited: match sock.awaited() {
            AWAITED_BY_NOBODY => Some(false),
            AWAITED => Some(true),
            _ => None,
        },
        pair: is_pair(sock),
        pool: PoolState::Unknown,
        protocol: responses::protocol(sock),
        response: responses::response(sock),
        in_transaction: false,
    }
}

/// The state as the kernel names it (without `TCP_`); UNIX: `connected` or `peer_closed`.
pub fn state_name(sock: &Sock, family: Family) -> &'static str {
    if family == Family::Unix {
        return if sock.flags & SOCK_PEER_CLOSED != 0 {
            "peer_closed"
        } else {
            "connected"
        };
    }
    // include/net/tcp_states.h
    match sock.state {
        1 => "ESTABLISHED",
        2 => "SYN_SENT",
        3 => "SYN_RECV",
        4 => "FIN_WAIT1",
        5 => "FIN_WAIT2",
        6 => "TIME_WAIT",
        7 => "CLOSE",
        8 => "CLOSE_WAIT",
        9 => "LAST_ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        _ => "UNKNOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_users_write_them() {
        let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
        assert_eq!(
            socket_address(Family::Tcp4, [loopback, 0, 0, 0], 80),
            "127.0.0.1:80"
        );
        let one = u32::from_ne_bytes([0, 0, 0, 1]);
        assert_eq!(
            socket_address(Family::Tcp6, [0, 0, 0, one], 8080),
            "[::1]:8080"
        );
        let mapped = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
        assert_eq!(
            socket_address(Family::Tcp6, [0, 0, mapped, loopback], 80),
            "127.0.0.1:80"
        );
    }

    #[test]
    fn abstract_unix_names_begin_with_an_at_sign() {
        let mut bytes = [0; tracer_ebpf::PATH_BYTES];
        bytes[1..4].copy_from_slice(b"abc");
        assert_eq!(unix_path(&PathValue { len: 4, bytes }), "@abc");
        bytes[..6].copy_from_slice(b"/a/b\0x");
        assert_eq!(unix_path(&PathValue { len: 6, bytes }), "/a/b");
    }
}
