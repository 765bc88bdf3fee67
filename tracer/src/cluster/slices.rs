//! Slices of endpoints (`discovery.k8s.io/v1`), by the addresses behind services.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::Deserialize;

use super::{
    namers::{Labels, Metadata, Namer, Port, full_name},
    remotes::{Claim, Source},
};

/// Some of a service's endpoints.
#[derive(Debug, Clone, Deserialize)]
pub struct Slice {
    metadata: Metadata,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    addresses: Option<Vec<String>>,
    target_ref: Option<Target>,
}

/// What is behind an endpoint.
#[derive(Debug, Clone, Deserialize)]
struct Target {
    kind: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
}

impl Endpoint {
    /// The pod behind it, if it is one.
    fn pod(&self, of_slice: &str) -> Option<Arc<str>> {
        let target = self.target_ref.as_ref()?;
        let is_pod = target.kind.as_deref() == Some("Pod");
        let name = target.name.as_deref().filter(|_| is_pod)?;
        full_name(name, target.namespace.as_deref().unwrap_or(of_slice), "pod")
    }
}

impl Namer for Slice {
    const SOURCE: Source = Source::Slices;
    const PATH: &'static str = "/apis/discovery.k8s.io/v1/endpointslices";
    const RESOURCE: &'static str = "endpointslices";
    const CALLED: &'static str = "the cluster's endpoint slices";

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Its addresses with each of its ports, whether they are ready or not. Names in place of addresses
    /// (`FQDN`) say nothing, nor does a port that is not named.
    fn claims(&self) -> Vec<Claim> {
        let namespace = self.metadata.namespace.as_str();
        let label = |labels: &Labels| full_name(labels.service.as_deref()?, namespace, "svc");
        let service = self.metadata.labels.as_ref().and_then(label);
        let mut claims = Vec::new();
        for endpoint in self.endpoints.iter().flatten() {
            let pod = endpoint.pod(namespace);
            let addresses = endpoint.addresses.iter().flatten();
            for address in addresses.filter_map(|text| text.parse::<IpAddr>().ok()) {
                let ports = self.ports.iter().flatten().filter_map(Port::of_tcp);
                claims.extend(ports.map(|port| Claim {
                    at: SocketAddr::new(address, port),
                    service: service.clone(),
                    pod: pod.clone(),
                }));
            }
        }
        claims
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claims(more: &Value) -> Vec<Claim> {
        let mut slice = json!({
            "metadata": {
                "name": "web-x7k2p", "namespace": "shop",
                "labels": { "kubernetes.io/service-name": "web" },
            },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        });
        let more = more.as_object().unwrap().clone();
        slice.as_object_mut().unwrap().extend(more);
        serde_json::from_value::<Slice>(slice).unwrap().claims()
    }

    #[test]
    fn endpoints_are_of_their_service_and_their_pods() {
        let all = claims(&json!({ "endpoints": [
            { "addresses": ["10.1.0.7"], "conditions": { "ready": false },
              "targetRef": { "kind": "Pod", "name": "web-0", "namespace": "shop", "uid": "1" } },
            { "addresses": ["10.1.0.8"], "targetRef": { "kind": "VirtualMachine", "name": "vm" } },
            { "addresses": ["10.1.0.9"], "targetRef": null },
        ]}));
        let text = |claim: &Claim| {
            let name = |name: &Option<Arc<str>>| name.as_deref().unwrap_or("-").to_owned();
            format!("{} {} {}", claim.at, name(&claim.service), name(&claim.pod))
        };
        let all: Vec<String> = all.iter().map(text).collect();
        assert_eq!(
            all,
            [
                "10.1.0.7:8080 web.shop.svc web-0.shop.pod",
                "10.1.0.8:8080 web.shop.svc -",
                "10.1.0.9:8080 web.shop.svc -",
            ]
        );
    }

    #[test]
    fn what_is_no_address_or_no_port_says_nothing() {
        let endpoints = json!([{ "addresses": ["10.1.0.7"] }]);
        for more in [
            json!({ "endpoints": null }),
            json!({ "endpoints": [{ "addresses": ["example.org"] }, {}] }),
            json!({ "endpoints": endpoints, "ports": null }),
            json!({ "endpoints": endpoints, "ports": [{ "port": null }] }),
            json!({ "endpoints": endpoints, "ports": [{ "port": 53, "protocol": "UDP" }] }),
        ] {
            assert_eq!(claims(&more), [], "{more}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_nobody_s() {
        let metadata = |service: &str| {
            let labels = json!({ "kubernetes.io/service-name": service });
            json!({ "name": "web-x7k2p", "namespace": "shop", "labels": labels })
        };
        let target = json!({ "kind": "Pod", "name": "../x" });
        let endpoints = json!([{ "addresses": ["10.1.0.7"], "targetRef": target }]);
        let claim = |service| {
            let all = claims(&json!({ "metadata": metadata(service), "endpoints": endpoints }));
            all.into_iter().next().unwrap()
        };
        assert_eq!(claim("Web/").service, None);
        assert_eq!(claim("web").service.as_deref(), Some("web.shop.svc"));
        assert_eq!(claim("web").pod, None);
    }
}
