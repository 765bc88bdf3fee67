//! What Kubernetes calls the place where a process runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A Kubernetes pod, and which of its containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of the container.
    pub container: Option<String>,
    /// What it was made for, where the API server was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// Its labels, where the API server was asked.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// It is annotated to be left alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignored: bool,
}

/// What pods are made for, such as a Deployment.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Workload {
    /// Kind, such as `Deployment`, `StatefulSet`, `DaemonSet`, `CronJob` or `Job`.
    pub kind: String,
    /// Its name, in the pod's namespace.
    pub name: String,
}
