//! By what the other end of a connection is named, and why by nothing better.

use serde::{Deserialize, Serialize};

/// What the name of the other end was taken from: the rungs of a ladder, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NamedBy {
    /// A request's URL.
    Url,
    /// The host that a request names, which has no target of its own (CONNECT).
    Host,
    /// The server name of a TLS handshake.
    Sni,
    /// The first messages of a protocol that has no URLs, with the database where they name one.
    Protocol,
    /// A name that the process resolved to the address.
    Dns,
    /// A name that the cluster has for the address: of a service, or of a pod.
    Cluster,
    /// The process behind a UNIX socket, beside its path.
    UnixPeer,
    /// The path or abstract name of a UNIX socket.
    UnixPath,
    /// It is one end of a socket pair.
    Pair,
    /// The address alone.
    #[default]
    Address,
}

impl NamedBy {
    /// As the JSON has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            NamedBy::Url => "url",
            NamedBy::Host => "host",
            NamedBy::Sni => "sni",
            NamedBy::Protocol => "protocol",
            NamedBy::Dns => "dns",
            NamedBy::Cluster => "cluster",
            NamedBy::UnixPeer => "unix-peer",
            NamedBy::UnixPath => "unix-path",
            NamedBy::Pair => "pair",
            NamedBy::Address => "address",
        }
    }
}

/// A process at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Peer {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub comm: String,
}
