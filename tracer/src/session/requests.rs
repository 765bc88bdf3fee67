//! Requests and remote ends by number: what sockets have in common is kept once.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use tracer_ebpf::{HEAD_TLS, Head, PathValue, Sock};

use crate::{
    model::{Family, Remote},
    protocols::{Request, Scheme, example, origin, sniff, template, url},
};

/// Most values kept as they are.
const INTERNED_MAX: usize = 65_536;
/// Most values kept in all: beyond `INTERNED_MAX` only what many share.
const INTERNED_WITH_SHARED_MAX: usize = 2 * INTERNED_MAX;

/// Values by number and numbers by value.
#[derive(Debug)]
pub struct Interner<T> {
    numbers: HashMap<T, u32>,
    values: Vec<T>,
    refused: u64,
}

impl<T: Clone + Eq + Hash> Interner<T> {
    /// An empty one.
    pub fn new() -> Self {
        Interner {
            numbers: HashMap::new(),
            values: Vec::new(),
            refused: 0,
        }
    }

    /// The number of a value; `None` when it is new and there is no room.
    pub fn number(&mut self, value: &T) -> Option<u32> {
        self.number_within(value, INTERNED_MAX)
    }

    fn number_within(&mut self, value: &T, room: usize) -> Option<u32> {
        if let Some(&number) = self.numbers.get(value) {
            return Some(number);
        }
        if self.values.len() >= room {
            return None;
        }
        let number = u32::try_from(self.values.len()).ok()?;
        self.numbers.insert(value.clone(), number);
        self.values.push(value.clone());
        Some(number)
    }

    /// The value of a number.
    pub fn value(&self, number: u32) -> Option<&T> {
        self.values.get(number as usize)
    }

    /// All values, by number.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// Values that had these numbers in an earlier interner.
    pub fn restore(&mut self, values: Vec<T>) {
        self.numbers = (values.iter().cloned()).zip(0..).collect();
        self.values = values;
    }

    /// Values that found no room.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

impl Interner<Request> {
    /// The number of a request. When there are too many different ones, those to come are known by
    /// their URL template, which is all that findings are told apart by.
    pub fn number_of(&mut self, request: &Request) -> Option<u32> {
        let number = self.number(request).or_else(|| {
            let shared = Request {
                target: template(&request.target),
                ..request.clone()
            };
            self.number_within(&shared, INTERNED_WITH_SHARED_MAX)
        });
        self.refused += u64::from(number.is_none());
        number
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

/// The remote end of a client, with the URL template of its latest request.
pub fn client_remote(family: Family, address: &str, request: Option<&Request>) -> Arc<Remote> {
    Arc::new(Remote {
        family,
        address: address.to_owned(),
        host: request.and_then(|r| r.host.clone()),
        url: request.map(|r| match r.method.is_empty() {
            true => origin(r.scheme, family, address, r.host.as_deref()),
            false => url(
                r.scheme,
                family,
                address,
                r.host.as_deref(),
                &template(&r.target),
            ),
        }),
    })
}

/// A request as findings show it.
pub fn shown(family: Family, address: &str, request: &Request) -> String {
    if request.method.is_empty() {
        return origin(request.scheme, family, address, request.host.as_deref());
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
    use tracer_ebpf::{HOST_BYTES, Head, LINE_BYTES};

    use super::{Family, Interner, PathValue, Request, Scheme, request, socket_address, unix_path};

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

    /// `protocols/fixture.rs` is one that only tests have.
    #[test]
    fn a_protocol_in_the_list_of_readers_is_shown() {
        let said = request(&head("\u{2}shop.test/v1/orders/17?key=**", "")).unwrap();
        assert_eq!(said.method, "ASK");
        let host = said.host.as_deref();
        assert_eq!(
            super::url(
                Scheme::Http,
                Family::Tcp4,
                "127.0.0.1:70",
                host,
                &said.target
            ),
            "http://shop.test/v1/orders/17?key=…"
        );
        assert_eq!(super::template(&said.target), "/v1/orders/{}?key=…");
    }

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

    #[test]
    fn interning_gives_the_same_number() {
        let mut interner = Interner::new();
        assert_eq!(interner.number(&"a"), Some(0));
        assert_eq!(interner.number(&"b"), Some(1));
        assert_eq!(interner.number(&"a"), Some(0));
        assert_eq!(interner.value(1), Some(&"b"));
    }

    #[test]
    fn a_flood_of_ids_ends_in_their_template() {
        let mut interner = Interner::new();
        let request = |id: usize| Request {
            method: "GET".to_owned(),
            target: format!("/v1/prices/{id}"),
            host: None,
            scheme: Scheme::Http,
        };
        for id in 0..super::INTERNED_MAX {
            assert!(interner.number_of(&request(id)).is_some());
        }
        let one = interner.number_of(&request(super::INTERNED_MAX + 1));
        assert!(one.is_some());
        assert_eq!(one, interner.number_of(&request(super::INTERNED_MAX + 2)));
        assert_eq!(interner.refused(), 0);
    }
}
