//! What of a request target may be kept: names, no values, nothing that looks like a credential.
//!
//! Escapes are undone before the target is taken apart, as often as they were nested, because
//! `%3F` begins a query for whoever decodes it. Of plain words nobody can tell a secret from a name.

use std::fmt::Write as _;

/// Stands for a query value or for whatever was cut off.
pub(super) const HIDDEN: &str = "…";
/// Stands for a path segment that varies or may be secret.
pub const VARIABLE: &str = "{}";
/// Keys kept of one query.
const QUERY_KEYS_MAX: usize = 16;
/// Path segments kept of one target.
const SEGMENTS_MAX: usize = 32;
/// Longer keys are not names any more.
const KEY_BYTES_MAX: usize = 40;
/// Escapes within escapes that are undone; what is nested deeper is no request that a server takes.
const NESTED_MAX: usize = 4;

/// Redacts a request target: query keys stay and their values become `…`; fragments go; path
/// segments that look secret (tokens, keys, anything with userinfo) become `{}`; bytes that are not
/// printable ASCII are percent-encoded. A target that was cut off ends in `…`.
#[must_use]
pub fn redact_target(target: &[u8], cut: bool) -> String {
    let bytes = decoded(target);
    let mut rest = bytes.as_slice();
    if let Some(fragment) = rest.iter().position(|b| b.is(b'#')) {
        rest = &rest[..fragment];
    }
    let (path, query) = match rest.iter().position(|b| b.is(b'?')) {
        Some(q) => (&rest[..q], Some(&rest[q + 1..])),
        None => (rest, None),
    };
    if path.len() == 1 && path[0].is(b'*') {
        return "*".to_owned();
    }
    let mut out = String::new();
    redact_path(path, cut && query.is_none(), cut, &mut out);
    if let Some(query) = query {
        out.push('?');
        redact_query(query, &mut out);
    }
    if cut && !out.ends_with(HIDDEN) {
        out.push_str(HIDDEN);
    }
    out
}

/// A byte of a target, and whether it was escaped.
#[derive(Clone, Copy)]
struct Byte {
    value: u8,
    escaped: bool,
}

impl Byte {
    fn is(self, value: u8) -> bool {
        self.value == value
    }
}

fn decoded(target: &[u8]) -> Vec<Byte> {
    let plain = |&value: &u8| Byte {
        value,
        escaped: false,
    };
    let mut bytes: Vec<Byte> = target.iter().map(plain).collect();
    for _ in 0..NESTED_MAX {
        let mut next = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let digit = |i: usize| char::from(bytes.get(i)?.value).to_digit(16);
            match (byte.is(b'%'), digit(at + 1), digit(at + 2)) {
                (true, Some(high), Some(low)) => {
                    next.push(Byte {
                        value: (high * 16 + low) as u8,
                        escaped: true,
                    });
                    at += 3;
                }
                _ => {
                    next.push(byte);
                    at += 1;
                }
            }
        }
        let changed = next.len() != bytes.len();
        bytes = next;
        if !changed {
            break;
        }
    }
    bytes
}

/// `cut_inside`: the last segment is not whole.
fn redact_path(path: &[Byte], cut_inside: bool, cut: bool, out: &mut String) {
    if path.is_empty() {
        if !cut {
            out.push('/');
        }
        return;
    }
    let mut rest = path;
    // Before the first segment there is a separator, said or not.
    let mut separator = "/";
    if let Some((first, after)) = rest.split_first()
        && first.is(b'/')
    {
        rest = after;
    }
    for number in 0.. {
        out.push_str(separator);
        if number == SEGMENTS_MAX {
            out.push_str(HIDDEN);
            return;
        }
        let end = rest.iter().position(|b| b.is(b'/'));
        let segment = &rest[..end.unwrap_or(rest.len())];
        let values: Vec<u8> = segment.iter().map(|b| b.value).collect();
        let partial = cut_inside && end.is_none() && values.iter().any(u8::is_ascii_digit);
        match partial {
            // The beginning of a number or of a key.
            true => out.push_str(VARIABLE),
            false => redact_segment(&values, out),
        }
        let Some(end) = end else { return };
        separator = if rest[end].escaped { "%2F" } else { "/" };
        rest = &rest[end + 1..];
    }
}

fn redact_query(query: &[Byte], out: &mut String) {
    let values: Vec<u8> = query.iter().map(|b| b.value).collect();
    if values.is_empty() {
        return;
    }
    for (i, pair) in values.split(|&b| matches!(b, b'&' | b';')).enumerate() {
        if i > 0 {
            out.push('&');
        }
        if i == QUERY_KEYS_MAX {
            out.push_str(HIDDEN);
            return;
        }
        redact_pair(pair, out);
    }
}

/// `key=…`, or `…` for a key that is no name, or that has no value and so may be one.
fn redact_pair(pair: &[u8], out: &mut String) {
    if let Some(eq) = pair.iter().position(|&b| b == b'=') {
        let key = &pair[..eq];
        if !key.is_empty() && key.len() <= KEY_BYTES_MAX && !secret(key) && !key.contains(&b'@') {
            print(key, out);
            out.push('=');
        }
    }
    out.push_str(HIDDEN);
}

fn redact_segment(segment: &[u8], out: &mut String) {
    // Matrix parameters (`;jsessionid=…`) are queries in disguise.
    let mut parts = segment.split(|&b| b == b';');
    let name = parts.next().unwrap_or_default();
    if secret(name) {
        out.push_str(VARIABLE);
    } else if name.contains(&b'=') {
        redact_pair(name, out);
    } else {
        print(name, out);
    }
    for parameter in parts.take(QUERY_KEYS_MAX) {
        out.push(';');
        redact_pair(parameter, out);
    }
}

/// Looks like a credential: userinfo, JSON web token, key, opaque token.
pub(super) fn secret(segment: &[u8]) -> bool {
    userinfo(segment)
        || (segment.starts_with(b"eyJ") && segment.len() >= 16)
        || uuid(segment)
        || segment
            .split(|b| matches!(b, b'.' | b':' | b',' | b'=' | b'~'))
            .any(|part| opaque(part) || part.split(|b| !b.is_ascii_alphanumeric()).any(token))
}

/// `user@host`, `user:password`. But `@scope` is a package, and `name:verb` an operation.
fn userinfo(segment: &[u8]) -> bool {
    let after_first = segment.get(1..).unwrap_or_default();
    if after_first.contains(&b'@') {
        return true;
    }
    match segment.iter().position(|&b| b == b':') {
        None => false,
        Some(colon) => {
            let after = &segment[colon + 1..];
            segment.first() == Some(&b'@') || !after.iter().all(u8::is_ascii_alphabetic)
        }
    }
}

/// Letters and digits without a word in them, also with the signs that encodings use: at least 20
/// long, and either mixed in case with digits, or a fifth of them digits.
fn opaque(part: &[u8]) -> bool {
    if part.len() < 20 || part.iter().filter(|b| **b == b'-').count() * 6 > part.len() {
        return false;
    }
    let plain = part
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+' | b'%'));
    let kinds = Kinds::of(part);
    plain && (kinds.mixed() || kinds.digits * 5 >= part.len())
}

/// A run of letters and digits that is no word and no number in order of something.
fn token(run: &[u8]) -> bool {
    let (len, kinds) = (run.len(), Kinds::of(run));
    if len >= 16 && run.iter().all(u8::is_ascii_hexdigit) {
        return true;
    }
    match (kinds.upper > 0, kinds.lower > 0, kinds.digits > 0) {
        // Words have no more than two dozen letters.
        (_, _, false) if len >= 24 && (kinds.upper == 0 || kinds.lower == 0) => true,
        (true, true, digits) => len >= if digits { 10 } else { 16 } && !camel_case(run),
        (true, false, _) => len >= 16,
        (false, true, true) => len >= 10 && kinds.switches >= 4,
        (false, false, true) => len >= 13,
        _ => false,
    }
}

#[derive(Default)]
struct Kinds {
    upper: usize,
    lower: usize,
    digits: usize,
    /// How often a digit follows a letter, or a letter a digit.
    switches: usize,
}

impl Kinds {
    fn of(bytes: &[u8]) -> Kinds {
        let mut kinds = Kinds::default();
        let mut before = None;
        for byte in bytes {
            let digit = byte.is_ascii_digit();
            kinds.upper += usize::from(byte.is_ascii_uppercase());
            kinds.lower += usize::from(byte.is_ascii_lowercase());
            kinds.digits += usize::from(digit);
            kinds.switches += usize::from(before.is_some_and(|b| b != digit));
            before = Some(digit);
        }
        kinds
    }

    fn mixed(&self) -> bool {
        self.upper > 0 && self.lower > 0 && self.digits > 0
    }
}

/// Words written together, such as `ListObjectsV2`: each has some small letters in a row, three or
/// more on the average, and hardly a number is in it. Random letters have two on the average, and
/// half of their rows are a single one.
fn camel_case(run: &[u8]) -> bool {
    let kind = |b: &u8| match b {
        b'a'..=b'z' => 'a',
        b'A'..=b'Z' => 'A',
        _ => '0',
    };
    let mut runs: Vec<(char, usize)> = Vec::new();
    for byte in run {
        match runs.last_mut() {
            Some((last, len)) if *last == kind(byte) => *len += 1,
            _ => runs.push((kind(byte), 1)),
        }
    }
    let of = |wanted: char| runs.iter().filter(move |(kind, _)| *kind == wanted);
    let small = of('a').count();
    let letters: usize = of('a').map(|(_, len)| len).sum();
    let single = of('a').filter(|(_, len)| *len == 1).count();
    let others_fit = of('A').chain(of('0')).all(|(_, len)| *len <= 4);
    letters >= 3 * small && 2 * single < small && of('0').count() <= 2 && others_fit
}

/// 8-4-4-4-12 hexadecimal digits (RFC 9562).
pub(super) fn uuid(bytes: &[u8]) -> bool {
    bytes.len() == 36
        && bytes.iter().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => *b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

fn print(bytes: &[u8], out: &mut String) {
    for &b in bytes {
        match b {
            b'!'..=b'~' if b != b'%' => out.push(char::from(b)),
            _ => {
                let _ = write!(out, "%{b:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redacted(target: &str) -> String {
        redact_target(target.as_bytes(), false)
    }

    #[test]
    fn names_stay() {
        for (given, expected) in [
            ("/v2/app/tags/list", "/v2/app/tags/list"),
            ("", "/"),
            ("/", "/"),
            ("/a//b/", "/a//b/"),
            ("/a?x=1&y=2#frag", "/a?x=…&y=…"),
            ("/a?", "/a?"),
            ("/a?a=b=c", "/a?a=…"),
            ("/a;jsessionid=AB12/b", "/a;jsessionid=…/b"),
            ("/@angular/core", "/@angular/core"),
            ("/group%2Fproject/x", "/group%2Fproject/x"),
            (
                "/v1/repos/kubernetes-sigs/aws-load-balancer-controller",
                "/v1/repos/kubernetes-sigs/aws-load-balancer-controller",
            ),
            ("/v1/jobs:batchGet", "/v1/jobs:batchGet"),
            ("/s3/ListObjectsV2", "/s3/ListObjectsV2"),
            (
                "/OAuth2Callback/Base64Encoder",
                "/OAuth2Callback/Base64Encoder",
            ),
            ("/api/getUserPreferencesById", "/api/getUserPreferencesById"),
            (
                "/internationalization/order-20931",
                "/internationalization/order-20931",
            ),
            ("/covers/spring-2.webp", "/covers/spring-2.webp"),
            ("/sp ace", "/sp%20ace"),
            ("/\u{e9}", "/%C3%A9"),
            ("/100%", "/100%25"),
        ] {
            assert_eq!(redacted(given), expected, "{given}");
        }
    }

    /// What leaked once, or would be the next to.
    #[test]
    fn secrets_go() {
        for (given, expected) in [
            ("/login/password=hunter2", "/login/password=…"),
            ("/a%3Ftoken=hunter2", "/a?token=…"),
            ("/a%253Ftoken%253Dhunter2", "/a?token=…"),
            ("/cb?hunter2", "/cb?…"),
            ("/cb?token%3Dhunter2", "/cb?token=…"),
            ("/@alice:hunter2@h/x", "/{}/x"),
            ("/auth/bob:hunter2/x", "/auth/{}/x"),
            ("/x;sid:hunter2/y", "/x;…/y"),
            ("/x%3Bsid:hunter2/y", "/x;…/y"),
            ("/u/alice%2540corp.com", "/u/{}"),
            ("/u/me%40x.com", "/u/{}"),
            ("/u/me@example.com", "/u/{}"),
            ("/reset/correcthorsebatterystaple", "/reset/{}"),
            ("/share/Zk3vQ9xLm2Pw", "/share/{}"),
            ("/basic/dXNlcjpodW50ZXIy", "/basic/{}"),
            ("/s/AKIAIOSFODNN7EXAMPLE", "/s/{}"),
            ("/otp/JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", "/otp/{}"),
            ("/t/qPzLmKxWvTbRsYhGfDjNcAuE", "/t/{}"),
            ("/k/0123456789abcdef", "/k/{}"),
            ("/reset/7d444840-9dc0-11d1-b245-5ffdce74fad2", "/reset/{}"),
            (
                "/bot123456:ABC-DEF1234ghIkl-zyx57W2v1u123ew11/send",
                "/{}/send",
            ),
            ("/t/eyJhbGciOiJIUzI1NiJ9.e30.abc", "/t/{}"),
            ("/hook/T024BE7LDx9mQwErTyUiOp", "/hook/{}"),
            ("/p/http://u:hunter2@h/", "/p/http://{}/"),
            ("/a?k=hunter2;p=hunter2#hunter2", "/a?k=…&p=…"),
            ("/a?deadbeefdeadbeefdeadbeefdeadbeef", "/a?…"),
            ("/a?deadbeefdeadbeefdeadbeef=1", "/a?…"),
            ("/a#token=hunter2", "/a"),
            ("/a%23token=hunter2", "/a"),
        ] {
            assert_eq!(redacted(given), expected, "{given}");
        }
    }

    #[test]
    fn what_was_cut_off_says_so_and_shows_no_half_key() {
        assert_eq!(redact_target(b"/a?tok=ab", true), "/a?tok=…");
        assert_eq!(redact_target(b"/a/b", true), "/a/b…");
        assert_eq!(redact_target(b"/k/0123456789abcdef012", true), "/k/{}…");
        assert_eq!(redact_target(b"/k/01234567", true), "/k/{}…");
    }

    proptest! {
        #[test]
        fn any_bytes_become_printable(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in any::<bool>()) {
            let out = redact_target(&bytes, cut);
            prop_assert!(out.chars().all(|c| ('!'..='~').contains(&c) || c == '…'), "{out}");
        }

        #[test]
        fn no_query_value_and_no_userinfo_survives(
            path in "(/[a-z]{0,8}){0,4}",
            key in "[a-z_]{1,10}",
            value in "QQ[ -~]{0,30}",
            user in "QQ[a-z0-9]{0,9}",
            escapes in 0usize..3,
        ) {
            let value = value.replace(['&', ';', '#', '%'], "=");
            let mut target = format!("{path}/{user}:QQpw@h/x;p={user};{user}?{key}={value}&{key}={value}&{user}").into_bytes();
            for _ in 0..escapes {
                target = target.iter().flat_map(|b| format!("%{b:02x}").into_bytes()).collect();
            }
            let out = redact_target(&target, false);
            prop_assert!(!out.contains("QQ"), "{out}");
            let keyed = format!("{key}=…");
            prop_assert!(out.contains(&keyed), "{out}");
        }

        /// A random key in any of the usual alphabets, alone or behind a prefix with a dash.
        #[test]
        fn random_keys_do_not_survive(
            hex in "[0-9a-f]{24,40}",
            base36 in "[0-9a-z]{28}",
            base32 in "[A-Z2-7]{20}",
            prefix in "(sk-|ghp_|key.)?",
        ) {
            for key in [hex, base36, base32] {
                let out = redacted(&format!("/x/{prefix}{key}/y"));
                prop_assert!(!out.contains(&key), "{out}");
            }
        }
    }
}
