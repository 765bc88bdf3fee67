//! What processes have of what runs out: descriptors and ephemeral ports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Limits of one process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Resources {
    /// Process.
    pub pid: u32,
    /// Its name; empty where it is not known any more.
    #[serde(default)]
    pub comm: String,
    /// Kubernetes pod.
    #[serde(default)]
    pub pod: Option<String>,
    /// Kubernetes namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Open descriptors.
    pub fds_open: u64,
    /// Soft limit.
    pub fds_limit: u64,
    /// At the present growth, seconds until the limit is reached.
    pub exhausted_in_seconds: Option<u64>,
    /// Ephemeral ports by destination.
    pub ephemeral_ports: Vec<EphemeralPorts>,
    /// Failed connects by errno name.
    pub connect_errors: BTreeMap<String, u64>,
}

/// Ephemeral ports in use towards one destination.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EphemeralPorts {
    /// Address and port.
    pub destination: String,
    /// Ports in use.
    pub used: u64,
    /// Ports in the range.
    pub available: u64,
    /// Seconds until none is left at the present growth.
    pub exhausted_in_seconds: Option<u64>,
}
