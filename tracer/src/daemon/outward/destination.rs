//! Where events go: an address of HTTP without TLS.

use std::{fmt, str::FromStr};

use hyper::{Uri, http::uri::Authority};
use thiserror::Error;

/// Path below a collector's address for logs (OTLP specification, OTLP/HTTP request).
const LOGS: &str = "/v1/logs";

/// Why a text is nowhere to send to.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum DestinationError {
    /// Encryption.
    #[error("asks for TLS, which tracer does not speak; send to a proxy or collector on the node")]
    Tls,
    /// Credentials would go out unencrypted, and into logs.
    #[error("has a user or password in it, which would go out unencrypted")]
    Credentials,
    /// Anything else.
    #[error("is no address to send to; write http://HOST:PORT/PATH")]
    Nowhere,
}

/// `http://HOST[:PORT][/PATH]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    authority: Authority,
    /// Path and query.
    target: String,
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Destination, DestinationError> {
        let uri: Uri = text.parse().map_err(|_| DestinationError::Nowhere)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(DestinationError::Tls),
            _ => return Err(DestinationError::Nowhere),
        }
        let authority = uri.authority().ok_or(DestinationError::Nowhere)?.clone();
        if authority.as_str().contains('@') {
            return Err(DestinationError::Credentials);
        }
        let has_port = authority.as_str().len() > authority.host().len();
        let port_is_sound = !has_port || authority.port_u16().is_some_and(|port| port != 0);
        if authority.host().is_empty() || !port_is_sound {
            return Err(DestinationError::Nowhere);
        }
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        Ok(Destination {
            authority,
            target: target.to_owned(),
        })
    }
}

impl fmt::Display for Destination {
    /// Without path and query, which may hold what is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

impl Destination {
    /// The same for logs: a collector's address without a path means its path for them.
    #[must_use]
    pub fn for_logs(mut self) -> Destination {
        if self.target == "/" {
            LOGS.clone_into(&mut self.target);
        }
        self
    }

    /// Host and port as a request names them.
    pub(super) fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// What to connect to.
    pub(super) fn address(&self) -> (&str, u16) {
        let host = self.authority.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        (bare, self.authority.port_u16().unwrap_or(80))
    }

    /// What to ask for.
    pub(super) fn target(&self) -> &str {
        &self.target
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_http_s() {
        let parse = |text: &str| text.parse::<Destination>();
        let hook = parse("http://hooks.shop.test:8080/tracer?team=shop").unwrap();
        assert_eq!(hook.address(), ("hooks.shop.test", 8080));
        assert_eq!(hook.target(), "/tracer?team=shop");
        assert_eq!(hook.to_string(), "http://hooks.shop.test:8080");
        assert_eq!(parse("http://[::1]").unwrap().address(), ("::1", 80));
        let collector = parse("http://127.0.0.1:4318").unwrap();
        assert_eq!(collector.clone().for_logs().target(), "/v1/logs");
        assert_eq!(hook.clone().for_logs(), hook);
        assert_eq!(
            parse("https://hooks.shop.test/"),
            Err(DestinationError::Tls)
        );
        assert_eq!(
            parse("http://me:secret@shop.test/"),
            Err(DestinationError::Credentials)
        );
        for text in [
            "",
            "shop.test",
            "/path",
            "ftp://a/",
            "http:///x",
            "http://a:0/",
            "http://a:99999/",
        ] {
            assert_eq!(parse(text), Err(DestinationError::Nowhere), "{text}");
        }
    }
}
