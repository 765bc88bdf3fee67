//! Plain values out of the kernel side's records, checked before anybody sees them. Pure.

use std::io;

use tracer_ebpf::{
    GO_CLIENT, GO_CONFIRMED, GO_FRAMES, GO_HANDED_OVER, GO_HOST_BYTES, GO_IDLE, GO_IN_FLIGHT,
    GO_NEW, GO_PATH_BYTES, GO_QUERY_BYTES, GO_READING, GO_RESPONSE, GO_SCHEME_BYTES, GO_SERVER,
    GO_STREAM, GO_TLS, GoConn, GoKey, GoStack, STACK_NONE, go_stack_hash,
};

use crate::model::PoolState;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GoKind {
    /// A client connection of HTTP/1.
    Client,
    /// A client stream of HTTP/2.
    Stream,
    /// A server connection.
    Server,
}

/// A request, checked but not redacted: for [`crate::protocols`] only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GoRequest {
    /// Method.
    pub method: String,
    /// `true` for `https`, `false` for `http`.
    pub https: bool,
    /// Host and port.
    pub host: String,
    /// Escaped path and query, as far as they were kept.
    pub target: String,
    /// The target is longer.
    pub cut: bool,
}

/// One connection or stream as the program's own runtime sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoConnection {
    /// Process.
    pub tgid: u32,
    /// Address of the object in the process.
    pub object: u64,
    /// Connection, stream or server connection.
    pub kind: GoKind,
    /// The kernel's socket; 0 where it could not be reached.
    pub sk: u64,
    /// Inode of the socket; 0 where it could not be reached.
    pub inode: u32,
    /// Descriptor.
    pub fd: Option<i32>,
    /// Address of the `net.netFD` that has it; 0 where it could not be reached.
    pub net_fd: u64,
    /// State in the pool. Of a connection of HTTP/1 the probes know only that it was handed over;
    /// everything else is read from memory ([`super::live`]).
    pub state: PoolState,
    /// A server connection without a request so far.
    pub fresh: bool,
    /// Id of the requester's stack, for [`super::GoTracer::site`].
    pub stack: Option<u32>,
    /// The latest request.
    pub request: Option<GoRequest>,
    /// What of the latest request makes no sense, so that nothing is said of it.
    pub odd: Option<&'static str>,
    /// Address of the transport (client) or of the HTTP/2 connection (stream).
    pub transport: u64,
    /// Requests so far.
    pub requests: u32,
    /// When the latest request began, monotonic nanoseconds.
    pub request_ns: Option<u64>,
    /// When the state last changed, monotonic nanoseconds.
    pub last_progress_ns: u64,
    /// Goroutine that issued the latest request.
    pub goid: u64,
    /// TLS over the socket.
    pub tls: bool,
    /// The kernel had recorded the same socket for this process.
    pub confirmed: bool,
}

impl GoConnection {
    /// What the kernel side knows it by.
    #[must_use]
    pub fn key(&self) -> GoKey {
        GoKey {
            object: self.object,
            tgid: self.tgid,
            pad: 0,
        }
    }
}

/// A value that does not make sense: the layout is not that of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Implausible(pub &'static str);

/// Copies of an entry before one that is never still is given up: a probe that was interrupted
/// holds it for longer than any number of copies takes.
const COPIES_MAX: u32 = 8;

/// Translates an entry.
///
/// # Errors
/// [`Implausible`] when method or scheme are none that a client can have, or the state is unknown.
pub fn connection(key: &GoKey, conn: &GoConn) -> Result<GoConnection, Implausible> {
    let kind = match conn.kind {
        GO_CLIENT => GoKind::Client,
        GO_STREAM => GoKind::Stream,
        GO_SERVER => GoKind::Server,
        _ => return Err(Implausible("kind")),
    };
    let state = match conn.state {
        GO_IN_FLIGHT => PoolState::InFlight,
        GO_RESPONSE => PoolState::Response,
        GO_READING => PoolState::Reading,
        GO_IDLE => PoolState::Idle,
        GO_HANDED_OVER => PoolState::Released,
        _ => PoolState::Unknown,
    };
    let (request, odd) = if kind == GoKind::Server || conn.requests == 0 {
        (None, None)
    } else {
        match request(conn) {
            Ok(request) => (Some(request), None),
            Err(Implausible(what)) => (None, Some(what)),
        }
    };
    Ok(GoConnection {
        tgid: key.tgid,
        object: key.object,
        kind,
        sk: conn.sk,
        inode: conn.inode,
        fd: (conn.fd >= 0).then_some(conn.fd),
        net_fd: conn.net_fd,
        state,
        fresh: conn.state == GO_NEW,
        stack: (conn.stack != STACK_NONE).then_some(conn.stack),
        request,
        odd,
        transport: conn.transport,
        requests: conn.requests,
        request_ns: (conn.request_ns > 0).then_some(conn.request_ns),
        last_progress_ns: conn.state_ns,
        goid: conn.goid,
        tls: conn.flags & GO_TLS != 0,
        confirmed: conn.flags & GO_CONFIRMED != 0,
    })
}

/// An entry as it was at one moment, not with the stack of one request and the URL of another: a
/// copy made while a request was being written is made again. If that goes on and on, nothing is
/// said of any request. `None` when the entry has gone meanwhile.
///
/// # Errors
/// Those of reading it again.
pub fn in_one_piece(
    mut conn: GoConn,
    mut again: impl FnMut() -> io::Result<Option<GoConn>>,
) -> io::Result<Option<GoConn>> {
    if conn.kind == GO_SERVER {
        return Ok(Some(conn));
    }
    for _ in 0..COPIES_MAX {
        let Some(next) = again()? else {
            return Ok(None);
        };
        if conn.version.is_multiple_of(2) && next.version == conn.version {
            return Ok(Some(conn));
        }
        conn = next;
    }
    Ok(Some(GoConn {
        stack: STACK_NONE,
        requests: 0,
        state: GO_IN_FLIGHT,
        ..conn
    }))
}

fn request(conn: &GoConn) -> Result<GoRequest, Implausible> {
    let text = conn.method.get(..usize::from(conn.method_len));
    let method = match text.map(std::str::from_utf8) {
        // An empty method means GET (net/http.Request).
        Some(Ok("")) => "GET".to_owned(),
        // RFC 9110, 5.6.2; WebDAV and others have methods of their own
        Some(Ok(text)) if text.bytes().all(is_token) => text.to_owned(),
        _ => return Err(Implausible("method")),
    };
    let https = match conn.scheme.get(..usize::from(conn.scheme_len)) {
        Some(b"http") => false,
        Some(b"https") => true,
        _ => return Err(Implausible("scheme")),
    };
    let kept = |bytes: &[u8], len: u16, max: usize| {
        let bytes = bytes.get(..usize::from(len).min(max)).unwrap_or(bytes);
        (bytes.to_vec(), usize::from(len) > max)
    };
    let (host, _) = kept(&conn.host, conn.host_len, GO_HOST_BYTES);
    let (path, path_cut) = kept(&conn.path, conn.path_len, GO_PATH_BYTES);
    let (query, query_cut) = kept(&conn.query, conn.query_len, GO_QUERY_BYTES);
    let host = String::from_utf8(host).map_err(|_| Implausible("host"))?;
    // Clients of UNIX sockets put the socket's path there, which its address says already.
    let host = match host.contains('/') {
        true => String::new(),
        false => host,
    };
    if host.chars().any(|c| c.is_control() || c == '@') {
        return Err(Implausible("host"));
    }
    let mut target = escape(&path);
    if target.is_empty() {
        target.push('/');
    }
    if !query.is_empty() && !path_cut {
        target.push('?');
        target.push_str(&escape_query(&query));
    }
    Ok(GoRequest {
        method,
        https,
        host,
        target,
        cut: path_cut || query_cut,
    })
}

const _: () = assert!(GO_SCHEME_BYTES >= 5);

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Escapes what may not stand in a path (RFC 3986, 3.3); Go keeps paths decoded.
fn escape(path: &[u8]) -> String {
    percent(path, b"/:@!$&'()*+,;=-._~")
}

/// Queries are kept as they came; only what would break a line or a terminal is escaped.
fn escape_query(query: &[u8]) -> String {
    percent(query, b"/:@!$&'()*+,;=-._~?%[]")
}

fn percent(bytes: &[u8], plain: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &b in bytes {
        if b.is_ascii_alphanumeric() || plain.contains(&b) {
            out.push(char::from(b));
        } else {
            out.push('%');
            for digit in [b >> 4, b & 15] {
                out.push(
                    char::from_digit(u32::from(digit), 16).map_or('0', |c| c.to_ascii_uppercase()),
                );
            }
        }
    }
    out
}

/// Whether a stack is what its hash was made of: one piece, not two that were mixed.
#[must_use]
pub fn is_whole(stack: &GoStack) -> bool {
    let used = (stack.frames as usize).min(GO_FRAMES);
    let ips = stack.ips.iter().take(used);
    let hash = ips.fold(u64::from(stack.tgid), |hash, &ip| go_stack_hash(hash, ip));
    go_stack_hash(hash, u64::from(stack.creator)) == stack.hash
}

/// File addresses of a stack, innermost first, each inside the call it stands for; and whether the
/// stack is longer than what was kept. `called`: the first is a return address, too.
#[must_use]
pub fn addresses(stack: &GoStack, bias: u64, called: bool) -> (Vec<u64>, bool) {
    let used = (stack.frames as usize).min(GO_FRAMES);
    let addresses = stack
        .ips
        .iter()
        .take(used)
        .enumerate()
        .map(|(i, ip)| {
            let within = u64::from(i > 0 || called);
            ip.wrapping_sub(bias).wrapping_sub(within)
        })
        .collect();
    (addresses, used == GO_FRAMES)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing test may panic")]

    use bytemuck::Zeroable as _;
    use proptest::prelude::*;
    use tracer_ebpf::{
        GO_CLIENT, GO_IDLE, GO_RESPONSE, GO_SERVER, GoConn, GoKey, GoStack, go_stack_hash,
    };

    use super::{GoRequest, Implausible, addresses, connection, in_one_piece, is_whole};
    use crate::model::PoolState;

    fn conn(method: &str, scheme: &str, host: &str, path: &str, query: &str) -> GoConn {
        let mut c = GoConn::zeroed();
        c.kind = GO_CLIENT;
        c.state = GO_RESPONSE;
        c.requests = 1;
        let put = |to: &mut [u8], text: &str| {
            let kept = text.len().min(to.len());
            to[..kept].copy_from_slice(&text.as_bytes()[..kept]);
            u16::try_from(text.len()).unwrap()
        };
        c.method_len = put(&mut c.method, method) as u8;
        c.scheme_len = put(&mut c.scheme, scheme);
        c.host_len = put(&mut c.host, host);
        c.path_len = put(&mut c.path, path);
        c.query_len = put(&mut c.query, query);
        c
    }

    fn request(c: &GoConn) -> Result<GoRequest, Implausible> {
        let c = connection(&GoKey::default(), c)?;
        c.request.ok_or(Implausible(c.odd.unwrap_or_default()))
    }

    #[test]
    fn a_request_is_read_and_escaped() {
        let r = request(&conn("", "http", "a.example:81", "/v2/a b/ü", "n=1&x")).unwrap();
        assert_eq!(r.method, "GET");
        assert_eq!(r.host, "a.example:81");
        assert_eq!(r.target, "/v2/a%20b/%C3%BC?n=1&x");
        assert!(!r.cut);
        let r = request(&conn("POST", "https", "h", "", "")).unwrap();
        assert!(r.https);
        assert_eq!(r.target, "/");
    }

    #[test]
    fn a_long_path_is_cut_and_says_so() {
        let long = format!("/{}", "a".repeat(500));
        let r = request(&conn("GET", "http", "h", &long, "token=secret")).unwrap();
        assert!(r.cut);
        assert_eq!(r.target.len(), 128);
    }

    #[test]
    fn what_no_client_sends_is_not_believed() {
        for c in [
            conn("GR AB", "http", "h", "/", ""),
            conn("GET", "gopher", "h", "/", ""),
            conn("GET", "", "h", "/", ""),
            conn("GET", "http", "u:p@h", "/", ""),
            conn("TOO-LONG-A-METHOD", "http", "h", "/", ""),
        ] {
            assert!(request(&c).is_err());
        }
    }

    #[test]
    fn what_clients_of_unix_sockets_send_is_believed() {
        let docker = request(&conn("PURGE", "http", "/run/d.sock", "/a", "")).unwrap();
        assert_eq!((&*docker.host, &*docker.method), ("", "PURGE"));
    }

    #[test]
    fn a_copy_is_of_one_request() {
        let at = |version: u32, path: &str| GoConn {
            version,
            ..conn("", "http", "h", path, "")
        };
        let copies = |all: Vec<GoConn>| {
            let mut all = all.into_iter();
            in_one_piece(all.next().unwrap(), || Ok(all.next())).unwrap()
        };
        // at rest; being written; written meanwhile; gone
        let (one, two) = (at(2, "/1"), at(4, "/2"));
        assert_eq!(copies(vec![one, one]), Some(one));
        assert_eq!(copies(vec![at(3, "/?"), two, two]), Some(two));
        assert_eq!(copies(vec![at(2, "/?"), two, two]), Some(two));
        assert_eq!(copies(vec![at(3, "/?"), at(3, "/?")]), None);
        let restless = in_one_piece(at(3, "/?"), || Ok(Some(at(3, "/?")))).unwrap();
        let said = connection(&GoKey::default(), &restless.unwrap()).unwrap();
        assert_eq!((said.stack, said.request), (None, None));
    }

    #[test]
    fn servers_and_fresh_connections_have_no_request() {
        let mut c = conn("", "", "", "", "");
        c.kind = GO_SERVER;
        assert_eq!(connection(&GoKey::default(), &c).unwrap().request, None);
        c.kind = GO_CLIENT;
        c.requests = 0;
        c.state = GO_IDLE;
        let c = connection(&GoKey::default(), &c).unwrap();
        assert_eq!((c.request, c.state), (None, PoolState::Idle));
    }

    #[test]
    fn return_addresses_are_moved_into_their_calls() {
        let mut stack = GoStack::zeroed();
        stack.frames = 3;
        stack.ips[..3].copy_from_slice(&[0x1010, 0x1020, 0x1030]);
        let of_creator = addresses(&stack, 0x1000, true);
        assert_eq!(of_creator.0, [0xf, 0x1f, 0x2f]);
        assert_eq!(
            addresses(&stack, 0x1000, false),
            (vec![0x10, 0x1f, 0x2f], false)
        );
        stack.frames = 128;
        assert!(addresses(&stack, 0, false).1);
    }

    #[test]
    fn a_mixture_of_two_stacks_is_recognized() {
        let mut stack = GoStack::zeroed();
        (stack.tgid, stack.frames) = (7, 3);
        stack.ips[..3].copy_from_slice(&[0x1010, 0x1020, 0x1030]);
        stack.hash = stack.ips[..3]
            .iter()
            .fold(7, |hash, &ip| go_stack_hash(hash, ip));
        stack.hash = go_stack_hash(stack.hash, 3);
        assert!(!is_whole(&stack), "it has another creator");
        stack.creator = 3;
        assert!(is_whole(&stack));
        stack.ips[2] = 0x2030;
        assert!(!is_whole(&stack));
    }

    proptest! {
        #[test]
        fn any_record_is_refused_or_plain_text(bytes in proptest::collection::vec(any::<u8>(), 352)) {
            let c: GoConn = tracer_ebpf::decode(&bytes).unwrap();
            if let Ok(c) = connection(&GoKey::default(), &c)
                && let Some(r) = c.request
            {
                prop_assert!(r.target.is_ascii());
                prop_assert!(!r.target.bytes().any(|b| b.is_ascii_control()));
            }
        }
    }
}
