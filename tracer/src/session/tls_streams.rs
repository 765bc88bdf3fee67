//! Connections of HTTP/2 inside TLS: which socket carries each.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use tracer_ebpf::{Http2, MATCHES_SURE, ROLE_SERVER, Sock, TlsHttp2, TlsKey};

use super::requests::{Requests, server_name};
use crate::{
    kernel::{
        maps::Table,
        probes::{ProbeError, Probes},
    },
    procs::clock::monotonic_ns,
};

/// A connection whose socket is not found in this time, nanoseconds, is not followed any more: its
/// memory may be another's. If it still sends requests, it is taken up again.
const UNPLACED_NS: u64 = 60_000_000_000;

/// Whether what stands for a socket in the maps of HTTP/2 is a number of a connection inside TLS: the
/// kernel's addresses have the highest bit.
pub fn is_of_tls(sk: u64) -> bool {
    sk >> 63 == 0
}

/// What carries a connection of HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// It is in the clear: what it is known by is its socket.
    Itself,
    /// This socket, and what is received is seen.
    Socket(u64),
    /// That is not known, or what is received is not seen.
    Unknown,
}

/// The connections inside TLS.
pub struct TlsConnections {
    table: Table<TlsKey, TlsHttp2>,
    /// When the table was read, monotonic nanoseconds.
    read_ns: u64,
    /// Those in the table then, by number, with their process.
    known: HashMap<u64, (u32, TlsHttp2)>,
    /// Latest requests that no socket has yet, by number of the connection.
    unplaced: HashMap<u64, u32>,
}

impl std::fmt::Debug for TlsConnections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsConnections")
            .field("known", &self.known.len())
            .finish_non_exhaustive()
    }
}

impl TlsConnections {
    /// Those of the programs that were loaded.
    ///
    /// # Errors
    /// When the map is not there.
    pub fn new(probes: &mut Probes) -> Result<TlsConnections, ProbeError> {
        Ok(TlsConnections {
            table: probes.table("TLS_HTTP2")?,
            read_ns: 0,
            known: HashMap::new(),
            unplaced: HashMap::new(),
        })
    }

    /// Reads them anew. Those whose socket has ended are dropped.
    ///
    /// # Errors
    /// The kernel's, when a map can't be read.
    pub fn refresh(&mut self, socks: &Table<u64, Sock>) -> io::Result<()> {
        self.known.clear();
        self.read_ns = monotonic_ns();
        let (mut all, now_ns) = (Vec::new(), self.read_ns);
        self.table.for_each(|key, of| all.push((*key, *of)))?;
        for (key, of) in all {
            let lives = match of.sk {
                0 => now_ns.saturating_sub(of.number) < UNPLACED_NS,
                sk => socks
                    .get(&sk)?
                    .is_some_and(|sock| sock.opened_ns == of.opened_ns && sock.role != ROLE_SERVER),
            };
            if lives {
                self.known.insert(of.number, (key.tgid, of));
            } else {
                self.table.remove(&key)?;
            }
        }
        let known = &self.known;
        self.unplaced.retain(|number, _| known.contains_key(number));
        Ok(())
    }

    /// Sets the latest request of a connection.
    pub fn set_request(&mut self, number: u64, request: u32) {
        self.unplaced.insert(number, request);
    }

    /// Hands the latest requests on to the sockets that are known.
    ///
    /// A client that asks once may write all of it in one record, so only one can match. That is enough
    /// where no other connection of the process could have sent it, and the socket's handshake named the
    /// server that the request names.
    pub fn hand_on(&mut self, requests: &mut Requests) {
        let known = &self.known;
        self.unplaced.retain(|number, request| {
            let Some((tgid, of)) = known.get(number) else {
                return true;
            };
            let sure = of.matches >= MATCHES_SURE
                || (of.matches > 0
                    && of.pending == 0
                    && is_alone(known, *tgid, of)
                    && agrees(requests, of, *request));
            if sure {
                requests.latest.set_request(of.sk, of.opened_ns, *request);
            }
            !sure
        });
    }

    /// What carries the connection that is known by `sk` in the maps of HTTP/2.
    pub fn carrier(&self, sk: u64) -> Carrier {
        if !is_of_tls(sk) {
            return Carrier::Itself;
        }
        let of = self.known.get(&sk).map(|(_, of)| of);
        match of.filter(|of| of.matches >= MATCHES_SURE && of.reads != 0) {
            Some(of) => Carrier::Socket(of.sk),
            None => Carrier::Unknown,
        }
    }

    /// Removes the connections inside TLS that ended from those that are followed, `table`, of which
    /// `read` was read.
    ///
    /// # Errors
    /// The kernel's, when the map can't be changed.
    pub fn forget_others(
        &self,
        read: &mut HashMap<u64, Http2>,
        table: &Table<u64, Http2>,
    ) -> io::Result<()> {
        let mut ended = HashSet::new();
        read.retain(|sk, _| {
            // one that began since the table was read is not known yet
            let stays = !is_of_tls(*sk) || self.known.contains_key(sk) || *sk >= self.read_ns;
            if !stays {
                ended.insert(*sk);
            }
            stays
        });
        for number in ended {
            table.remove(&number)?;
        }
        Ok(())
    }
}

/// Whether all other connections of the process are known to be carried by other sockets.
fn is_alone(known: &HashMap<u64, (u32, TlsHttp2)>, tgid: u32, of: &TlsHttp2) -> bool {
    known
        .values()
        .filter(|(other_tgid, other)| *other_tgid == tgid && other.number != of.number)
        .all(|(_, other)| other.matches >= MATCHES_SURE && other.sk != of.sk)
}

/// Whether the handshake on the connection's socket named the server that a request names.
fn agrees(requests: &mut Requests, of: &TlsHttp2, request: u32) -> bool {
    let Some(handshake) = requests.latest.request(of.sk, of.opened_ns) else {
        return false;
    };
    let name = |number| requests.value(number).and_then(server_name);
    let asked = name(request);
    asked.is_some() && asked == name(handshake)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;
    use crate::protocols::{Request, Scheme};

    fn connection(number: u64, sk: u64, matches: u32) -> TlsHttp2 {
        TlsHttp2 {
            number,
            sk,
            opened_ns: 5,
            matches,
            ..TlsHttp2::default()
        }
    }

    #[test]
    fn one_match_is_enough_for_a_connection_that_is_alone() {
        let one = connection(1, 70, 1);
        let mut known = HashMap::from([(1, (9, one))]);
        assert!(is_alone(&known, 9, &one));
        // another process, and one whose socket is known
        known.insert(2, (8, connection(2, 0, 0)));
        known.insert(3, (9, connection(3, 80, MATCHES_SURE)));
        assert!(is_alone(&known, 9, &one));
        known.insert(4, (9, connection(4, 0, 0)));
        assert!(!is_alone(&known, 9, &one));
    }

    #[test]
    fn a_request_agrees_with_the_handshake_that_names_its_server() {
        let of = |method: &str, host: &str| Request {
            method: method.to_owned(),
            target: String::new(),
            host: Some(host.to_owned()),
            scheme: Scheme::Https,
        };
        let mut requests = Requests::default();
        let mut number = |request| requests.interner.number_of(&request).unwrap();
        let handshake = number(of("", "api.test"));
        let (asked, other) = (
            number(of("GET", "api.test:8443")),
            number(of("GET", "b.test")),
        );
        let one = connection(1, 70, 1);
        assert!(!agrees(&mut requests, &one, asked), "no handshake was seen");
        requests.latest.set_request(70, 5, handshake);
        assert!(agrees(&mut requests, &one, asked));
        assert!(!agrees(&mut requests, &one, other));
    }
}
