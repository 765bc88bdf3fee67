//! Answers of the API server.

use std::{
    collections::BTreeMap,
    io::{Result, Write as _},
    net::TcpStream,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Asked, Change, NODE, Shared, field, head, refused};

/// How often a watch is told how far it has come.
const BOOKMARK_EVERY: Duration = Duration::from_secs(2);

/// Answers what comes over one connection, one after the other.
pub(super) fn connection(shared: &Shared, stream: &TcpStream) {
    while let Some(head) = head(stream) {
        if !request(shared, stream, &head).unwrap_or(false) {
            break;
        }
    }
}

/// Answers one request; whether another may come.
fn request(shared: &Shared, stream: &TcpStream, head: &str) -> Result<bool> {
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let field = |name: &str| field(head, name);
    let accept = field("accept").unwrap_or_default();
    let token = format!("Bearer {}", shared.pods().token);
    let (place, query) = path.split_once('?').unwrap_or((&path, ""));
    let query: BTreeMap<&str, &str> = query.split('&').filter_map(|p| p.split_once('=')).collect();
    let selected = query.get("fieldSelector").copied();
    let status = if field("authorization") != Some(token) {
        401
    } else if !head.starts_with("GET ") || place != "/api/v1/pods" {
        403
    } else if selected != Some(&format!("spec.nodeName%3D{NODE}")) {
        400
    } else {
        200
    };
    let asked = Asked {
        path: path.clone(),
        accept: accept.clone(),
        status,
    };
    shared.pods().asked.push(asked);
    let whole = !accept.contains("as=PartialObjectMetadata");
    if status != 200 {
        return once(stream, status, &refused(status, "refused"));
    }
    if query.get("watch") != Some(&"true") {
        let pods = shared.pods();
        let items: Vec<Value> = pods.now.iter().map(|pod| shown(pod, whole)).collect();
        let list = json!({
            "kind": if whole { "PodList" } else { "PartialObjectMetadataList" },
            "apiVersion": if whole { "v1" } else { "meta.k8s.io/v1" },
            "metadata": { "resourceVersion": pods.version.to_string() },
            "items": items,
        });
        drop(pods);
        return once(stream, 200, &list);
    }
    let since = query
        .get("resourceVersion")
        .and_then(|version| version.parse().ok());
    let lasts = query
        .get("timeoutSeconds")
        .and_then(|seconds| seconds.parse().ok());
    let lasts = Duration::from_secs(lasts.unwrap_or(60));
    watch(shared, stream, since.unwrap_or(0), lasts, whole)?;
    Ok(true)
}

/// What is sent of a pod.
fn shown(pod: &Value, whole: bool) -> Value {
    if whole {
        return pod.clone();
    }
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": pod["metadata"],
    })
}

fn once(mut stream: &TcpStream, status: u16, body: &Value) -> Result<bool> {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes())?;
    Ok(true)
}

/// Sends changes as they come, each a line in a chunk of its own.
fn watch(
    shared: &Shared,
    mut stream: &TcpStream,
    mut since: u64,
    lasts: Duration,
    whole: bool,
) -> Result<()> {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes())?;
    let (end, mut marked) = (Instant::now() + lasts, Instant::now());
    while Instant::now() < end && !shared.stopped.load(Ordering::SeqCst) {
        let pods = shared.pods();
        // changes have numbers without gaps, as long as they are remembered
        let oldest = pods.changes.first().map_or(pods.version + 1, |c| c.version);
        if since + 1 < oldest {
            let gone = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": format!("too old resource version: {since}"), "reason": "Expired", "code": 410,
            });
            chunk(stream, &json!({ "type": "ERROR", "object": gone }))?;
            break;
        }
        let new: Vec<Change> = (pods.changes.iter())
            .filter(|change| change.version > since)
            .cloned()
            .collect();
        if new.is_empty() {
            drop(shared.wait(pods));
        } else {
            drop(pods);
        }
        for change in new {
            let object = shown(&change.pod, whole);
            chunk(stream, &json!({ "type": change.sort, "object": object }))?;
            since = change.version;
        }
        if marked.elapsed() >= BOOKMARK_EVERY {
            marked = Instant::now();
            let metadata = json!({ "resourceVersion": since.to_string() });
            let object = json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata });
            chunk(stream, &json!({ "type": "BOOKMARK", "object": object }))?;
        }
    }
    stream.write_all(b"0\r\n\r\n")
}

fn chunk(mut stream: &TcpStream, event: &Value) -> Result<()> {
    let line = format!("{event}\n");
    let chunk = format!("{:x}\r\n{line}\r\n", line.len());
    stream.write_all(chunk.as_bytes())
}
