//! Asking a daemon: HTTP over its UNIX socket or over TCP.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::{Request, Response, StatusCode, body::Body, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::{Failure, units};
use crate::daemon::{SOCKET_DEFAULT, access};

/// Where a daemon is, or several by one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A UNIX socket.
    Unix(PathBuf),
    /// `HOST:PORT`, and the token to ask with. A name of several addresses is asked at each.
    Tcp(String, Option<Token>),
    /// The same, said to stand for all that its name resolves to.
    All(String, Option<Token>),
}

/// What opens a daemon's API over TCP.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub(super) String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// The first token of a file.
    ///
    /// # Errors
    /// [`Failure`] (status 2) when there is none.
    pub fn read(path: &Path) -> Result<Token, Failure> {
        let tokens = access::read_tokens(path).map_err(|e| Failure::usage(e.to_string()))?;
        let first = tokens.into_iter().next().unwrap_or_default();
        Ok(Token(first))
    }

    /// The first token of such a file's text.
    #[must_use]
    pub fn first(text: &str) -> Option<Token> {
        let first = text.lines().map(str::trim).find(|line| !line.is_empty());
        first.map(|first| Token(first.to_owned()))
    }
}

impl Endpoint {
    /// Parses `unix:PATH`, a path with a `/`, `http://HOST:PORT`, `HOST:PORT` or `dns:NAME:PORT`.
    ///
    /// # Errors
    /// [`Failure`] (status 2) saying what is accepted.
    pub fn parse(text: &str) -> Result<Endpoint, Failure> {
        let wrong = |what: &str| {
            Failure::usage(format!(
                "the endpoint `{text}` {what}; write a socket path, HOST:PORT, http://HOST:PORT or \
                 dns:NAME:PORT"
            ))
        };
        if let Some(path) = text.strip_prefix("unix://").or(text.strip_prefix("unix:")) {
            return Ok(Endpoint::Unix(PathBuf::from(path)));
        }
        if text.starts_with("https://") {
            return Err(wrong("asks for TLS, which the daemon does not speak"));
        }
        let named = text.strip_prefix("dns://").or(text.strip_prefix("dns:"));
        let address = match named.or(text.strip_prefix("http://")) {
            Some(rest) => rest.trim_end_matches('/'),
            None if text.contains('/') => return Ok(Endpoint::Unix(PathBuf::from(text))),
            None => text,
        };
        let (host, port) = address
            .rsplit_once(':')
            .ok_or_else(|| wrong("has no port"))?;
        let host_is_sound = !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_graphic() && !"/@?#".contains(c))
            && (!host.contains(':') || (host.starts_with('[') && host.ends_with(']')));
        if !host_is_sound || !port.parse::<u16>().is_ok_and(|port| port != 0) {
            return Err(wrong("is no address"));
        }
        let address = address.to_owned();
        Ok(match named {
            Some(_) => Endpoint::All(address, None),
            None => Endpoint::Tcp(address, None),
        })
    }

    /// All endpoints that were given, or the local socket; those over TCP are asked with the token
    /// of the file.
    ///
    /// # Errors
    /// As [`Endpoint::parse`]; when the file has no token.
    pub fn all(given: &[String], token_file: Option<&Path>) -> Result<Vec<Endpoint>, Failure> {
        let given: Vec<&str> = given.iter().map(|text| text.trim()).collect();
        let endpoints: Result<Vec<_>, _> = given
            .into_iter()
            .filter(|text| !text.is_empty())
            .map(Endpoint::parse)
            .collect();
        let mut endpoints = endpoints?;
        if let Some(file) = token_file {
            let known = Token::read(file)?;
            for endpoint in &mut endpoints {
                if let Endpoint::Tcp(_, token) | Endpoint::All(_, token) = endpoint {
                    *token = Some(known.clone());
                }
            }
        }
        if endpoints.is_empty() {
            endpoints.push(Endpoint::Unix(PathBuf::from(SOCKET_DEFAULT)));
        }
        Ok(endpoints)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
            Endpoint::Tcp(address, _) => write!(f, "http://{address}"),
            Endpoint::All(address, _) => write!(f, "dns:{address}"),
        }
    }
}

/// Why a daemon gave no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// It took longer than that.
    #[error("no answer within {}", units::duration(.0.as_secs_f64()))]
    Silent(Duration),
    /// It took much longer than the others, which is that long.
    #[error(
        "no answer within {}, when nearly all others had theirs; --timeout waits longer",
        units::duration(.0.as_secs_f64())
    )]
    Late(Duration),
    /// There was no time left to ask it.
    #[error("not asked within the {} that there are for all; --timeout gives more", units::duration(.0.as_secs_f64()))]
    NotAsked(Duration),
    /// Its name has no address.
    #[error("cannot resolve the name: {0}")]
    NoAddress(io::Error),
    /// Nobody listens on the socket.
    #[error(
        "no daemon serves this socket; start one with `tracer daemon`, or name one with --endpoint"
    )]
    NoSocket,
    /// The socket is not ours to use.
    #[error("only root may use this socket; run the command as root")]
    NotAllowed,
    /// Anything else on the way.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// It ended amid the talk.
    #[error("the connection broke: {0}")]
    Broke(hyper::Error),
    /// The path or token can't be sent.
    #[error("the request makes no sense: {0}")]
    Request(hyper::http::Error),
    /// More bytes than are taken.
    #[error("its answer is longer than {} MiB", .0 >> 20)]
    TooLong(usize),
    /// It ended amid the answer.
    #[error("the answer broke off: {0}")]
    BrokeOff(Box<dyn std::error::Error + Send + Sync>),
    /// Not the JSON of this version.
    #[error("its answer is not understood ({0}); are both of the same version?")]
    NotUnderstood(serde_json::Error),
    /// Not the answer of a daemon.
    #[error("it answers with status {0}; is it a tracer daemon?")]
    Foreign(StatusCode),
    /// The daemon's own words.
    #[error("{1}")]
    Refused(StatusCode, String),
    /// Its pod does not run.
    #[error("{0}")]
    NotRunning(String),
    /// The cluster does not let it be asked; the API server's words.
    #[error("{0}")]
    Cluster(String),
}

/// Asks one daemon; the answer's body, of at most so many bytes.
///
/// # Errors
/// [`AskError`], but for those about time.
pub async fn fetch(endpoint: &Endpoint, path: &str, most: usize) -> Result<Bytes, AskError> {
    match endpoint {
        Endpoint::Unix(socket) => {
            let stream = UnixStream::connect(socket).await;
            exchange(stream.map_err(no_socket)?, "tracer", None, path, most).await
        }
        Endpoint::Tcp(address, token) | Endpoint::All(address, token) => {
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(AskError::Connect)?;
            exchange(stream, address, token.as_ref(), path, most).await
        }
    }
}

fn no_socket(error: io::Error) -> AskError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NoSocket,
        io::ErrorKind::PermissionDenied => AskError::NotAllowed,
        _ => AskError::Connect(error),
    }
}

async fn exchange<S>(
    stream: S,
    host: &str,
    token: Option<&Token>,
    path: &str,
    most: usize,
) -> Result<Bytes, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = AskError::Broke;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // The request's own error says what went wrong.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut request = Request::get(path).header(header::HOST, host);
    if let Some(Token(token)) = token {
        request = request.header(access::TOKEN_HEADER, token);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(AskError::Request)?;
    let response = sender.send_request(request).await.map_err(broken)?;
    body(response, most).await
}

/// The body of an answer, of at most so many bytes.
///
/// # Errors
/// [`AskError`] when it breaks off, is too long, or is a refusal.
pub async fn body<B>(response: Response<B>, most: usize) -> Result<Bytes, AskError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let status = response.status();
    let body = Limited::new(response.into_body(), most).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => AskError::TooLong(most),
        false => AskError::BrokeOff(error),
    })?;
    let body = body.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    Err(match serde_json::from_slice(&body) {
        Ok(Problem::Daemons { error }) => AskError::Refused(status, error),
        Ok(Problem::Kubernetes { message }) => AskError::Cluster(message),
        Err(_) => AskError::Foreign(status),
    })
}

/// A refusal in JSON, by whose it is.
#[derive(Deserialize)]
#[serde(untagged)]
enum Problem {
    Daemons { error: String },
    Kubernetes { message: String },
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn endpoints_are_paths_or_addresses() {
        let unix = |path: &str| Endpoint::Unix(PathBuf::from(path));
        let tcp = |address: &str| Endpoint::Tcp(address.to_owned(), None);
        let all = |address: &str| Endpoint::All(address.to_owned(), None);
        for (text, expected) in [
            ("/run/x.sock", unix("/run/x.sock")),
            ("./x.sock", unix("./x.sock")),
            ("unix:/run/x.sock", unix("/run/x.sock")),
            ("unix:///run/x.sock", unix("/run/x.sock")),
            ("node-1:9090", tcp("node-1:9090")),
            ("http://10.0.0.7:9090/", tcp("10.0.0.7:9090")),
            ("[::1]:9090", tcp("[::1]:9090")),
            ("dns:tracer.tracer.svc:9464", all("tracer.tracer.svc:9464")),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "node",
            "node:",
            "node:0",
            "node:http",
            "https://a:1",
            "::1:9090",
            "a b:1",
            "dns:",
            "dns:tracer",
        ] {
            assert_eq!(Endpoint::parse(text).unwrap_err().status, 2, "{text}");
        }
    }

    #[test]
    fn without_endpoints_the_local_socket_is_asked() {
        assert_eq!(
            Endpoint::all(&[String::new()], None).unwrap(),
            [Endpoint::Unix(PathBuf::from(SOCKET_DEFAULT))]
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*|[a-z:/\\[\\]0-9@]{0,30}") {
            let _ = Endpoint::parse(&text);
        }
    }
}
