//! What request heads say: method, target, host; URLs redacted and made into templates. Pure.
//!
//! Nothing but method, redacted target and host leaves this module: no header values, no body, no
//! userinfo, no query values.

mod http1;
mod redact;
mod request;
mod routes;
mod tls;
mod url;

pub use http1::{Sniffed, sniff};
pub use redact::redact_target;
pub use request::Request;
pub use routes::Routes;
pub use url::{Scheme, example, is_ip_literal, origin, template, url};
