//! Whose a finding is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::Workload;

/// The process of a finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ProcessInfo {
    /// In the host's pid namespace.
    pub pid: u32,
    /// In its own pid namespace, where it differs.
    #[serde(default)]
    pub ns_pid: Option<u32>,
    /// Name.
    pub comm: String,
    /// Executable.
    pub exe: Option<String>,
    /// Language runtime, such as `go1.27.3`.
    pub runtime: Option<String>,
    /// Container id.
    pub container_id: Option<String>,
    /// Name of the container in its pod.
    #[serde(default)]
    pub container: Option<String>,
    /// Kubernetes pod.
    pub pod: Option<String>,
    /// Kubernetes namespace.
    pub namespace: Option<String>,
    /// What the pod was made for, where the daemon asks the API server (`--kube`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// The first 32 of the pod's labels, where the daemon asks the API server.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}
