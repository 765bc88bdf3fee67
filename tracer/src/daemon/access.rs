//! Who may ask what over TCP.
//!
//! `/metrics`, `/healthz`, `/readyz` and the files of the page are for everybody who can reach the
//! port; all else, the page's data too, needs a token from the token file. Names that a request may be addressed to are few, so that a web page
//! can't have its visitor's browser ask in its place (DNS rebinding). The local socket is its
//! owner's alone and asks for nothing.

use std::{
    fs, io,
    io::Read as _,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use thiserror::Error;

use super::{api::problem, page, routes};
use crate::refused::Refusal;

/// Header for the token where a proxy on the way keeps `Authorization` for itself, as an API server
/// does.
pub const TOKEN_HEADER: &str = "x-tracer-token";
/// Shorter tokens can be guessed.
const TOKEN_BYTES_MIN: usize = 16;
/// Larger files are no token files.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Names under these are a cluster's own: nobody outside can have them.
const OWN_DOMAINS: [&str; 2] = [".svc", ".cluster.local"];

/// Why a token file can't be used.
#[derive(Debug, Error)]
pub enum TokenError {
    /// It can't be read.
    #[error("the token file {path} can't be read: {error}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Nothing in it can be a token.
    #[error(
        "the token file {0} has no token: write one a line, each of {TOKEN_BYTES_MIN} characters \
         or more, such as `head -c 32 /dev/urandom | base64` prints"
    )]
    None(String),
    /// A line of it is too short.
    #[error("a token in {0} is shorter than {TOKEN_BYTES_MIN} characters: it could be guessed")]
    Short(String),
}

/// What is asked for over TCP.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// File with the tokens that open the API, one a line; without, it is closed. It is read for
    /// each request, so that a token can be replaced while the daemon runs.
    pub token_file: Option<PathBuf>,
    /// Names that requests may be addressed to, besides addresses and the host's own.
    pub allowed_hosts: Vec<String>,
}

/// The tokens in a file.
///
/// # Errors
/// [`TokenError`].
pub fn read_tokens(path: &Path) -> Result<Vec<String>, TokenError> {
    let name = || path.display().to_string();
    let failed = |error| TokenError::Read {
        path: name(),
        error,
    };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(failed)?;
    // it may be a device without end
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    if read.map_err(failed)? as u64 > FILE_BYTES_MAX {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let tokens: Vec<String> = lines.map(str::to_owned).collect();
    if tokens.is_empty() {
        return Err(TokenError::None(name()));
    }
    if tokens.iter().any(|token| token.len() < TOKEN_BYTES_MIN) {
        return Err(TokenError::Short(name()));
    }
    Ok(tokens)
}

/// Lets through what may be asked, and answers the rest.
pub(super) async fn guard(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
    match access.refuse(request.uri().path(), request.headers()) {
        None => next.run(request).await,
        Some(refusal) => {
            match refusal.status() {
                StatusCode::UNAUTHORIZED => Refusal::ClientToken.count(),
                _ => Refusal::ClientHost.count(),
            }
            refusal
        }
    }
}

impl Access {
    fn refuse(&self, path: &str, headers: &HeaderMap) -> Option<Response> {
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
        if !host.is_some_and(|host| self.is_own(host)) {
            let message = "the request is addressed to a host that this daemon does not know \
                           itself by; ask by address, or allow the name with --allow-host";
            return Some(problem(StatusCode::MISDIRECTED_REQUEST, message));
        }
        if routes::is_open(path) || page::has(path) {
            return None;
        }
        let unauthorized = |tokens: &str, message: &str| {
            // the page asks for a token only where one would help
            let text = serde_json::json!({ "error": message, "tokens": tokens }).to_string();
            let kind = (header::CONTENT_TYPE, "application/json");
            let bearer = (header::WWW_AUTHENTICATE, "Bearer");
            Some((StatusCode::UNAUTHORIZED, [kind, bearer], text).into_response())
        };
        let Some(file) = &self.token_file else {
            return unauthorized(
                "none",
                "over TCP there are only /metrics, /healthz and /readyz without a token: start the \
                 daemon with --token-file FILE and ask with the same option, or ask on its socket",
            );
        };
        let tokens = match read_tokens(file) {
            Ok(tokens) => tokens,
            Err(error) => {
                tracing::warn!("{error}");
                let message = "the daemon's token file can't be used; its log says why";
                return unauthorized("none", message);
            }
        };
        let given = given(headers);
        let known = given.is_some_and(|given| {
            // All are compared, so that the time taken tells nothing.
            tokens
                .iter()
                .fold(false, |known, token| known | same(token, given))
        });
        match known {
            true => None,
            false => unauthorized(
                "wanted",
                "this needs a token: `Authorization: Bearer TOKEN` or `X-Tracer-Token: TOKEN`; \
                 tracer's commands take --token-file FILE",
            ),
        }
    }

    /// Whether a request addressed so is meant for this daemon: an address (what a browser was lured
    /// to by a name can't say one), this host's name, a name in the cluster, or one that is allowed.
    fn is_own(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        if bare.parse::<IpAddr>().is_ok() {
            return true;
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let own = rustix::system::uname();
        name == "localhost"
            || own
                .nodename()
                .to_str()
                .is_ok_and(|own| own.eq_ignore_ascii_case(&name))
            || OWN_DOMAINS.iter().any(|domain| name.ends_with(domain))
            || self
                .allowed_hosts
                .iter()
                .any(|host| host.eq_ignore_ascii_case(&name))
    }
}

fn given(headers: &HeaderMap) -> Option<&str> {
    if let Some(token) = headers.get(TOKEN_HEADER) {
        return token.to_str().ok().map(str::trim);
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

/// Compares in a time that depends on the lengths only.
fn same(token: &str, given: &str) -> bool {
    let differ = token
        .bytes()
        .zip(given.bytes())
        .fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(differ) == 0 && token.len() == given.len()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef-token";

    fn headers(host: &str, more: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        for (name, value) in more {
            headers.insert(*name, value.parse().unwrap());
        }
        headers
    }

    fn status(access: &Access, path: &str, headers: &HeaderMap) -> u16 {
        access
            .refuse(path, headers)
            .map_or(200, |r| r.status().as_u16())
    }

    #[test]
    fn without_a_token_file_only_metrics_and_probes_are_served() {
        let access = Access::default();
        let asked = headers("10.0.0.7:9090", &[("authorization", "Bearer x")]);
        for path in ["/metrics", "/healthz", "/readyz", "/", "/page/page.js"] {
            assert_eq!(status(&access, path, &asked), 200, "{path}");
        }
        for path in [
            "/v1/report",
            "/v1/connections",
            "/v1/overview",
            "/page",
            "/page/",
            "/metrics/../v1/report",
        ] {
            assert_eq!(status(&access, path, &asked), 401, "{path}");
        }
    }

    #[test]
    fn a_token_opens_the_rest_and_can_be_replaced() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, format!("{TOKEN}\n\nanother-token-of-mine\n")).unwrap();
        let access = Access {
            token_file: Some(file.path().to_owned()),
            ..Access::default()
        };
        let ask = |more: &[(&'static str, &str)]| {
            status(&access, "/v1/report", &headers("localhost", more))
        };
        assert_eq!(ask(&[]), 401);
        assert_eq!(ask(&[("authorization", &format!("Bearer {TOKEN}"))]), 200);
        assert_eq!(ask(&[("authorization", &format!("bearer {TOKEN}"))]), 200);
        assert_eq!(ask(&[("authorization", TOKEN)]), 401);
        assert_eq!(ask(&[(TOKEN_HEADER, "another-token-of-mine")]), 200);
        assert_eq!(ask(&[(TOKEN_HEADER, &TOKEN[..TOKEN.len() - 1])]), 401);
        assert_eq!(ask(&[(TOKEN_HEADER, &format!("{TOKEN}x"))]), 401);
        assert_eq!(ask(&[(TOKEN_HEADER, "")]), 401);
        fs::write(&file, "the-token-of-tomorrow").unwrap();
        assert_eq!(ask(&[(TOKEN_HEADER, TOKEN)]), 401);
        assert_eq!(ask(&[(TOKEN_HEADER, "the-token-of-tomorrow")]), 200);
        drop(file);
        assert_eq!(ask(&[(TOKEN_HEADER, "the-token-of-tomorrow")]), 401);
    }

    #[test]
    fn token_files_that_protect_nothing_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = || read_tokens(file.path()).map_err(|e| e.to_string());
        assert!(read().unwrap_err().contains("no token"));
        fs::write(&file, "short\n").unwrap();
        assert!(read().unwrap_err().contains("guessed"));
        assert!(
            read_tokens(Path::new("/no/such"))
                .unwrap_err()
                .to_string()
                .contains("/no/such")
        );
    }

    #[test]
    fn a_name_that_is_not_ours_is_not_served() {
        let access = Access {
            allowed_hosts: vec!["tracer.example.org".to_owned()],
            ..Access::default()
        };
        for host in [
            "127.0.0.1:9090",
            "[::1]:9090",
            "10.2.3.4",
            "localhost:9090",
            "tracer.monitoring.svc:9090",
            "tracer.monitoring.svc.cluster.local",
            "Tracer.Example.org:9090",
        ] {
            assert_eq!(
                status(&access, "/metrics", &headers(host, &[])),
                200,
                "{host}"
            );
        }
        for host in ["evil.example", "127.0.0.1.evil.example:9090", "", "svc"] {
            assert_eq!(
                status(&access, "/metrics", &headers(host, &[])),
                421,
                "{host}"
            );
        }
        assert_eq!(status(&access, "/metrics", &HeaderMap::new()), 421);
    }
}
