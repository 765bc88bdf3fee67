//! A client of one request, for the daemon's and Prometheus' HTTP interfaces.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Head, in lower case.
    pub head: String,
    /// Body.
    pub body: String,
}

/// Gets `path` from `endpoint`: `HOST:PORT`, or a socket path that begins with `/`. Over TCP the
/// request is addressed to the endpoint.
///
/// # Errors
/// When nobody answers, or not with HTTP.
pub fn get(endpoint: &str, path: &str) -> Result<Answer> {
    let host = match endpoint.starts_with('/') {
        true => "tracer",
        false => endpoint,
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let limit = Some(Duration::from_secs(20));
    let text = if endpoint.starts_with('/') {
        let stream = UnixStream::connect(endpoint).with_context(|| endpoint.to_owned())?;
        stream.set_read_timeout(limit)?;
        exchange(stream, &request)
    } else {
        let stream = TcpStream::connect(endpoint).with_context(|| endpoint.to_owned())?;
        stream.set_read_timeout(limit)?;
        exchange(stream, &request)
    }?;
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the head")?;
    let head = head.to_ascii_lowercase();
    ensure!(
        !head.contains("transfer-encoding: chunked"),
        "an answer in chunks: {head}"
    );
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Answer {
        status,
        head,
        body: body.to_owned(),
    })
}

/// Sends all, reads all.
fn exchange(mut stream: impl Read + Write, request: &str) -> Result<String> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    // bodies that are no text are of no interest
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
