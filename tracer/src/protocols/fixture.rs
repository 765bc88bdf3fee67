//! A protocol that only tests have: it shows that a protocol is a file as this and an entry in the
//! list of readers. A request is a byte, a host and a path, and the end of the line.

use super::{redact::redact_target, request::RequestHead};

/// Reads a request.
pub(super) fn read(bytes: &[u8]) -> Option<RequestHead> {
    let asked = bytes.strip_prefix(b"\x02")?;
    let end = asked.iter().position(|&byte| byte == b'\r')?;
    let path = asked[..end].iter().position(|&byte| byte == b'/')?;
    let host = std::str::from_utf8(&asked[..path]).ok()?;
    Some(RequestHead {
        method: "ASK".to_owned(),
        target: redact_target(&asked[path..end], false),
        host: Some(host.to_owned()),
        cut: false,
    })
}
