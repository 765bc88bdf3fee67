//! The requests of a session: what they say, by number, and the latest of each socket.

use std::{io, sync::Arc};

use tracer_ebpf::{HEAD_TLS, Head, HeadKey};

use super::{
    greetings::{self, Greetings},
    interner::Interner,
    latest_requests::LatestRequests,
    resolved::Resolved,
};
use crate::{
    cluster::Remotes,
    kernel::probes::Probes,
    model::{Family, Remote},
    protocols::{Request, Scheme, example, origin, sniff, template, url},
    wiping,
};

/// The requests of a session.
#[derive(Debug, Default)]
pub struct Requests {
    /// What they say, by number.
    pub interner: Interner<Request>,
    /// The latest of each socket.
    pub latest: LatestRequests,
    /// Request heads (key, turn) that were taken, but stay in the kernel until what they say is
    /// saved.
    taken: Vec<(HeadKey, u32)>,
    /// What connections begin with that have no requests.
    greetings: Option<Greetings>,
    /// Names that processes resolved.
    resolved: Option<Resolved>,
    /// Names that the cluster has for addresses, where it is asked.
    remotes: Option<Remotes>,
}

impl Requests {
    /// None yet; of those to come, `examples` are kept, or their routes only.
    pub fn new(
        examples: bool,
        greetings: Greetings,
        resolved: Resolved,
        remotes: Option<Remotes>,
    ) -> Requests {
        if !examples {
            wiping::begin();
        }
        let mut requests = Requests {
            greetings: Some(greetings),
            resolved: Some(resolved),
            remotes,
            ..Requests::default()
        };
        requests.interner.routes_only = !examples;
        requests
    }

    /// A request as an example, unless there are to be none, or only its route is known.
    pub fn example(&self, family: Family, address: &str, request: &Request) -> Option<String> {
        let exact = self.interner.is_exact(request);
        exact.then(|| shown(family, address, request))
    }

    /// Takes in the heads that came since the last sweep; `true` where the kernel must keep them
    /// until what they say is saved ([`Requests::forget_heads`]).
    ///
    /// # Errors
    /// The kernel's, when the map can't be read.
    pub fn take_heads(&mut self, probes: &Probes) -> io::Result<bool> {
        if let Some(greetings) = &mut self.greetings {
            greetings.take(&mut self.interner, &mut self.latest);
        }
        if let Some(resolved) = &mut self.resolved {
            resolved.take();
        }
        let mut heads = Vec::new();
        let keep = probes.pins().is_some();
        if keep {
            self.taken.clear();
            probes.heads.for_each(|key, head| {
                self.taken.push((*key, head.turn));
                heads.push((*key, *head));
            })?;
        } else {
            probes.heads.drain(|key, head| heads.push((*key, *head)))?;
        }
        let any = !heads.is_empty();
        self.learn(heads);
        wiping::stack();
        Ok(keep && any)
    }

    /// The latest request of a socket wins.
    fn learn(&mut self, mut heads: Vec<(HeadKey, Head)>) {
        // in a tunnel, turns are counted anew
        heads.sort_unstable_by_key(|(key, head)| (key.sk, head.opened_ns, head.turn, key.latest));
        for (key, head) in heads {
            let Some(said) = request(&head) else {
                continue;
            };
            let known = self.latest.request(key.sk, head.opened_ns);
            let known = known.and_then(|number| self.interner.value(number));
            let said = greetings::with_name(said, known);
            if let Some(number) = self.interner.number_of(&said) {
                self.latest.set_request(key.sk, head.opened_ns, number);
            }
        }
    }

    /// Lets go of the request heads that were taken, unless there is a newer one in their place.
    pub fn forget_heads(&mut self, probes: &Probes) {
        for (key, turn) in self.taken.drain(..) {
            let now = probes.heads.get(&key);
            if now.is_ok_and(|now| now.is_some_and(|now| now.turn == turn)) {
                let _ = probes.heads.remove(&key);
            }
        }
    }

    /// The name by which a process knew an address (`address:port`) when it connected to it, with the
    /// port.
    pub fn resolved(&self, tgid: u32, address: &str, opened_ns: u64) -> Option<String> {
        let name = self.resolved.as_ref()?.name(tgid, address, opened_ns)?;
        let (_, port) = address.rsplit_once(':')?;
        Some(format!("{name}:{port}"))
    }

    /// The name, with the port, that the cluster had for an address when it was connected to.
    pub fn in_cluster(&self, address: &str, opened_ns: u64) -> Option<String> {
        self.remotes.as_ref()?.name(address, opened_ns)
    }

    /// Why the cluster has no names for addresses, where it is to have them.
    pub fn without_names(&self) -> Option<String> {
        self.remotes.as_ref()?.degraded()
    }

    /// What the request of a number says.
    pub fn value(&self, number: u32) -> Option<&Request> {
        self.interner.value(number)
    }
}

/// What a head says, if it is one of a known protocol.
pub fn request(head: &Head) -> Option<Request> {
    let tls = head.line_len & HEAD_TLS != 0;
    let line_len = head.line_len & !HEAD_TLS;
    if tls && line_len == 0 {
        return Some(Request {
            method: String::new(),
            target: String::new(),
            host: Some(host(head)?),
            scheme: Scheme::Https,
        });
    }
    let line = kept(&head.line, line_len);
    let mut bytes = line.0.to_vec();
    if line.1 {
        bytes.extend_from_slice(b"\r\n");
    }
    let said = sniff(&bytes)?;
    Some(Request {
        host: said.host.or_else(|| host(head)),
        method: said.method,
        target: said.target,
        scheme: if tls { Scheme::Https } else { Scheme::Http },
    })
}

/// Bytes that are valid, and whether they are all there were.
fn kept(bytes: &[u8], len: u16) -> (&[u8], bool) {
    match bytes.get(..usize::from(len)) {
        Some(whole) => (whole, true),
        None => {
            let end = bytes.iter().rposition(|&byte| byte != 0);
            (&bytes[..end.map_or(0, |last| last + 1)], false)
        }
    }
}

/// The value of the `Host` header, where it is whole and can be one.
fn host(head: &Head) -> Option<String> {
    let (name, true) = kept(&head.host, head.host_len) else {
        return None;
    };
    let bytes = [b"GET / HTTP/1.1\r\nHost: ", name, b"\r\n"].concat();
    sniff(&bytes)?.host
}

/// The remote end of a client, with the URL template of its latest request.
pub fn client_remote(family: Family, address: &str, request: Option<&Request>) -> Arc<Remote> {
    Arc::new(Remote {
        family,
        address: address.to_owned(),
        host: request.and_then(|r| r.host.clone()),
        url: request.map(|r| match r.method.is_empty() {
            true => named(family, address, r),
            false => url(
                r.scheme,
                family,
                address,
                r.host.as_deref(),
                &template(&r.target),
            ),
        }),
        peer: None,
        resolved: None,
        in_cluster: None,
    })
}

/// The name of the server that a request or a handshake is meant for, without a port.
pub fn server_name(request: &Request) -> Option<&str> {
    let host = request.host.as_deref()?;
    let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    Some(if is_port { name } else { host })
}

/// All that is known of a connection without requests: its server, and the database. A handshake does
/// not say the port, which is that of the address.
fn named(family: Family, address: &str, of: &Request) -> String {
    let port = address.rsplit_once(':').map(|(_, port)| port);
    let host = match (of.host.as_deref(), port) {
        (Some(host), Some(port)) if family != Family::Unix && !host.contains(':') => {
            Some(format!("{host}:{port}"))
        }
        (host, _) => host.map(str::to_owned),
    };
    let origin = origin(of.scheme, family, address, host.as_deref());
    match greetings::service(of) {
        Some(_) => format!("{origin}{}", of.target),
        None => origin,
    }
}

/// A request as findings show it.
pub fn shown(family: Family, address: &str, request: &Request) -> String {
    if request.method.is_empty() {
        return named(family, address, request);
    }
    let url = url(
        request.scheme,
        family,
        address,
        request.host.as_deref(),
        &request.target,
    );
    example(&request.method, &url)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use tracer_ebpf::{HOST_BYTES, LINE_BYTES};

    use super::*;

    /// As the kernel side keeps it; longer texts are cut.
    fn head(line: &str, host: &str) -> Head {
        let mut head = Head {
            opened_ns: 1,
            turn: 1,
            line_len: line.len().min(LINE_BYTES + 1) as u16,
            host_len: host.len().min(HOST_BYTES + 1) as u16,
            line: [0; LINE_BYTES],
            host: [0; HOST_BYTES],
        };
        let n = line.len().min(LINE_BYTES);
        head.line[..n].copy_from_slice(&line.as_bytes()[..n]);
        let n = host.len().min(HOST_BYTES);
        head.host[..n].copy_from_slice(&host.as_bytes()[..n]);
        head
    }

    #[test]
    fn a_host_is_known_however_long_the_target() {
        let said = request(&head("GET /a?page=** HTTP/1.1", "Shop.test")).unwrap();
        assert_eq!(said.host.as_deref(), Some("shop.test"));
        assert_eq!((&*said.method, &*said.target), ("GET", "/a?page=…"));
        let long = format!("GET /{} HTTP/1.1", "a/".repeat(LINE_BYTES));
        let said = request(&head(&long, "shop.test")).unwrap();
        assert_eq!(said.host.as_deref(), Some("shop.test"));
        assert!(said.target.ends_with('…'), "{}", said.target);
        let long = "h".repeat(HOST_BYTES + 1);
        assert_eq!(request(&head("GET / HTTP/1.1", &long)).unwrap().host, None);
        assert_eq!(request(&head("GET / HTTP/1.1", "")).unwrap().host, None);
        assert_eq!(request(&head("hello", "h")), None);
    }

    #[test]
    fn a_handshake_has_the_port_of_its_address() {
        let of = |host: &str| Request {
            method: String::new(),
            target: String::new(),
            host: Some(host.to_owned()),
            scheme: Scheme::Https,
        };
        let name = |address| shown(Family::Tcp4, address, &of("api.test"));
        assert_eq!(name("10.0.0.7:8443"), "https://api.test:8443");
        assert_eq!(name("10.0.0.7:443"), "https://api.test");
        for (host, server) in [
            ("api.test", "api.test"),
            ("api.test:81", "api.test"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(server_name(&of(host)), Some(server), "{host}");
        }
    }

    /// `protocols/fixture.rs` is one that only tests have.
    #[test]
    fn a_protocol_in_the_list_of_readers_is_shown() {
        let said = request(&head("\u{2}shop.test/v1/orders/17?key=**", "")).unwrap();
        assert_eq!(said.method, "ASK");
        let host = said.host.as_deref();
        assert_eq!(
            url(
                Scheme::Http,
                Family::Tcp4,
                "127.0.0.1:70",
                host,
                &said.target
            ),
            "http://shop.test/v1/orders/17?key=…"
        );
        assert_eq!(template(&said.target), "/v1/orders/{}?key=…");
    }

    #[test]
    fn the_latest_request_of_a_socket_wins() {
        let mut requests = Requests::default();
        let key = HeadKey {
            sk: 7,
            ..HeadKey::default()
        };
        let at = |turn, line| Head {
            turn,
            ..head(line, "shop.test")
        };
        requests.learn(vec![
            (key, at(3, "GET /c HTTP/1.1")),
            (key, at(1, "GET /a HTTP/1.1")),
        ]);
        let number = requests.latest.request(7, 1).unwrap();
        assert_eq!(requests.value(number).unwrap().target, "/c");
    }

    #[test]
    fn what_is_asked_in_a_tunnel_comes_after_what_asked_for_it() {
        let mut requests = Requests::default();
        let [first, latest] = [0, 1].map(|latest| HeadKey { sk: 7, latest });
        requests.learn(vec![
            (latest, head("GET /a HTTP/1.1", "shop.test")),
            (first, head("CONNECT shop.test:443 HTTP/1.1", "")),
        ]);
        let number = requests.latest.request(7, 1).unwrap();
        assert_eq!(requests.value(number).unwrap().target, "/a");
    }
}
