//! A pod's metadata as the API server sends it, and what is kept of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::{
    directory::Known,
    owner::{self, Owner},
};
use crate::procs::pods::{is_name, is_uid};

/// The annotation by which a pod is left alone; its value is `true`.
const IGNORE: &str = "tracer.dev/ignore";
/// Of a static pod's mirror: what the kubelet calls the pod itself, in cgroups too
/// (kubernetes/pkg/kubelet/types).
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Labels kept of a pod, the first in order; some tools set dozens.
pub const LABELS_MAX: usize = 32;
/// Longest key of a label: a prefix of 253 bytes, a slash, a name of 63 (labels, Kubernetes'
/// documentation).
const KEY_MAX: usize = 317;
/// Longest value of a label, and kind of an owner.
const VALUE_MAX: usize = 63;

/// A pod, of which there is metadata only.
#[derive(Debug, Clone, Deserialize)]
pub struct Object {
    metadata: Metadata,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: String,
    name: String,
    namespace: String,
    resource_version: Option<String>,
    creation_timestamp: Option<Timestamp>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<Owner>>,
}

impl Object {
    /// Up to where the watch has come with it.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }

    /// By what its cgroups call it, and what is kept. `None` where it has no name that a pod can
    /// have.
    #[must_use]
    pub fn known(self) -> Option<(String, Known)> {
        let Metadata {
            uid,
            name,
            namespace,
            creation_timestamp,
            labels,
            annotations,
            owner_references,
            ..
        } = self.metadata;
        let labels = labels.unwrap_or_default();
        let annotations = annotations.unwrap_or_default();
        let owners = owner_references.unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        let fits = |owner: &&Owner| is_name(&owner.name) && owner.kind.len() <= VALUE_MAX;
        let workload = controller
            .filter(fits)
            .and_then(|controller| owner::workload(controller, &labels, creation_timestamp));
        // other pods' uids have dashes: none can be claimed by an annotation
        let is_static = |uid: &&String| is_uid(uid) && !uid.contains('-');
        let of_node = controller.is_some_and(|owner| owner.kind == "Node");
        let mirrored = annotations
            .get(MIRROR)
            .filter(is_static)
            .filter(|_| of_node);
        let uid = mirrored.cloned().unwrap_or(uid);
        if !(is_uid(&uid) && is_name(&name) && is_name(&namespace)) {
            return None;
        }
        let ignored = annotations.get(IGNORE).is_some_and(|value| value == "true");
        let kept = labels
            .into_iter()
            .filter(|(key, value)| key.len() <= KEY_MAX && value.len() <= VALUE_MAX)
            .take(LABELS_MAX);
        let known = Known {
            namespace,
            name,
            workload,
            labels: kept.collect(),
            ignored,
        };
        Some((uid, known))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const UID: &str = "8f2e1d0c-5b6a-4f7e-9d8c-0a1b2c3d4e5f";

    fn known(more: &Value) -> Option<(String, Known)> {
        let mut metadata = json!({ "uid": UID, "name": "web-5d4-x2", "namespace": "shop" });
        let more = more.as_object().unwrap().clone();
        metadata.as_object_mut().unwrap().extend(more);
        let text = json!({ "kind": "PartialObjectMetadata", "metadata": metadata }).to_string();
        serde_json::from_str::<Object>(&text).unwrap().known()
    }

    #[test]
    fn names_labels_and_the_workload_are_kept() {
        let (uid, pod) = known(&json!({
            "labels": { "app": "web", "pod-template-hash": "5d4" },
            "managedFields": [{ "fieldsV1": { "f:metadata": {} } }],
            "ownerReferences": [
                { "kind": "Other", "name": "other", "uid": "1", "apiVersion": "v1" },
                { "kind": "ReplicaSet", "name": "web-5d4", "uid": "2", "controller": true },
            ],
        }))
        .unwrap();
        assert_eq!(uid, UID);
        assert_eq!((&*pod.namespace, &*pod.name), ("shop", "web-5d4-x2"));
        let workload = pod.workload.unwrap();
        assert_eq!((&*workload.kind, &*workload.name), ("Deployment", "web"));
        assert_eq!(pod.labels["app"], "web");
        assert!(!pod.ignored);
    }

    #[test]
    fn only_true_opts_out() {
        let ignored = |value: &str| {
            let (_, pod) = known(&json!({ "annotations": { IGNORE: value } })).unwrap();
            pod.ignored
        };
        assert!(ignored("true"));
        assert!(!ignored("false") && !ignored("") && !ignored("True"));
    }

    #[test]
    fn a_static_pod_has_the_name_that_its_cgroups_have() {
        let digits = UID.replace('-', "");
        let node = json!([{ "kind": "Node", "name": "n1", "controller": true }]);
        let of = |uid: &str, owners: &Value| {
            let annotations = json!({ MIRROR: uid });
            known(&json!({ "annotations": annotations, "ownerReferences": owners })).unwrap()
        };
        let (uid, pod) = of(&digits, &node);
        assert_eq!((uid, pod.workload), (digits.clone(), None));
        // what another pod is called can't be claimed
        let other = UID.replace('8', "9");
        assert_eq!(of(&other, &node).0, UID);
        assert_eq!(of(&digits, &json!([])).0, UID);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let label = |n: usize| (format!("label-{n:03}"), "x".to_owned());
        let many: BTreeMap<_, _> = (0..100).map(label).collect();
        let (_, pod) = known(&json!({ "labels": many })).unwrap();
        assert_eq!(pod.labels.len(), LABELS_MAX);
        assert!(pod.labels.contains_key("label-000"));
        let (_, pod) = known(&json!({ "labels": { "a": "x".repeat(64) } })).unwrap();
        assert!(pod.labels.is_empty());
        for wrong in [
            json!({ "name": "../x" }),
            json!({ "uid": "x" }),
            json!({ "namespace": "" }),
        ] {
            assert_eq!(known(&wrong), None, "{wrong}");
        }
    }
}
