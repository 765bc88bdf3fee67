//! A small server of several moods for the clients to talk to.
//!
//! `fixture-server MODE ADDRESS`, where ADDRESS is `127.0.0.1:0`, `[::1]:0` or `unix:PATH` (`unix:@NAME`
//! for an abstract one). It prints `READY ADDRESS` and ends when its standard input does.
//!
//! | mode | does |
//! | --- | --- |
//! | `http` | answers each request (up to an empty line) and keeps the connection |
//! | `once` | answers one request and closes |
//! | `line` | answers each line with a line |
//! | `sse` | answers with a stream of events, one every 200 ms |
//! | `silent` | accepts and reads, never answers |
//! | `keep` | answers each request and forgets the connection: the leaking server |
//! | `reset` | resets each connection after its first request |

use std::{
    env,
    io::{self, Read, Write},
    mem,
    net::TcpListener,
    os::{
        fd::{AsRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tracer_tests::pace;

/// A response with a body, as one piece.
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"price\":9.99}";

/// What to do with a connection.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Http,
    Once,
    Line,
    Sse,
    Silent,
    Keep,
    Reset,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [mode, address] = arguments.as_slice() else {
        bail!("usage: fixture-server MODE ADDRESS")
    };
    let mode = match mode.as_str() {
        "http" => Mode::Http,
        "once" => Mode::Once,
        "line" => Mode::Line,
        "sse" => Mode::Sse,
        "silent" => Mode::Silent,
        "keep" => Mode::Keep,
        "reset" => Mode::Reset,
        other => bail!("no such mode: {other}"),
    };
    pace::end_with_parent();
    match address.strip_prefix("unix:") {
        Some(path) => {
            let listener = match path.strip_prefix('@') {
                Some(name) => UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?,
                None => UnixListener::bind(path)?,
            };
            println!("READY {address}");
            loop {
                start(mode, accept_session_unix(&listener)?);
            }
        }
        None => {
            let listener = TcpListener::bind(address).context("bind")?;
            println!("READY {}", listener.local_addr()?);
            loop {
                start(mode, accept_session(&listener)?);
            }
        }
    }
}

/// The TCP server's call site.
#[inline(never)]
fn accept_session(listener: &TcpListener) -> Result<OwnedFd> {
    Ok(listener.accept()?.0.into())
}

/// The UNIX server's call site.
#[inline(never)]
fn accept_session_unix(listener: &UnixListener) -> Result<OwnedFd> {
    Ok(listener.accept()?.0.into())
}

/// Serves on a thread of its own; what becomes of one connection is no concern of the others.
fn start(mode: Mode, socket: OwnedFd) {
    // A thread that can't be started closes the connection, and its client says so.
    let _ = thread::Builder::new()
        .stack_size(128 << 10)
        .spawn(move || serve(mode, socket));
}

/// Serves one connection until its end.
fn serve(mode: Mode, socket: OwnedFd) -> io::Result<()> {
    let mut stream = std::fs::File::from(socket);
    let terminator: &[u8] = if mode == Mode::Line {
        b"\n"
    } else {
        b"\r\n\r\n"
    };
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..n]);
        if !request.ends_with(terminator) {
            continue;
        }
        request.clear();
        match mode {
            Mode::Silent => {}
            Mode::Line => stream.write_all(b"IN STOCK\n")?,
            Mode::Http => stream.write_all(RESPONSE)?,
            Mode::Once => return stream.write_all(RESPONSE),
            Mode::Keep => {
                stream.write_all(RESPONSE)?;
                mem::forget(stream);
                return Ok(());
            }
            Mode::Sse => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")?;
                loop {
                    stream.write_all(b"data: tick\n\n")?;
                    thread::sleep(Duration::from_millis(200));
                }
            }
            Mode::Reset => {
                let linger = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                // SAFETY: the option value is a plain struct of the size given.
                unsafe {
                    libc::setsockopt(
                        stream.as_raw_fd(),
                        libc::SOL_SOCKET,
                        libc::SO_LINGER,
                        (&raw const linger).cast(),
                        size_of::<libc::linger>() as libc::socklen_t,
                    );
                }
                return Ok(());
            }
        }
    }
}
