//! The daemon end to end, with a source that needs no kernel.

use std::{
    io::{Read as _, Write as _},
    os::{fd::RawFd, unix::net::UnixStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::*;
use crate::{
    report::{ConnectionList, Doctor, FindingDetail, Overview, Report, SCHEMA},
    samples,
    session::{Health, SessionError, Surroundings},
};

struct Fake {
    ended: Arc<AtomicBool>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}

impl worker::Source for Fake {
    fn wake_fd(&self) -> RawFd {
        -1
    }

    fn tick(&mut self) -> Result<Duration, SessionError> {
        Ok(Duration::from_secs(1))
    }

    fn report(&mut self) -> Result<Report, SessionError> {
        Ok(samples::report())
    }

    fn connections(&mut self, limit: usize) -> Result<ConnectionList, SessionError> {
        Ok(ConnectionList {
            schema: SCHEMA,
            connections: vec![],
            omitted: limit as u64,
            nodes: None,
        })
    }

    fn health(&self) -> Health {
        Health::default()
    }

    fn doctor(&self) -> Doctor {
        Surroundings::read(None).doctor()
    }
}

fn served() -> Served {
    Served {
        about: About {
            host: "node-a".to_owned(),
            watched: "every process".to_owned(),
        },
        labels: Labels::default(),
        ignore: Ignore::default(),
        destinations: Destinations::default(),
    }
}

fn get(socket: &Path, path: &str) -> Result<(u16, String), Box<dyn std::error::Error>> {
    let mut stream = UnixStream::connect(socket)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: tracer\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head")?;
    let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

#[test]
fn the_whole_interface_answers_and_ends_cleanly() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("tracer.sock");
    let ended = Arc::new(AtomicBool::new(false));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let bound = socket::bind(&path)?;
    let (end, asked_to_end) = tokio::sync::oneshot::channel::<()>();
    let client_path = path.clone();
    let fake = Fake {
        ended: ended.clone(),
    };
    let client = std::thread::spawn(move || -> Result<(), String> {
        let result = ask_everything(&client_path);
        let _ = end.send(());
        result.map_err(|e| e.to_string())
    });
    let asked_to_end = async {
        let _ = asked_to_end.await;
    };
    let start = move || Ok(fake);
    runtime.block_on(serve(bound, None, served(), start, asked_to_end))?;
    client.join().map_err(|_| "the client panicked")??;
    assert!(ended.load(Ordering::SeqCst), "the session was not ended");
    assert!(!path.exists(), "the socket file is still there");
    Ok(())
}

fn ask_everything(socket: &Path) -> Result<(), Box<dyn std::error::Error>> {
    while get(socket, "/readyz")?.0 != 200 {
        std::thread::yield_now();
    }
    assert_eq!(get(socket, "/healthz")?, (200, "ok\n".to_owned()));
    let (status, body) = get(socket, "/v1/report")?;
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<Report>(&body)?, samples::report());
    for id in ["3f9a1c2b4d5e6f70", "3f9a"] {
        let (status, body) = get(socket, &format!("/v1/findings/{id}"))?;
        assert_eq!(status, 200, "{body}");
        let detail: FindingDetail = serde_json::from_str(&body)?;
        assert_eq!(detail.finding, samples::finding());
        assert_eq!(detail.timeline.len(), 1);
    }
    let (status, body) = get(socket, "/v1/findings/ffff")?;
    assert_eq!((status, body.contains("ffff")), (404, true));
    let (_, body) = get(socket, "/v1/connections?limit=7")?;
    assert_eq!(serde_json::from_str::<ConnectionList>(&body)?.omitted, 7);
    assert_eq!(get(socket, "/v1/connections?limit=x")?.0, 400);
    let (_, body) = get(socket, "/v1/overview")?;
    let overview: Overview = serde_json::from_str(&body)?;
    assert_eq!(
        (overview.host.as_str(), overview.watched.as_str()),
        ("node-a", "every process")
    );
    assert_eq!(overview.timelines[0].id, samples::finding().id);
    assert_eq!(overview.timelines[0].points.len(), 1);
    let (_, body) = get(socket, "/v1/doctor")?;
    let doctor: Doctor = serde_json::from_str(&body)?;
    assert!(!doctor.capabilities.is_empty(), "{body}");
    let (status, body) = get(socket, "/metrics")?;
    assert_eq!(status, 200);
    assert!(body.contains("tracer_connections_open 832"), "{body}");
    assert_eq!(get(socket, "/nosuch")?.0, 404);
    Ok(())
}

#[test]
fn a_session_that_cannot_start_ends_the_daemon() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("tracer.sock");
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let bound = socket::bind(&path)?;
    let start = || Err::<Fake, _>(StartError::Unsupported("CAP_BPF is missing".to_owned()));
    let never = std::future::pending();
    let result = runtime.block_on(serve(bound, None, served(), start, never));
    assert!(matches!(
        result,
        Err(Error::Start(StartError::Unsupported(_)))
    ));
    assert!(!path.exists());
    Ok(())
}

/// A client over TCP that sends these bytes, and what it gets until the connection ends.
fn over_tcp(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    Ok(answer)
}

#[test]
fn over_tcp_strangers_get_metrics_only_and_cannot_keep_others_out()
-> Result<(), Box<dyn std::error::Error>> {
    const TOKEN: &str = "a-token-for-the-test";
    let directory = tempfile::tempdir()?;
    let token_file = directory.path().join("token");
    std::fs::write(&token_file, TOKEN)?;
    let bound = socket::bind(&directory.path().join("tracer.sock"))?;
    let tcp = listen("127.0.0.1:0".parse()?)?;
    let address = tcp.local_addr()?;
    let access = Access {
        token_file: Some(token_file),
        allowed_hosts: Vec::new(),
    };
    let (end, asked_to_end) = tokio::sync::oneshot::channel::<()>();
    let client = std::thread::spawn(move || -> Result<(), String> {
        let result = strangers(address, TOKEN);
        let _ = end.send(());
        result.map_err(|e| e.to_string())
    });
    let asked_to_end = async {
        let _ = asked_to_end.await;
    };
    let fake = Fake {
        ended: Arc::default(),
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let start = move || Ok(fake);
    let serving = serve(bound, Some((tcp, access)), served(), start, asked_to_end);
    runtime.block_on(serving)?;
    client.join().map_err(|_| "the client panicked")??;
    Ok(())
}

fn strangers(address: SocketAddr, token: &str) -> Result<(), Box<dyn std::error::Error>> {
    let ask = |path: &str, host: &str, more: &str| {
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n");
        over_tcp(address, &head)
    };
    let status = |answer: &str| answer.split(' ').nth(1).unwrap_or_default().to_owned();
    let own = address.to_string();
    while status(&ask("/readyz", &own, "")?) != "200" {
        std::thread::yield_now();
    }
    assert_eq!(status(&ask("/metrics", &own, "")?), "200");
    let refused = ask("/v1/report", &own, "")?;
    assert!(
        status(&refused) == "401" && refused.contains("--token-file"),
        "{refused}"
    );
    the_page_is_for_everybody(address)?;
    let bearer = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(status(&ask("/v1/report", &own, &bearer)?), "200");
    assert_eq!(status(&ask("/v1/report", "evil.example", &bearer)?), "421");
    let huge = ask("/v1/connections?limit=18446744073709551615", &own, &bearer)?;
    assert!(huge.contains("\"omitted\":10000"), "{huge}");
    let long = format!("X-Long: {}\r\n", "y".repeat(64 << 10));
    assert!(["431", ""].contains(&status(&ask("/metrics", &own, &long)?).as_str()));

    // Some begin a request and never end it; one address has sixteen places.
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = std::net::TcpStream::connect(address)?;
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ");
        slow.push(stream);
    }
    let began = std::time::Instant::now();
    // Those from elsewhere are served at once,
    let elsewhere = std::net::TcpStream::from(other_address(address)?);
    let answer = read_metrics(elsewhere)?;
    assert!(status(&answer) == "200" && began.elapsed() < Duration::from_secs(5));
    // and this address is, too, when the time for its heads is over.
    while status(&ask("/metrics", &own, "")?) != "200" {
        assert!(began.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Its files are; what it asks for needs the token, as always.
fn the_page_is_for_everybody(address: SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
    let ask = |method: &str, path: &str, more: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{more}");
        over_tcp(address, &format!("{head}Connection: close\r\n\r\n"))
    };
    let page = ask("GET", "/", "")?;
    assert!(page.starts_with("HTTP/1.1 200 ") && page.contains("<!doctype html>"));
    let (head, _) = page.split_once("\r\n\r\n").ok_or("no head")?;
    for line in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';",
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-cache",
    ] {
        assert!(head.contains(line), "{line} is missing:\n{head}");
    }
    let script = ask("GET", "/page/page.js", "")?;
    assert!(script.contains("content-type: text/javascript"), "{script}");
    let head_only = ask("HEAD", "/", "")?;
    assert_eq!(head_only.trim_end().lines().count(), head.lines().count());
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: "));
    let tag = tag.ok_or("no tag")?;
    let known = ask("GET", "/", &format!("If-None-Match: \"x\", W/{tag}\r\n"))?;
    assert!(known.starts_with("HTTP/1.1 304 ") && known.ends_with("\r\n\r\n"));
    assert!(ask("GET", "/", "If-None-Match: \"x\"\r\n")?.starts_with("HTTP/1.1 200 "));
    assert!(ask("POST", "/", "Content-Length: 0\r\n")?.starts_with("HTTP/1.1 405 "));
    assert!(ask("GET", "/v1/overview", "")?.starts_with("HTTP/1.1 401 "));
    Ok(())
}

fn read_metrics(mut stream: std::net::TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    Ok(answer)
}

/// A connection from another address of the loopback interface.
fn other_address(to: SocketAddr) -> std::io::Result<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from(([127, 0, 0, 9], 0)))?;
    connect(&socket, &to)?;
    Ok(socket)
}
