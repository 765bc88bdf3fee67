//! What processes have of what runs out: descriptors and ephemeral ports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Finding, Instance};
use crate::model::Workload;

/// Limits of one process.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Resources {
    /// Where several daemons were asked, the one that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
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
    /// What the pod was made for, where the daemon asks the API server (`--kube`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
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

impl Resources {
    /// Whether they are those of a process with this finding; of a process of that number on another
    /// node they are not.
    #[must_use]
    pub fn concern(&self, finding: &Finding) -> bool {
        let there =
            |i: &Instance| i.pid == self.pid && (self.node.is_none() || i.node == self.node);
        let worst = self.node.is_none() && self.pid == finding.process.pid;
        worst || finding.instances.iter().any(there)
    }
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
