//! A pod with one container, as far as cgroups and the API server know of it.

use std::process;

use anyhow::Result;
use serde_json::{Value, json};

use crate::targets::Group;

/// A pod with one container.
#[derive(Debug, Clone)]
pub struct Pod {
    /// What its cgroups call it.
    pub uid: String,
    /// Id of its container.
    pub id: String,
}

impl Pod {
    /// One of its own in this run of the tests.
    pub fn new(number: u32) -> Pod {
        let own = process::id();
        Pod {
            uid: format!(
                "8f2e1d0c-5b6a-4f7e-{:04x}-{own:08x}{:04x}",
                number % 0xffff,
                0xace
            ),
            id: format!("ace1{number:028x}{own:032x}"),
        }
    }

    /// Moves a process into a group that is called as containerd calls its containers'.
    pub fn enclose(&self, pid: u32) -> Result<Group> {
        let slice = format!("kubepods-burstable-pod{}.slice", self.uid.replace('-', "_"));
        let container = format!("cri-containerd-{}.scope", self.id);
        let path = format!(
            "tracer-test-kubepods-{}.slice/{slice}/{container}",
            process::id()
        );
        let group = Group::make("cgroup2", "", &path)?;
        group.take(pid)?;
        Ok(group)
    }

    /// What the API server has of it.
    pub fn metadata(&self, name: &str, more: &Value) -> Value {
        let mut metadata = json!({
            "name": name,
            "namespace": "shop",
            "uid": self.uid,
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "managedFields": [{ "manager": "kubelet", "fieldsV1": { "f:metadata": {} } }],
        });
        if let (Some(metadata), Some(more)) = (metadata.as_object_mut(), more.as_object()) {
            metadata.extend(more.clone());
        }
        metadata
    }
}
