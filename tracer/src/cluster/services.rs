//! Services, by their cluster addresses.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use super::{
    namers::{Metadata, Namer, Port, full_name},
    remotes::{Claim, Source},
};

/// A service.
#[derive(Debug, Clone, Deserialize)]
pub struct Service {
    metadata: Metadata,
    spec: Option<Spec>,
}

#[derive(Debug, Clone, Deserialize)]
struct Spec {
    /// The first of them; the only one where the server does not know of several.
    #[serde(rename = "clusterIP")]
    address: Option<String>,
    #[serde(rename = "clusterIPs")]
    addresses: Option<Vec<String>>,
    ports: Option<Vec<Port>>,
}

impl Namer for Service {
    const SOURCE: Source = Source::Services;
    const PATH: &'static str = "/api/v1/services";
    const RESOURCE: &'static str = "services";
    const CALLED: &'static str = "the cluster's services";

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Its addresses with each of its ports. A headless one has none: it says `None`.
    fn claims(&self) -> Vec<Claim> {
        let service = full_name(&self.metadata.name, &self.metadata.namespace, "svc");
        let (Some(spec), Some(service)) = (&self.spec, service) else {
            return Vec::new();
        };
        let addresses = match &spec.addresses {
            Some(addresses) => addresses.as_slice(),
            None => spec.address.as_slice(),
        };
        let addresses = addresses
            .iter()
            .filter_map(|text| text.parse::<IpAddr>().ok());
        let ports = || {
            let ports = spec.ports.iter().flatten();
            ports.filter_map(Port::of_tcp)
        };
        let claim = |(address, port)| Claim {
            at: SocketAddr::new(address, port),
            service: Some(service.clone()),
            pod: None,
        };
        addresses
            .flat_map(|address| ports().map(move |port| (address, port)))
            .map(claim)
            .collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said(spec: &Value) -> Vec<(String, String)> {
        let metadata =
            json!({ "name": "web", "namespace": "shop", "uid": "1", "labels": { "a": "b" } });
        let service: Service =
            serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap();
        let text = |claim: Claim| (claim.at.to_string(), claim.service.unwrap().to_string());
        service.claims().into_iter().map(text).collect()
    }

    #[test]
    fn each_address_is_named_with_each_port_of_tcp() {
        let said = said(&json!({
            "clusterIP": "10.96.0.7",
            "clusterIPs": ["10.96.0.7", "fd00::7"],
            "ports": [{ "port": 80, "targetPort": "http" }, { "port": 53, "protocol": "UDP" },
                { "port": 53, "protocol": "TCP" }, { "port": 0 }, { "port": 70_000 }],
        }));
        let at: Vec<&str> = said.iter().map(|(at, _)| &**at).collect();
        assert_eq!(
            at,
            [
                "10.96.0.7:80",
                "10.96.0.7:53",
                "[fd00::7]:80",
                "[fd00::7]:53"
            ]
        );
        assert!(said.iter().all(|(_, name)| name == "web.shop.svc"));
    }

    #[test]
    fn who_knows_of_one_address_names_that() {
        let ports = json!([{ "port": 80 }]);
        let said = said(&json!({ "clusterIP": "10.96.0.7", "ports": ports }));
        assert_eq!(said[0].0, "10.96.0.7:80");
    }

    #[test]
    fn headless_and_external_ones_have_no_address() {
        let ports = json!([{ "port": 80 }]);
        for spec in [
            json!({ "clusterIP": "None", "clusterIPs": ["None"], "ports": ports }),
            json!({ "type": "ExternalName", "externalName": "example.org" }),
            json!({ "clusterIP": "", "ports": ports }),
            json!({ "clusterIP": "10.96.0.7", "ports": null }),
            json!(null),
        ] {
            assert_eq!(said(&spec), [], "{spec}");
        }
    }
}
