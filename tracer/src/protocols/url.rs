//! URLs: redacted, and as templates in which whatever varies between requests is `{}`.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::model::Family;

/// Stands for a query value or for whatever was cut off.
const HIDDEN: &str = "…";
/// Stands for a path segment that varies or may be secret.
const VARIABLE: &str = "{}";
/// Keys kept of one query.
const QUERY_KEYS_MAX: usize = 16;
/// Path segments kept of one target.
const SEGMENTS_MAX: usize = 32;
/// Longer keys are not names any more.
const KEY_BYTES_MAX: usize = 40;

/// Scheme of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS.
    Https,
}

/// Redacts a request target: query keys stay and their values become `…`; fragments go; path
/// segments that look secret (tokens, keys, anything with userinfo) become `{}`; bytes that are not
/// printable ASCII are percent-encoded. A target that was cut off ends in `…`.
#[must_use]
pub fn redact_target(target: &[u8], cut: bool) -> String {
    let target = match target.iter().position(|&b| b == b'#') {
        Some(fragment) => &target[..fragment],
        None => target,
    };
    let (path, query) = match target.iter().position(|&b| b == b'?') {
        Some(q) => (&target[..q], Some(&target[q + 1..])),
        None => (target, None),
    };
    if path == b"*" {
        return "*".to_owned();
    }
    let mut out = String::new();
    let mut segments = path.split(|&b| b == b'/');
    if path.first() == Some(&b'/') || (path.is_empty() && !cut) {
        segments.next();
        if path.is_empty() {
            out.push('/');
        }
    }
    for (i, segment) in segments.enumerate() {
        if path.is_empty() {
            break;
        }
        out.push('/');
        if i == SEGMENTS_MAX {
            out.push_str(HIDDEN);
            break;
        }
        out.push_str(&redact_segment(segment));
    }
    if let Some(query) = query {
        out.push('?');
        let pairs = query.split(|&b| matches!(b, b'&' | b';'));
        for (i, pair) in pairs.enumerate() {
            if i > 0 {
                out.push('&');
            }
            if i == QUERY_KEYS_MAX {
                out.push_str(HIDDEN);
                break;
            }
            out.push_str(&redact_pair(pair));
        }
    }
    if cut && !out.ends_with(HIDDEN) {
        out.push_str(HIDDEN);
    }
    out
}

fn redact_pair(pair: &[u8]) -> String {
    let (key, value) = match pair.iter().position(|&b| b == b'=') {
        Some(eq) => (&pair[..eq], true),
        None => (pair, false),
    };
    let name = printable(key);
    // A key that is no name may be a value that came without one.
    let named = key.len() <= KEY_BYTES_MAX && !secret(key) && !key.contains(&b'@');
    match (named, value) {
        (true, true) => format!("{name}={HIDDEN}"),
        (true, false) => name,
        (false, _) => HIDDEN.to_owned(),
    }
}

fn redact_segment(segment: &[u8]) -> String {
    if secret(segment) {
        return VARIABLE.to_owned();
    }
    // Matrix parameters (`;jsessionid=…`) are queries in disguise.
    match segment.iter().position(|&b| b == b';') {
        Some(semicolon) => {
            let mut out = printable(&segment[..semicolon]);
            for pair in segment[semicolon + 1..]
                .split(|&b| b == b';')
                .take(QUERY_KEYS_MAX)
            {
                out.push(';');
                out.push_str(&redact_pair(pair));
            }
            out
        }
        None => printable(segment),
    }
}

/// Looks like a credential: userinfo, JSON web token, long hexadecimal or base64.
fn secret(segment: &[u8]) -> bool {
    let at = segment.iter().position(|&b| b == b'@');
    let lower = segment.to_ascii_lowercase();
    let encoded_at = lower.windows(3).position(|w| w == b"%40");
    // `@scope/name` is a package; `user@host` is nobody's business.
    if at.or(encoded_at).is_some_and(|at| at > 0) {
        return true;
    }
    if segment.starts_with(b"eyJ") && segment.len() >= 16 {
        return true;
    }
    let hex = segment.iter().all(u8::is_ascii_hexdigit);
    if hex && segment.len() >= 32 {
        return true;
    }
    segment
        .split(|b| matches!(b, b'.' | b':' | b',' | b'='))
        .any(opaque)
}

/// Letters and digits without a word in them: at least 20 long, and either mixed in case with
/// digits, or switching between letters and digits all the time.
fn opaque(part: &[u8]) -> bool {
    if part.len() < 20 || part.iter().filter(|b| **b == b'-').count() * 6 > part.len() {
        return false;
    }
    let token = part
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'%' | b'~'));
    let has = |f: fn(&u8) -> bool| part.iter().any(f);
    let digits = part.iter().filter(|b| b.is_ascii_digit()).count();
    let mixed =
        has(u8::is_ascii_digit) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
    token && (mixed || digits * 5 >= part.len())
}

fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &b in bytes {
        match b {
            b'!'..=b'~' => out.push(char::from(b)),
            _ => {
                let _ = write!(out, "%{b:02X}");
            }
        }
    }
    out
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

/// 8-4-4-4-12 hexadecimal digits (RFC 9562).
fn uuid(bytes: &[u8]) -> bool {
    bytes.len() == 36
        && bytes.iter().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => *b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
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

    use super::*;

    #[test]
    fn redaction() {
        for (given, expected) in [
            ("/v2/app/tags/list", "/v2/app/tags/list"),
            ("", "/"),
            ("/", "/"),
            ("/a//b/", "/a//b/"),
            ("/a?x=1&y=2#frag", "/a?x=…&y=…"),
            ("/a?", "/a?"),
            ("/a?flag", "/a?flag"),
            ("/a?a=b=c", "/a?a=…"),
            ("/a;jsessionid=AB12/b", "/a;jsessionid=…/b"),
            ("/u/me@example.com", "/u/{}"),
            ("/@angular/core", "/@angular/core"),
            ("/t/eyJhbGciOiJIUzI1NiJ9.e30.abc", "/t/{}"),
            ("/k/0123456789abcdef0123456789abcdef", "/k/{}"),
            ("/hook/T024BE7LDx9mQwErTyUiOp", "/hook/{}"),
            (
                "/v1/repos/kubernetes-sigs/aws-load-balancer-controller",
                "/v1/repos/kubernetes-sigs/aws-load-balancer-controller",
            ),
            ("/a?deadbeefdeadbeefdeadbeefdeadbeef", "/a?…"),
            ("/sp ace", "/sp%20ace"),
            ("/\u{e9}", "/%C3%A9"),
        ] {
            assert_eq!(redact_target(given.as_bytes(), false), expected, "{given}");
        }
        assert_eq!(redact_target(b"/a?tok=ab", true), "/a?tok=…");
        assert_eq!(redact_target(b"/a/b", true), "/a/b…");
    }

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
        fn any_bytes_become_printable(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in any::<bool>()) {
            let out = redact_target(&bytes, cut);
            prop_assert!(out.chars().all(|c| ('!'..='~').contains(&c) || c == '…'), "{out}");
            let once = template(&out);
            prop_assert_eq!(template(&once), once);
        }

        #[test]
        fn no_query_value_and_no_userinfo_survives(
            path in "(/[a-z]{0,8}){0,4}",
            key in "[a-z_]{1,10}",
            value in "QQ[ -~]{0,30}",
            user in "QQ[a-z0-9]{0,9}",
        ) {
            let value = value.replace(['&', ';', '#'], "=");
            let target = format!("{path}/{user}:QQpw@h/x;p={user}?{key}={value}&{key}={value}");
            let out = redact_target(target.as_bytes(), false);
            prop_assert!(!out.contains("QQ"), "{} -> {}", target, out);
            let keyed = format!("{key}=…");
            prop_assert!(out.contains(&keyed), "{}", out);
        }
    }
}
