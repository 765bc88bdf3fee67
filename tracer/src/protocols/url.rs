//! URLs: redacted, and as templates in which whatever varies between requests is `{}`.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{
    Service,
    redact::{VARIABLE, secret, uuid},
};
use crate::model::Family;

/// Scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
    /// Another protocol. A target is the name of a database.
    Of(Service),
}

impl Scheme {
    /// That of a URL.
    #[must_use]
    pub fn of_url(url: &str) -> Scheme {
        let name = url.split_once("://").map_or("", |(scheme, _)| scheme);
        let name = name.strip_suffix("+unix").unwrap_or(name);
        match Service::named(name) {
            Some(service) => Scheme::Of(service),
            None if name == "https" => Scheme::Https,
            None => Scheme::Http,
        }
    }
}

/// The template of a redacted target: path segments that vary (numbers, UUIDs, hashes, long or
/// digit-laden names) become `{}`. Applying it twice changes nothing.
#[must_use]
pub fn template(redacted: &str) -> String {
    let (path, query) = match redacted.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (redacted, None),
    };
    let mut out = String::with_capacity(redacted.len());
    for (i, segment) in path.split('/').enumerate() {
        if i > 0 {
            out.push('/');
        }
        if varies(segment) {
            out.push_str(VARIABLE);
        } else {
            out.push_str(segment);
        }
    }
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
    out
}

fn varies(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    if bytes.is_empty() || segment == VARIABLE {
        return false;
    }
    let digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
    if digits == bytes.len() || uuid(bytes) || secret(bytes) || bytes.len() > 64 {
        return true;
    }
    let hex = bytes.iter().all(u8::is_ascii_hexdigit);
    if hex && (bytes.len() >= 16 || (bytes.len() >= 6 && digits > 0)) {
        return true;
    }
    // `order-20931`, `img_004711.jpg`; but not `v2`, `http2`, `2024-10`.
    let run = bytes
        .split(|b| !b.is_ascii_digit())
        .map(<[u8]>::len)
        .max()
        .unwrap_or(0);
    run >= 4
}

/// The whole URL of a redacted target or template. Without a host of its own the address stands
/// in: `http://127.0.0.1:8080/v2/{}`; for a UNIX socket its path, percent-encoded, in the form
/// that curl-like clients use: `http+unix://%2Fvar%2Frun%2Fdocker.sock/v1.43/info`.
#[must_use]
pub fn url(
    scheme: Scheme,
    family: Family,
    address: &str,
    host: Option<&str>,
    target: &str,
) -> String {
    let slash = match target.chars().next() {
        None | Some('/') => "",
        Some(_) => "/",
    };
    format!("{}{slash}{target}", origin(scheme, family, address, host))
}

/// Scheme and authority of [`url()`], all that is known of a TLS connection.
#[must_use]
pub fn origin(scheme: Scheme, family: Family, address: &str, host: Option<&str>) -> String {
    let (name, default_port) = match scheme {
        Scheme::Http => ("http", ":80"),
        Scheme::Https => ("https", ":443"),
        // always with its port
        Scheme::Of(service) => (service.name(), "/"),
    };
    if family == Family::Unix {
        let mut out = format!("{name}+unix://");
        for b in address.bytes() {
            match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => {
                    out.push(char::from(b));
                }
                _ => {
                    let _ = write!(out, "%{b:02X}");
                }
            }
        }
        return out;
    }
    let authority = match host {
        Some(host) => host,
        None => address,
    };
    if let (Scheme::Of(_), Some(host), Some((_, port))) = (scheme, host, address.rsplit_once(':'))
        && !host.contains(':')
    {
        return format!("{name}://{host}:{port}");
    }
    let authority = match authority.strip_suffix(default_port) {
        // Not the end of a bare IPv6 address.
        Some(short) if !short.contains(':') || short.ends_with(']') => short,
        _ => authority,
    };
    format!("{name}://{authority}")
}

/// An example as findings show it: `GET http://127.0.0.1:8080/v2/app/tags/list`.
#[must_use]
pub fn example(method: &str, url: &str) -> String {
    format!("{method} {url}")
}

/// Whether a host (with or without port) is an address rather than a name.
#[must_use]
pub fn is_ip_literal(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => match host.rsplit_once(':') {
            Some((name, port))
                if port.bytes().all(|b| b.is_ascii_digit()) && !name.contains(':') =>
            {
                name
            }
            _ => host,
        },
    };
    bare.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::redact::redact_target, *};

    #[test]
    fn templates() {
        for (given, expected) in [
            ("/v2/app/tags/list", "/v2/app/tags/list"),
            ("/users/42/orders/order-20931", "/users/{}/orders/{}"),
            ("/o/7d444840-9dc0-11d1-b245-5ffdce74fad2", "/o/{}"),
            ("/c/deadbeef1", "/c/{}"),
            ("/cafe/decade", "/cafe/decade"),
            (
                "/blobs/sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                "/blobs/{}",
            ),
            ("/a?x=…&page=…", "/a?x=…&page=…"),
            ("/", "/"),
            ("*", "*"),
        ] {
            assert_eq!(template(given), expected, "{given}");
        }
    }

    #[test]
    fn whole_urls() {
        let tcp = |scheme, address: &str, host, target: &str| {
            url(scheme, Family::Tcp4, address, host, target)
        };
        assert_eq!(
            tcp(Scheme::Http, "127.0.0.1:8080", None, "/v2/app"),
            "http://127.0.0.1:8080/v2/app"
        );
        assert_eq!(
            tcp(
                Scheme::Https,
                "10.0.0.7:443",
                Some("api.example.com:443"),
                "/x"
            ),
            "https://api.example.com/x"
        );
        assert_eq!(tcp(Scheme::Http, "[::1]:80", None, "/"), "http://[::1]/");
        assert_eq!(tcp(Scheme::Http, "h:80", Some("h"), "*"), "http://h/*");
        assert_eq!(
            url(
                Scheme::Http,
                Family::Unix,
                "/var/run/docker.sock",
                Some("docker"),
                "/v1.43/info"
            ),
            "http+unix://%2Fvar%2Frun%2Fdocker.sock/v1.43/info"
        );
        assert_eq!(
            url(Scheme::Http, Family::Unix, "@name", None, ""),
            "http+unix://%40name"
        );
    }

    #[test]
    fn addresses_are_told_from_names() {
        for ip in ["127.0.0.1", "127.0.0.1:80", "[::1]:80", "[::1]", "::1"] {
            assert!(is_ip_literal(ip), "{ip}");
        }
        for name in ["localhost", "localhost:80", "a.b", "1.2.3.4.example:8", ""] {
            assert!(!is_ip_literal(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_template_is_its_own_template(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in any::<bool>()) {
            let once = template(&redact_target(&bytes, cut));
            prop_assert_eq!(template(&once), once);
        }
    }
}
