//! What a Go program's own connection pools say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::OffsetsFrom;

/// What a Go program's connection pools say about the connections of a finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoPools {
    /// Path of the main module; empty when it was built outside of one.
    pub main_module: String,
    /// Whether the program's own pools were asked.
    pub view: GoSight,
    /// Where the offsets come from by which its structures were read.
    pub offsets_from: OffsetsFrom,
    /// What the rest means, as sentences.
    pub notes: Vec<String>,
    /// Connections by state: `in_flight`, `response` (begun, body not finished), `reading`, `idle`,
    /// `handed_over`; those of a server `new`, `active`, `idle`, `hijacked`.
    pub states: BTreeMap<String, u64>,
    /// Distinct transports that they belong to.
    pub transports: u64,
    /// Requests per connection: above 1 where connections are reused.
    #[serde(with = "bits")]
    pub requests_per_connection: f64,
    /// Share of the requests on them that used a connection which was there before.
    #[serde(with = "bits")]
    pub reuse_ratio: f64,
    /// Most connections that one transport had to one host at a time; 0 for streams and servers.
    pub peak_per_host: u64,
    /// Goroutines that serve them and can't end before they are closed: a reader and a writer each.
    pub goroutines: u64,
    /// Live settings of one of the transports; `None` when they could not be read.
    pub transport: Option<GoSettings>,
}

/// Settings of an `http.Transport` as they are in the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoSettings {
    /// `MaxConnsPerHost`; 0: no limit.
    pub max_conns_per_host: u64,
    /// `MaxIdleConns`; 0: no limit.
    pub max_idle_conns: u64,
    /// `MaxIdleConnsPerHost`; 0: the default of net/http, which is 2.
    pub max_idle_conns_per_host: u64,
    /// `IdleConnTimeout`; 0: none.
    #[serde(with = "bits")]
    pub idle_conn_timeout_seconds: f64,
    /// `DisableKeepAlives`.
    pub disable_keep_alives: bool,
}

/// Which view of a Go program a finding rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum GoSight {
    /// Its own connection pools were asked.
    Pools,
    /// Only the kernel was.
    Kernel,
}

/// Numbers by their bits: decimal digits need not come back as the same number.
mod bits {
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}
