//! What the kernel side reads of HTTP/1 in the clear: of requests the line and the host, of responses
//! numbers. Both ends are threads of this process, over loopback.

mod common;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use tracer::testing::Probes;
use tracer_ebpf::{
    HEADS_HTTP, HEADS_TLS, LEFT_MANY, RESPONSE_AWAITED, RESPONSE_CHUNKED, RESPONSE_HEAD_READ,
    RESPONSE_LAST_CHUNK, RESPONSE_LENGTH, RESPONSE_TO_CONNECT, RESPONSE_TO_HEAD, RESPONSE_UPGRADED,
    ROLE_CLIENT, Sock,
};
use tracer_tests::runner;

use self::common::load_for_us;

tracer_tests::tests![
    responses_are_read_as_numbers,
    of_requests_only_line_and_host_are_kept,
    tls_is_told_from_its_first_record,
];

fn main() -> ExitCode {
    runner::main(&[TESTS])
}

/// A client and its server's end.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn new() -> Result<Pair> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        client.set_nodelay(true)?;
        let (server, _) = listener.accept()?;
        server.set_nodelay(true)?;
        Ok(Pair { client, server })
    }

    fn request(&mut self, bytes: &[u8]) -> Result<()> {
        self.client.write_all(bytes)?;
        let mut room = vec![0; bytes.len()];
        self.server.read_exact(&mut room)?;
        Ok(())
    }

    /// Each part is sent by itself, and received by one call.
    fn respond(&mut self, parts: &[&[u8]]) -> Result<()> {
        for part in parts {
            self.server.write_all(part)?;
            let mut room = vec![0; part.len() + 100];
            let received = self.client.read(&mut room)?;
            ensure!(received == part.len(), "a part was torn apart");
        }
        Ok(())
    }

    fn record(&self, probes: &Probes) -> Result<(u64, Sock)> {
        let port = self.client.local_addr()?.port();
        let mut found = None;
        probes.socks.for_each(|&sk, sock| {
            if sock.role == ROLE_CLIENT && sock.local_port == port {
                found = Some((sk, *sock));
            }
        })?;
        found.context("the client's socket is not in the map")
    }
}

/// A request, the parts of its response, and what is to be known afterwards: status, bits, bytes of
/// the body that are still to come.
type Case = (
    &'static str,
    &'static [u8],
    &'static [&'static [u8]],
    u16,
    u8,
    u32,
);

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const WHOLE: u8 = RESPONSE_HEAD_READ;

const CASES: &[Case] = &[
    (
        "a length",
        GET,
        &[b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 12\r\n\r\nhello"],
        200,
        WHOLE | RESPONSE_LENGTH,
        7,
    ),
    (
        "small letters, no space, bare line feeds",
        GET,
        &[b"HTTP/1.0 503 Busy\ncontent-length:7\n\nhello!!"],
        503,
        WHOLE | RESPONSE_LENGTH,
        0,
    ),
    (
        "chunks, not all",
        GET,
        &[
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"3\r\n0\r\n",
        ],
        200,
        WHOLE | RESPONSE_CHUNKED,
        0,
    ),
    (
        "all chunks in one piece",
        GET,
        &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
        200,
        WHOLE | RESPONSE_CHUNKED | RESPONSE_LAST_CHUNK,
        0,
    ),
    (
        "the last chunk alone",
        GET,
        &[
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
        ],
        200,
        WHOLE | RESPONSE_CHUNKED | RESPONSE_LAST_CHUNK,
        0,
    ),
    (
        "line by line",
        GET,
        &[
            b"HTTP/1.1 404 Not Found\r\n",
            b"X-A: b\r\n",
            b"Content-Length: 3\r\n",
            b"\r\n",
            b"abc",
        ],
        404,
        WHOLE | RESPONSE_LENGTH,
        0,
    ),
    (
        "a body in parts, and then too much of it",
        GET,
        &[
            b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello",
            b" ",
            b"world",
            b"!",
        ],
        200,
        WHOLE | RESPONSE_LENGTH,
        0,
    ),
    (
        "a part of a body",
        GET,
        &[
            b"HTTP/1.1 200 OK\r\n",
            b"Content-Length: 4294967294\r\n\r\n",
            b"hello",
        ],
        200,
        WHOLE | RESPONSE_LENGTH,
        u32::MAX - 6,
    ),
    (
        "more than is counted",
        GET,
        &[
            b"HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\nhello",
            b"hello",
        ],
        200,
        WHOLE | RESPONSE_LENGTH,
        LEFT_MANY,
    ),
    (
        "torn inside a line",
        GET,
        &[b"HTTP/1.1 404 Not Found\r\nContent-Le", b"ngth: 3\r\n\r\nabc"],
        404,
        0,
        0,
    ),
    (
        "until the end",
        GET,
        &[b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nabc"],
        200,
        WHOLE,
        0,
    ),
    (
        "an interim response and the final one in one piece",
        GET,
        &[b"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 2\r\n\r\nok"],
        201,
        WHOLE | RESPONSE_LENGTH,
        0,
    ),
    (
        "an upgrade",
        GET,
        &[b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"],
        101,
        WHOLE | RESPONSE_UPGRADED,
        0,
    ),
    (
        "a tunnel",
        b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
        &[b"HTTP/1.1 200 Connection established\r\n\r\n"],
        200,
        WHOLE | RESPONSE_UPGRADED | RESPONSE_TO_CONNECT,
        0,
    ),
    (
        "a tunnel refused",
        b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
        &[b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n"],
        407,
        WHOLE | RESPONSE_TO_CONNECT | RESPONSE_LENGTH,
        0,
    ),
    (
        "an answer to HEAD",
        b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
        &[b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"],
        200,
        WHOLE | RESPONSE_TO_HEAD | RESPONSE_LENGTH,
        1000,
    ),
    (
        "two lengths",
        GET,
        &[b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc"],
        200,
        0,
        0,
    ),
    (
        "a length that is no number",
        GET,
        &[b"HTTP/1.1 200 OK\r\nContent-Length: 3x\r\n\r\nabc"],
        200,
        0,
        0,
    ),
    ("not HTTP", GET, &[b"+OK ready\r\n\r\n"], 0, 0, 0),
];

fn responses_are_read_as_numbers() -> Result<()> {
    let probes = load_for_us()?;
    for &(name, request, parts, status, bits, left) in CASES {
        let mut pair = Pair::new()?;
        pair.request(request)?;
        let (_, sock) = pair.record(&probes)?;
        ensure!(
            sock.response & RESPONSE_AWAITED != 0 && sock.heads & HEADS_HTTP != 0,
            "{name}: no response is awaited: {sock:?}"
        );
        pair.respond(parts)?;
        let (_, sock) = pair.record(&probes)?;
        ensure!(sock.response_status == status, "{name}: {sock:?}");
        ensure!(
            sock.response == bits,
            "{name}: {:#b}, {sock:?}",
            sock.response
        );
        if bits & RESPONSE_LENGTH != 0 {
            ensure!(sock.netns_or_left == left, "{name}: {sock:?}");
        }
    }

    // what is sent after an interim response is the same request; the next one begins anew
    let mut pair = Pair::new()?;
    pair.request(b"PUT /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n")?;
    pair.respond(&[b"HTTP/1.1 100 Continue\r\n\r\n"])?;
    pair.request(b"the body")?;
    pair.respond(&[b"HTTP/1.1 204 Done\r\n\r\n"])?;
    let (_, sock) = pair.record(&probes)?;
    ensure!(
        (sock.turns, sock.response_status, sock.response) == (1, 204, WHOLE),
        "{sock:?}"
    );
    pair.request(GET)?;
    let (_, sock) = pair.record(&probes)?;
    ensure!(
        (sock.turns, sock.response_status, sock.netns_or_left) == (2, 0, 0),
        "{sock:?}"
    );
    Ok(())
}

fn of_requests_only_line_and_host_are_kept() -> Result<()> {
    let probes = load_for_us()?;
    let cases: &[(&[u8], &[u8], &[u8])] = &[
        (
            b"GET /a/b?page=hunter2hunter2&q=hunter2&flag HTTP/1.1\r\nCookie: hunter2\r\nHost: shop.test:8080\r\nAuthorization: hunter2\r\n\r\nhunter2",
            b"GET /a/b?page=**************&q=*******&**** HTTP/1.1",
            b"shop.test:8080",
        ),
        (
            b"GET /cb?hunter2 HTTP/1.1\nHOST:h\n\n",
            b"GET /cb?******* HTTP/1.1",
            b"h",
        ),
        (
            b"POST /cb?a=hunter2=hunter2?x=hunter2 HTTP/1.1\r\nHost: h\r\n\r\nHost: evil\r\n",
            b"POST /cb?a=************************* HTTP/1.1",
            b"h",
        ),
        (b"GET /none HTTP/1.0\r\n\r\n", b"GET /none HTTP/1.0", b""),
    ];
    for (bytes, line, host) in cases {
        let mut pair = Pair::new()?;
        pair.request(bytes)?;
        let (sk, _) = pair.record(&probes)?;
        let mut heads = Vec::new();
        probes.heads.drain(|key, head| {
            if key.sk == sk {
                heads.push(*head);
            }
        })?;
        let [head] = heads[..] else {
            anyhow::bail!("{} heads were kept", heads.len());
        };
        let kept_line = &head.line[..usize::from(head.line_len)];
        let kept_host = &head.host[..usize::from(head.host_len)];
        ensure!(
            (kept_line, kept_host) == (line, host),
            "{:?}, {:?}",
            String::from_utf8_lossy(kept_line),
            String::from_utf8_lossy(kept_host)
        );
        let raw = [&head.line[..], &head.host[..]].concat();
        ensure!(
            !raw.windows(4).any(|four| four == b"hunt"),
            "a secret is kept"
        );
    }
    // a name and a password before a proxied host: nothing is kept
    let mut pair = Pair::new()?;
    pair.request(b"GET http://bob:hunter2@h/x HTTP/1.1\r\nHost: h\r\n\r\n")?;
    let kept = probes.heads.drain(|_, _| ())?;
    ensure!(kept == 0, "{kept} heads were kept");
    Ok(())
}

fn tls_is_told_from_its_first_record() -> Result<()> {
    let probes = load_for_us()?;
    let mut pair = Pair::new()?;
    pair.request(b"\x16\x03\x01\x00\x05hello")?;
    let (_, sock) = pair.record(&probes)?;
    ensure!(sock.heads == HEADS_TLS && sock.response == 0, "{sock:?}");
    Ok(())
}
