//! What sockets have in common, from the kernel's numbers to the population they are in.
//!
//! A population is known by four keys, each made of the one before:
//! - [`Facts`]: what the kernel's record of a socket says of it, as numbers;
//! - [`tracer_ebpf::AggKey`] ([`Facts::aggregate`]): the part of them that the kernel itself groups
//!   ended connections by;
//! - [`crate::findings::Identity`] with the process ([`super::cohorts`]): the same with names, at
//!   each of its levels ([`crate::engine::Level`]: call site and authority; call site; authority;
//!   process);
//! - [`crate::findings::Identity::id`]: the identity with the program in place of the process, which
//!   is the id of the finding.

use serde::{Deserialize, Serialize};
use tracer_ebpf::{AggKey, RESPONSE_UPGRADED, ROLE_SERVER, STACK_NONE, STACK_TICKET, Sock};

use super::records::socket_address;
use crate::model::Family;

/// What sockets of one cohort have in common, as far as the kernel's numbers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Facts {
    addr: [u32; 4],
    started_ticks: u64,
    tgid: u32,
    /// The process that holds the socket where the opening one has ended; else 0. Many short-lived
    /// processes may open what one keeps: together they are its leak.
    pub heir: u32,
    /// The opener's stack.
    pub open_stack: u32,
    /// The stack of the latest request.
    pub request_stack: u32,
    /// Number of its latest request.
    pub request: Option<u32>,
    netns: u32,
    /// Number of cohorts when the choice was made, where it may be made better later; else 0.
    pub attempt: u32,
    /// A Go client's connection whose requester was not seen.
    #[serde(default)]
    pub earlier: bool,
    /// A client's connection with a request behind it that came after others. What follows an
    /// upgrade is no request.
    #[serde(default)]
    pub reused: bool,
    /// Whoever asked asked again, and left the first answer open.
    #[serde(default)]
    pub again: bool,
    port: u16,
    family: u8,
    role: u8,
    /// Which stacks are tickets: they are folded under other keys.
    ticketed: u8,
}

/// What is not in the kernel's record of a socket.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known {
    /// When the opening process started, clock ticks; 0 where it had ended before anybody looked.
    pub started_ticks: u64,
    /// As [`Facts::heir`].
    pub heir: u32,
    /// The stacks behind what the kernel noted: the opener's and the request's.
    pub stacks: (u32, u32),
    /// Number of the latest request.
    pub request: Option<u32>,
}

/// Whether a client's connection carried more than one request.
pub fn asked_again(sock: &Sock) -> bool {
    sock.role != ROLE_SERVER && sock.turns > 1 && sock.response & RESPONSE_UPGRADED == 0
}

impl Facts {
    /// Those of a socket.
    pub fn of(sock: &Sock, known: Known) -> Facts {
        let server = sock.role == ROLE_SERVER;
        Facts {
            addr: if server { [0; 4] } else { sock.remote_addr },
            started_ticks: known.started_ticks,
            tgid: sock.tgid,
            heir: known.heir,
            open_stack: known.stacks.0,
            request_stack: known.stacks.1,
            request: known.request,
            netns: sock.netns(),
            attempt: 0,
            earlier: false,
            reused: asked_again(sock) && known.stacks.1 != STACK_NONE && known.request.is_some(),
            again: false,
            port: if server {
                sock.local_port
            } else {
                sock.remote_port
            },
            family: sock.family,
            role: sock.role,
            ticketed: u8::from(sock.open_stack & STACK_TICKET != 0)
                | u8::from(sock.request_stack & STACK_TICKET != 0) << 1,
        }
    }

    /// The aggregate that the kernel folds such a socket into at its end.
    pub fn aggregate(&self) -> AggKey {
        let noted = |stack, ticket| match self.ticketed & ticket {
            0 => stack,
            _ => STACK_NONE,
        };
        AggKey {
            addr: self.addr,
            tgid: self.tgid,
            open_stack: noted(self.open_stack, 1),
            request_stack: noted(self.request_stack, 2),
            port: self.port,
            family: self.family,
            role: self.role,
        }
    }

    /// The opening process.
    pub fn tgid(&self) -> u32 {
        self.tgid
    }

    /// Its stacks, that of the latest request first.
    pub fn stacks(&self) -> [u32; 2] {
        [self.request_stack, self.open_stack]
    }

    /// Where a client of TCP is connected to.
    pub fn address(&self) -> Option<String> {
        let family = match i32::from(self.family) {
            libc::AF_INET => Family::Tcp4,
            libc::AF_INET6 => Family::Tcp6,
            _ => return None,
        };
        (self.role != ROLE_SERVER).then(|| socket_address(family, self.addr, self.port))
    }

    /// Whether it has a stack, whose number tells its program apart from any other.
    pub fn has_stack(&self) -> bool {
        self.open_stack != STACK_NONE || self.request_stack != STACK_NONE
    }
}

#[cfg(test)]
mod tests {
    use tracer_ebpf::ROLE_CLIENT;

    use super::*;

    fn sock(role: u8) -> Sock {
        Sock {
            tgid: 7,
            role,
            family: libc::AF_INET as u8,
            remote_addr: [u32::from_ne_bytes([127, 0, 0, 1]), 0, 0, 0],
            remote_port: 80,
            local_port: 4_000,
            netns_or_left: 9,
            open_stack: 5,
            request_stack: STACK_TICKET | 6,
            ..Sock::default()
        }
    }

    #[test]
    fn a_client_is_known_by_where_it_goes_and_a_server_by_where_it_listens() {
        let known = Known {
            stacks: (5, 8),
            ..Known::default()
        };
        let client = Facts::of(&sock(ROLE_CLIENT), known);
        assert_eq!(client.address().as_deref(), Some("127.0.0.1:80"));
        let key = client.aggregate();
        assert_eq!((key.tgid, key.port, key.addr), (7, 80, client.addr));
        // its copy was on its way when the kernel noted it, which knows no number for it
        assert_eq!((key.open_stack, key.request_stack), (5, STACK_NONE));
        let server = Facts::of(&sock(ROLE_SERVER), known);
        assert_eq!(server.address(), None);
        assert_eq!(
            (server.aggregate().port, server.aggregate().addr),
            (4_000, [0; 4])
        );
    }
}
