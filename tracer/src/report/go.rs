//! What the pools of a Go program say, as the report has it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{GoPools, GoSettings, GoSight, OffsetsFrom};

/// What a Go program's connection pools say about the connections of a finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GoInfo {
    /// Path of the main module; empty when it was built outside of one.
    pub main_module: String,
    /// Whether the program's own pools were asked.
    pub view: GoSight,
    /// Where the offsets come from by which its structures were read.
    pub offsets_from: OffsetsFrom,
    /// What the rest means, as sentences.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Connections by state: `in_flight`, `response` (begun, body not finished), `reading`, `idle`,
    /// `handed_over`; those of a server `new`, `active`, `idle`, `hijacked`.
    pub states: BTreeMap<String, u64>,
    /// Distinct transports that they belong to.
    pub transports: u64,
    /// Requests per connection: above 1 where connections are reused.
    pub requests_per_connection: f64,
    /// Share of the requests on them that used a connection which was there before.
    pub reuse_ratio: f64,
    /// Most connections that one transport had to one host at a time; 0 for streams and servers.
    pub peak_per_host: u64,
    /// Goroutines that serve them and can't end before they are closed: a reader and a writer each.
    pub goroutines: u64,
    /// Live settings of one of the transports; null when they could not be read.
    pub transport: Option<GoTransport>,
}

/// Settings of an `http.Transport` as they are in the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GoTransport {
    /// `MaxConnsPerHost`; 0: no limit.
    pub max_conns_per_host: u64,
    /// `MaxIdleConns`; 0: no limit.
    pub max_idle_conns: u64,
    /// `MaxIdleConnsPerHost`; 0: the default of net/http, which is 2.
    pub max_idle_conns_per_host: u64,
    /// `IdleConnTimeout`; 0: none.
    pub idle_conn_timeout_seconds: f64,
    /// `DisableKeepAlives`.
    pub disable_keep_alives: bool,
}

impl From<GoPools> for GoInfo {
    fn from(pools: GoPools) -> Self {
        GoInfo {
            main_module: pools.main_module,
            view: pools.view,
            offsets_from: pools.offsets_from,
            notes: pools.notes,
            states: pools.states,
            transports: pools.transports,
            requests_per_connection: pools.requests_per_connection,
            reuse_ratio: pools.reuse_ratio,
            peak_per_host: pools.peak_per_host,
            goroutines: pools.goroutines,
            transport: pools.transport.map(GoTransport::from),
        }
    }
}

impl From<GoSettings> for GoTransport {
    fn from(settings: GoSettings) -> Self {
        GoTransport {
            max_conns_per_host: settings.max_conns_per_host,
            max_idle_conns: settings.max_idle_conns,
            max_idle_conns_per_host: settings.max_idle_conns_per_host,
            idle_conn_timeout_seconds: settings.idle_conn_timeout_seconds,
            disable_keep_alives: settings.disable_keep_alives,
        }
    }
}
