//! The pods of one node, followed by their metadata: no specification of a pod, in which a password may
//! stand, ever comes in.

use std::{collections::HashSet, time::Instant};

use super::{Cluster, object::Object, watch::Followed};

/// The pods of one node.
#[derive(Debug)]
pub struct NodePods {
    cluster: Cluster,
    node: String,
    /// Those of the list that is coming in, if one is.
    there: Option<HashSet<String>>,
}

impl NodePods {
    /// Those of this node.
    pub fn of(node: String, cluster: Cluster) -> NodePods {
        NodePods {
            cluster,
            node,
            there: None,
        }
    }
}

impl Followed for NodePods {
    type Object = Object;
    const PATH: &'static str = "/api/v1/pods";
    const RESOURCE: &'static str = "pods";
    const WHOLE: bool = false;
    const PAGE: Option<u32> = None;

    fn what(&self) -> String {
        format!("the pods of node {}", self.node)
    }

    fn selector(&self) -> Option<String> {
        Some(format!("spec.nodeName={}", self.node))
    }

    fn version(object: &Object) -> Option<&str> {
        object.version()
    }

    fn begin(&mut self) {
        self.there = Some(HashSet::new());
    }

    fn put(&mut self, object: Object) {
        if let Some((uid, known)) = object.known() {
            if let Some(there) = &mut self.there {
                there.insert(uid.clone());
            }
            self.cluster.directory().put(uid, known, Instant::now());
        }
    }

    fn only(&mut self) {
        if let Some(there) = self.there.take() {
            self.cluster.directory().only(&there);
        }
    }

    fn gone(&mut self, object: Object) {
        if let Some((uid, known)) = object.known() {
            let mut directory = self.cluster.directory();
            directory.put(uid.clone(), known, Instant::now());
            directory.end(&uid);
        }
    }

    fn is_troubled(&self) -> bool {
        self.cluster.directory().trouble().is_some()
    }

    fn set_trouble(&mut self, trouble: Option<String>) {
        self.cluster.directory().set_trouble(trouble);
    }
}
