//! An API server as far as who asks daemons in pods is concerned: it lists the pods, gives the Secret, and
//! passes requests on (`pods/NAME:PORT/proxy`).

use serde_json::{Value, json};

use super::{field, kubeconfig, refused};
use crate::stand_in::Mood;

/// A cluster of daemons, as its API server shows it to who has a token: in the namespace `tracer`, the
/// pod `tracer-N` on `node-N`, and in the Secret `tracer-tokens` what the daemons want to be told.
#[derive(Debug)]
pub struct Cluster {
    /// The daemons; the dead ones' pods are there and nobody answers in them.
    pub daemons: Vec<Mood>,
    /// Which of the pods do not run yet.
    pub pending: Vec<usize>,
}

impl Cluster {
    /// The token of the API server's users.
    pub const USER: &str = "user-of-the-cluster";
    /// The token of the daemons.
    pub const TOKEN: &str = "token-of-the-daemons";
    /// The same, as a Secret has it (RFC 4648, section 4).
    const ENCODED: &str = "dG9rZW4tb2YtdGhlLWRhZW1vbnM=";

    /// Name of a node, padded so that their order is that of the daemons.
    #[must_use]
    pub fn node(index: usize) -> String {
        format!("node-{index:03}")
    }

    /// A kubeconfig for the API server there; its context's namespace is `shop`.
    #[must_use]
    pub fn kubeconfig(address: &str) -> Value {
        kubeconfig(address, &json!({ "token": Cluster::USER }), "shop")
    }

    fn pod(&self, index: usize) -> Value {
        let phase = match self.pending.contains(&index) {
            true => "Pending",
            false => "Running",
        };
        json!({
            "metadata": { "name": format!("tracer-{index}"), "namespace": "tracer" },
            "spec": {
                "nodeName": Cluster::node(index),
                "containers": [{
                    "name": "tracer",
                    "args": ["daemon", "--token-file", "/run/secrets/tracer/tokens"],
                    "ports": [{ "name": "http", "containerPort": 9464 }],
                    "volumeMounts": [{ "name": "tokens", "mountPath": "/run/secrets/tracer" }],
                }],
                "volumes": [{ "name": "tokens", "secret": { "secretName": "tracer-tokens" } }],
            },
            "status": { "phase": phase },
        })
    }

    /// Answers a request for this path with this head; who has no answer is silent.
    pub(crate) fn to(&self, path: &str, head: &str) -> Option<(u16, Value)> {
        let status = |code: u16, message: &str| Some((code, refused(code, message)));
        let field = |name: &str| field(head, name);
        if field("authorization") != Some(format!("Bearer {}", Cluster::USER)) {
            return status(401, "Unauthorized");
        }
        let Some(rest) = path.strip_prefix("/api/v1/namespaces/tracer/") else {
            return status(404, "not found");
        };
        if rest == "secrets/tracer-tokens" {
            let secret = json!({
                "kind": "Secret", "apiVersion": "v1", "metadata": { "name": "tracer-tokens" },
                "data": { "tokens": Cluster::ENCODED },
            });
            return Some((200, secret));
        }
        if let Some(query) = rest.strip_prefix("pods?") {
            let chosen = query.contains("labelSelector=app.kubernetes.io%2Fname%3Dtracer");
            let count = if chosen { self.daemons.len() } else { 0 };
            let pods: Vec<Value> = (0..count).map(|index| self.pod(index)).collect();
            let list = json!({
                "kind": "PodList", "apiVersion": "v1",
                "metadata": { "resourceVersion": "1" }, "items": pods,
            });
            return Some((200, list));
        }
        let named = rest.strip_prefix("pods/tracer-");
        let named = named.and_then(|rest| rest.split_once(":9464/proxy"));
        let Some((index, path)) = named else {
            return status(403, "pods is forbidden");
        };
        match index
            .parse()
            .ok()
            .and_then(|index: usize| self.daemons.get(index))
        {
            Some(Mood::Answers(answers)) => match field("x-tracer-token") {
                Some(token) if token == Cluster::TOKEN => Some(answers.to(path)),
                _ => Some((401, json!({ "error": "this needs a token" }))),
            },
            Some(Mood::Dead) => status(503, "error trying to reach service: connection refused"),
            Some(_) => None,
            None => status(404, "no such pod"),
        }
    }
}
