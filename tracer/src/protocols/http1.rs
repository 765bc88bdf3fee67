//! The head of an HTTP/1 request (RFC 9112 section 3), or its first bytes.
//!
//! Not by `httparse`: these bytes end anywhere, and of a head that is cut it says no more than that
//! it is, neither method nor target nor which of both is whole.

use super::{redact::redact_target, request::RequestHead};

/// Methods believed without seeing the version at the line's end (IANA's registry, the common
/// part).
const METHODS: [&str; 17] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
];
const METHOD_BYTES_MAX: usize = 20;
const HOST_BYTES_MAX: usize = 253 + 6;

/// Reads the head of a request; the bytes may be cut off anywhere.
pub(super) fn read(bytes: &[u8]) -> Option<RequestHead> {
    let space = bytes
        .iter()
        .take(METHOD_BYTES_MAX + 1)
        .position(|&b| b == b' ')?;
    let method = std::str::from_utf8(&bytes[..space]).ok()?;
    if method.is_empty() || !method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
        return None;
    }
    let rest = &bytes[space + 1..];
    let end = rest.iter().position(|&b| matches!(b, b' ' | b'\r' | b'\n'));
    let (target, cut) = match end {
        Some(end) => {
            let version = &rest[end..];
            let whole = b" HTTP/1.";
            let n = version.len().min(whole.len());
            if version[..n] != whole[..n] {
                return None;
            }
            (&rest[..end], n < whole.len() && !METHODS.contains(&method))
        }
        None => (rest, true),
    };
    if end.is_none() && !METHODS.contains(&method) {
        return None;
    }
    if cut && end.is_some() {
        return None;
    }
    let connect = method == "CONNECT";
    let (authority, path) = split_target(target, connect)?;
    let host = match authority {
        // The authority of an absolute target is whole only when something follows it.
        Some(a) if !cut || path.is_some_and(|p| !p.is_empty()) => host(a),
        Some(_) => None,
        None => host_header(rest),
    };
    Some(RequestHead {
        method: method.to_owned(),
        target: match path {
            Some(path) => redact_target(path, cut),
            None => String::new(),
        },
        host,
        cut,
    })
}

/// Authority (absolute and authority forms) and path with query.
type Parts<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Takes a target apart; `None` when it is none.
fn split_target(target: &[u8], connect: bool) -> Option<Parts<'_>> {
    if connect {
        return Some((Some(target), None));
    }
    if target.first() == Some(&b'/') || target == b"*" {
        return Some((None, Some(target)));
    }
    let lower: Vec<u8> = target.iter().take(8).map(u8::to_ascii_lowercase).collect();
    let skip = [&b"http://"[..], b"https://"]
        .iter()
        .find_map(|p| lower.starts_with(p).then_some(p.len()));
    match skip {
        Some(skip) => {
            let rest = &target[skip..];
            let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#'));
            Some(match end {
                Some(end) => (Some(&rest[..end]), Some(&rest[end..])),
                None => (Some(rest), Some(b"")),
            })
        }
        // An empty or cut-off target is still a request; anything else is another protocol.
        None if target.is_empty() => Some((None, Some(target))),
        None => None,
    }
}

/// The `Host` header's value, if it is there whole.
fn host_header(rest: &[u8]) -> Option<String> {
    let mut lines = rest.split(|&b| b == b'\n').skip(1).peekable();
    while let Some(line) = lines.next() {
        // The last piece has no line end: it may be cut.
        lines.peek()?;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return None;
        }
        let Some(colon) = line.iter().position(|&b| b == b':') else {
            continue;
        };
        if line[..colon].eq_ignore_ascii_case(b"host") {
            return host(line[colon + 1..].trim_ascii());
        }
    }
    None
}

/// A host with optional port, without userinfo, lower case; `None` when it is not plausible.
pub(super) fn host(bytes: &[u8]) -> Option<String> {
    let bytes = match bytes.iter().rposition(|&b| b == b'@') {
        Some(at) => &bytes[at + 1..],
        None => bytes,
    };
    let plausible = !bytes.is_empty()
        && bytes.len() <= HOST_BYTES_MAX
        && bytes.iter().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']')
        });
    if !plausible {
        return None;
    }
    // What follows the colon is a port, or this was the beginning of `user:password@host`.
    let after_address = bytes
        .iter()
        .rposition(|&b| b == b']')
        .map_or(0, |at| at + 1);
    let rest = &bytes[after_address..];
    let port = rest
        .iter()
        .position(|&b| b == b':')
        .map(|at| &rest[at + 1..]);
    if port.is_some_and(|p| p.is_empty() || p.len() > 5 || !p.iter().all(u8::is_ascii_digit)) {
        return None;
    }
    Some(String::from_utf8_lossy(bytes).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(method: &str, target: &str, host: Option<&str>, cut: bool) -> Option<RequestHead> {
        Some(RequestHead {
            method: method.to_owned(),
            target: target.to_owned(),
            host: host.map(str::to_owned),
            cut,
        })
    }

    #[test]
    fn request_lines() {
        let cases: &[(&[u8], Option<RequestHead>)] = &[
            (
                b"GET /v2/app/tags/list HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n",
                head("GET", "/v2/app/tags/list", Some("127.0.0.1:8080"), false),
            ),
            (
                b"POST /a?token=s3cret&x HTTP/1.0\r\nAccept: */*\r\nhOST:  Example.com \r\n\r\nHost: no",
                head("POST", "/a?token=…&…", Some("example.com"), false),
            ),
            (b"GET /long/pa", head("GET", "/long/pa…", None, true)),
            (b"GET /a HTTP/1.1\r\nHost: examp", head("GET", "/a", None, false)),
            (b"GET /a HTTP/1.1\r\n\r\nHost: body\r\n\r\n", head("GET", "/a", None, false)),
            (
                b"GET http://me:pw@h:81/x?y=z HTTP/1.1\r\n\r\n",
                head("GET", "/x?y=…", Some("h:81"), false),
            ),
            (b"GET http://h HTTP/1.1\r\n\r\n", head("GET", "/", Some("h"), false)),
            (b"CONNECT h:443 HTTP/1.1\r\n", head("CONNECT", "", Some("h:443"), false)),
            (b"OPTIONS * HTTP/1.1\r\n", head("OPTIONS", "*", None, false)),
            (b"FOO /a HTTP/1.1\r\n", head("FOO", "/a", None, false)),
            (b"FOO /a", None),
            (b"GET /a RTSP/1.0\r\n", None),
            (b"PING\r\n", None),
            (b"SELECT * FROM t", None),
            (b"*1\r\n$4\r\nPING\r\n", None),
            (b"", None),
            (b"GET ", head("GET", "…", None, true)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(&read(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn the_preface_of_http2_is_no_request() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        assert_eq!(read(preface), None);
        assert_eq!(read(&preface[..16]), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }

        #[test]
        fn hostile_tails_never_panic(
            method in "[A-Z]{1,8}",
            tail in proptest::collection::vec(any::<u8>(), 0..240),
        ) {
            let mut bytes = method.into_bytes();
            bytes.push(b' ');
            bytes.extend(tail);
            let _ = read(&bytes);
        }

        #[test]
        fn secrets_stay_behind(
            user in "SECRETU[a-z0-9]{4,12}",
            password in "SECRETP[a-z0-9%]{4,12}",
            value in "SECRETV[ -!#-~]{0,20}",
            absolute in any::<bool>(),
            keep in 0usize..240,
        ) {
            let value = value.replace([' ', '&', ';'], "+");
            let authority = if absolute { format!("http://{user}:{password}@host:80") } else { String::new() };
            let text = format!(
                "GET {authority}/path?key={value}&b=2;c={value} HTTP/1.1\r\nHost: {user}:{password}@host\r\n\
                 Authorization: Basic {value}\r\nCookie: a={value}\r\n\r\n{value}"
            );
            let bytes = &text.as_bytes()[..keep.min(text.len())];
            let seen = format!("{:?}", read(bytes));
            prop_assert!(!seen.to_uppercase().contains("SECRET"), "{seen}");
        }
    }
}
