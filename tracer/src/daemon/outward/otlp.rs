//! An event as a log record of OTLP, in its JSON encoding (OTLP specification 1.x, "JSON Protobuf
//! Encoding": numbers of 64 bits are strings). Names of attributes are OpenTelemetry's semantic
//! conventions where these have one.

use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    daemon::events::summary,
    report::{Change, Event, Finding},
};

/// Severities of the logs' data model.
const INFO: (u32, &str) = (9, "INFO");
const WARN: (u32, &str) = (13, "WARN");
const ERROR: (u32, &str) = (17, "ERROR");

/// The body of an `ExportLogsServiceRequest` with this event.
pub(super) fn logs(event: &Event) -> serde_json::Result<Bytes> {
    Ok(serde_json::to_vec(&request(event))?.into())
}

fn request(event: &Event) -> Value {
    let (number, severity) = match event.change {
        Change::New | Change::Back => WARN,
        Change::Worse => ERROR,
        Change::Resolved => INFO,
    };
    let at = event.at.as_nanosecond().to_string();
    json!({ "resourceLogs": [{
        "resource": { "attributes": resource(event) },
        "scopeLogs": [{
            "scope": { "name": "tracer", "version": event.version },
            "logRecords": [{
                "timeUnixNano": at,
                "observedTimeUnixNano": at,
                "severityNumber": number,
                "severityText": severity,
                "eventName": format!("tracer.finding.{}", event.change.name()),
                "body": { "stringValue": sentence(event) },
                "attributes": attributes(event),
            }],
        }],
    }]})
}

/// Attributes of a key and a value, those that are known.
#[derive(Default)]
struct Attributes(Vec<Value>);

impl Attributes {
    fn text(&mut self, key: &str, value: Option<&str>) {
        let value = value.map(|value| json!({ "stringValue": value }));
        self.add(key, value);
    }

    fn number(&mut self, key: &str, value: Option<u64>) {
        let value = value.map(|value| json!({ "intValue": value.to_string() }));
        self.add(key, value);
    }

    fn add(&mut self, key: &str, value: Option<Value>) {
        self.0
            .extend(value.map(|value| json!({ "key": key, "value": value })));
    }
}

/// Who leaks, in its worst instance; a service's own name is not known from outside.
fn resource(event: &Event) -> Vec<Value> {
    let process = &event.finding.process;
    let mut known = Attributes::default();
    let service = format!("unknown_service:{}", process.comm);
    known.text("service.name", Some(&service));
    known.text(
        "host.name",
        Some(event.node.as_ref().unwrap_or(&event.host)),
    );
    known.text("os.type", Some("linux"));
    known.number("process.pid", Some(process.pid.into()));
    known.text("process.executable.name", Some(&process.comm));
    known.text("process.executable.path", process.exe.as_deref());
    known.text("process.runtime.description", process.runtime.as_deref());
    known.text("container.id", process.container_id.as_deref());
    known.text("k8s.container.name", process.container.as_deref());
    known.text("k8s.pod.name", process.pod.as_deref());
    known.text("k8s.namespace.name", process.namespace.as_deref());
    let workload = process.workload.as_ref();
    if let Some((key, of)) = workload.and_then(|of| Some((workload_key(&of.kind)?, of))) {
        known.text(key, Some(&of.name));
    }
    known.text("k8s.node.name", event.node.as_deref());
    known.0
}

/// What the conventions call a workload of this kind.
fn workload_key(kind: &str) -> Option<&'static str> {
    match kind {
        "Deployment" => Some("k8s.deployment.name"),
        "StatefulSet" => Some("k8s.statefulset.name"),
        "DaemonSet" => Some("k8s.daemonset.name"),
        "ReplicaSet" => Some("k8s.replicaset.name"),
        "CronJob" => Some("k8s.cronjob.name"),
        "Job" => Some("k8s.job.name"),
        _ => None,
    }
}

/// What leaks, where and whither.
fn attributes(event: &Event) -> Vec<Value> {
    let Finding {
        id,
        kind,
        confidence,
        call_site,
        remote,
        connections,
        ..
    } = &event.finding;
    let mut known = Attributes::default();
    known.text("tracer.event.key", Some(&event.key));
    known.text("tracer.finding.id", Some(id));
    known.text("tracer.finding.kind", Some(kind.name()));
    known.text("tracer.finding.confidence", Some(confidence.name()));
    known.number("tracer.connections.open", Some(connections.open));
    known.number("tracer.connections.outlived", Some(connections.outlived));
    let growth = event.finding.growth_per_minute;
    let growth = growth.is_finite().then(|| json!({ "doubleValue": growth }));
    known.add("tracer.connections.growth_per_minute", growth);
    if let Some(site) = call_site {
        known.text("code.function.name", Some(&site.function));
        known.text("code.file.path", site.file.as_deref());
        known.number("code.line.number", site.line.map(Into::into));
    }
    known.text("tracer.remote.host", remote.host.as_deref());
    known.text("tracer.remote.url_template", remote.url.as_deref());
    ends(&mut known, "peer", Some(&remote.address));
    ends(&mut known, "local", event.finding.local.as_deref());
    known.text("tracer.remote.path", remote.path.as_deref());
    known.0
}

/// Address and port of one end, where it has them.
fn ends(known: &mut Attributes, end: &str, address: Option<&str>) {
    let Some(Ok(address)) = address.map(str::parse::<SocketAddr>) else {
        return;
    };
    let ip = address.ip().to_string();
    known.text(&format!("network.{end}.address"), Some(&ip));
    known.number(&format!("network.{end}.port"), Some(address.port().into()));
}

fn sentence(event: &Event) -> String {
    let finding = &event.finding;
    let mut sentence = format!(
        "{} in {}: {} connections that outlived their use",
        summary(finding),
        finding.process.comm,
        finding.connections.outlived
    );
    if let (Change::Resolved, Some(because)) = (event.change, &finding.resolved_because) {
        sentence.push_str(". Over: ");
        sentence.push_str(because);
    }
    sentence
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;
    use crate::{report::SCHEMA, samples};

    fn event(change: Change) -> Event {
        let mut finding = samples::finding();
        finding.resolved_because = Some("All were closed.".to_owned());
        finding.process.pod = Some("web-7c9-x2".to_owned());
        Event {
            schema: SCHEMA,
            key: "3f9a:new".to_owned(),
            change,
            at: samples::start(),
            host: "tracer-x2x".to_owned(),
            node: Some("node-a".to_owned()),
            version: "0.1.0".to_owned(),
            finding,
        }
    }

    fn value_of<'a>(attributes: &'a Value, key: &str) -> Option<&'a Value> {
        let mut all = attributes.as_array().unwrap().iter();
        all.find(|one| one["key"] == key).map(|one| &one["value"])
    }

    #[test]
    fn who_leaks_is_the_resource_and_what_leaks_the_record() {
        let request = request(&event(Change::New));
        let logs = &request["resourceLogs"][0];
        let resource = &logs["resource"]["attributes"];
        for (key, value) in [
            (
                "service.name",
                json!({ "stringValue": "unknown_service:app" }),
            ),
            ("host.name", json!({ "stringValue": "node-a" })),
            ("process.pid", json!({ "intValue": "4711" })),
            ("k8s.pod.name", json!({ "stringValue": "web-7c9-x2" })),
            ("k8s.namespace.name", json!({ "stringValue": "shop" })),
            ("k8s.deployment.name", json!({ "stringValue": "web" })),
            ("k8s.node.name", json!({ "stringValue": "node-a" })),
        ] {
            assert_eq!(value_of(resource, key), Some(&value), "{key}");
        }
        assert_eq!(value_of(resource, "container.id"), None);
        let record = &logs["scopeLogs"][0]["logRecords"][0];
        assert_eq!(record["timeUnixNano"], "1767323045000000000");
        assert_eq!(record["eventName"], "tracer.finding.new");
        assert_eq!(record["severityNumber"], 13);
        for (key, value) in [
            (
                "tracer.finding.id",
                json!({ "stringValue": "3f9a1c2b4d5e6f70" }),
            ),
            ("tracer.connections.outlived", json!({ "intValue": "820" })),
            ("code.function.name", json!({ "stringValue": "main.fetch" })),
            ("code.line.number", json!({ "intValue": "24" })),
            (
                "network.peer.address",
                json!({ "stringValue": "127.0.0.1" }),
            ),
            ("network.peer.port", json!({ "intValue": "8080" })),
        ] {
            assert_eq!(value_of(&record["attributes"], key), Some(&value), "{key}");
        }
        let over = super::request(&event(Change::Resolved));
        let record = &over["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
        assert_eq!(record["severityText"], "INFO");
        let body = record["body"]["stringValue"].as_str().unwrap();
        assert!(body.ends_with("Over: All were closed."), "{body}");
    }
}
