//! What request heads say: method, target, host; URLs redacted and made into templates. Pure.
//!
//! Nothing but method, redacted target and host leaves this module: no header values, no body, no
//! userinfo, no query values.

pub mod dns;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod generated;
mod hpack;
mod http1;
mod http2;
mod redact;
mod request;
mod routes;
mod segment;
mod services;
mod url;

pub use http2::{Block as Http2Block, Requests as Http2Requests};
pub use redact::{VARIABLE, redact_target};
pub use request::{Request, RequestHead};
pub use routes::Routes;
pub use services::{Message, Service, hear, passed_on};
pub use url::{Scheme, example, is_ip_literal, origin, template, url};

/// What the first bytes of a request say; `None` where they are not of this protocol.
type Reader = fn(&[u8]) -> Option<RequestHead>;

/// A reader for each protocol, in the order in which they are asked. What the kernel's programs keep
/// for them, `tracer-ebpf/src/core/heads.rs` says.
const READERS: &[Reader] = &[
    http1::read,
    #[cfg(test)]
    fixture::read,
];

/// Recognizes the first bytes of a request; they may be cut off anywhere.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Option<RequestHead> {
    READERS.iter().find_map(|read| read(bytes))
}
