//! What is kept of one request.

use serde::{Deserialize, Serialize};

use super::Scheme;
use crate::model::Protocol;

/// What the first bytes of a request say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestHead {
    /// Method.
    pub method: String,
    /// Target in origin form, redacted: `/v2/app/tags/list?page=…`. `*` and, for CONNECT, empty.
    pub target: String,
    /// Host and port as the request names them, lower case: of HTTP from an absolute target, else
    /// from the `Host` header. `None` also when the bytes end before or inside it.
    pub host: Option<String>,
    /// The bytes ended inside the target.
    pub cut: bool,
}

/// What is kept of one request: redacted already.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Request {
    /// Method; empty where only the host is known (TLS), and of other protocols than HTTP.
    pub method: String,
    /// Target with redacted values; of other protocols the database, behind a slash.
    pub target: String,
    /// Host the request names.
    pub host: Option<String>,
    /// Scheme of its URL.
    pub scheme: Scheme,
}

impl Request {
    /// What the connection of such a request speaks; `None`: what its first bytes say.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        match (self.scheme, self.method.is_empty()) {
            (Scheme::Of(_), _) => None,
            // a host without a request is all that TLS shows
            (_, true) => Some(Protocol::Tls),
            (_, false) => Some(Protocol::Http),
        }
    }
}
