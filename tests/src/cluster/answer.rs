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
/// Objects on a page, where pages are asked for: servers may send fewer than were.
const PAGE: usize = 2;

/// Kinds of objects: the path of all of them, and whose they are.
const KINDS: &[(&str, &str, &str)] = &[
    ("/api/v1/pods", "Pod", "v1"),
    ("/api/v1/services", "Service", "v1"),
    (
        "/apis/discovery.k8s.io/v1/endpointslices",
        "EndpointSlice",
        "discovery.k8s.io/v1",
    ),
];

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
    let token = format!("Bearer {}", shared.objects().token);
    let (place, query) = path.split_once('?').unwrap_or((&path, ""));
    let query: BTreeMap<&str, &str> = query.split('&').filter_map(|p| p.split_once('=')).collect();
    let selected = query.get("fieldSelector").copied();
    let of_node = format!("spec.nodeName%3D{NODE}");
    let (_, kind, group) = *KINDS
        .iter()
        .find(|of| of.0 == place)
        .unwrap_or(&("", "", ""));
    let status = if field("authorization") != Some(token) {
        401
    } else if !head.starts_with("GET ") || kind.is_empty() {
        403
    } else if selected != (kind == "Pod").then_some(&*of_node) {
        400
    } else {
        200
    };
    let asked = Asked {
        path: path.clone(),
        accept: accept.clone(),
        status,
    };
    shared.objects().asked.push(asked);
    let whole = !accept.contains("as=PartialObjectMetadata");
    if status != 200 {
        return once(stream, status, &refused(status, "refused"));
    }
    if query.get("watch") != Some(&"true") {
        let objects = shared.objects();
        let from = query.get("continue").and_then(|from| from.parse().ok());
        let from: usize = from.unwrap_or(0);
        let all = objects.now.iter().filter(|object| object["kind"] == kind);
        let mut items: Vec<Value> = all.skip(from).map(|object| shown(object, whole)).collect();
        let mut metadata = json!({ "resourceVersion": objects.version.to_string() });
        drop(objects);
        if query.contains_key("limit") && items.len() > PAGE {
            items.truncate(PAGE);
            metadata["continue"] = json!((from + PAGE).to_string());
        }
        let list = json!({
            "kind": if whole { format!("{kind}List") } else { "PartialObjectMetadataList".to_owned() },
            "apiVersion": if whole { group } else { "meta.k8s.io/v1" },
            "metadata": metadata,
            "items": items,
        });
        return once(stream, 200, &list);
    }
    let since = query
        .get("resourceVersion")
        .and_then(|version| version.parse().ok());
    let lasts = query
        .get("timeoutSeconds")
        .and_then(|seconds| seconds.parse().ok());
    let lasts = Duration::from_secs(lasts.unwrap_or(60));
    let of = Form { kind, group, whole };
    watch(shared, stream, since.unwrap_or(0), lasts, &of)?;
    Ok(true)
}

/// Which objects, and how much of them.
struct Form {
    kind: &'static str,
    group: &'static str,
    whole: bool,
}

/// What is sent of an object.
fn shown(object: &Value, whole: bool) -> Value {
    if whole {
        return object.clone();
    }
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
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
    of: &Form,
) -> Result<()> {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes())?;
    let (end, mut marked) = (Instant::now() + lasts, Instant::now());
    while Instant::now() < end && !shared.stopped.load(Ordering::SeqCst) {
        let objects = shared.objects();
        // changes have numbers without gaps, as long as they are remembered
        let oldest = objects.changes.first();
        let oldest = oldest.map_or(objects.version + 1, |c| c.version);
        if since + 1 < oldest {
            let gone = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": format!("too old resource version: {since}"), "reason": "Expired", "code": 410,
            });
            chunk(stream, &json!({ "type": "ERROR", "object": gone }))?;
            break;
        }
        let new: Vec<Change> = (objects.changes.iter())
            .filter(|change| change.version > since)
            .cloned()
            .collect();
        if new.is_empty() {
            drop(shared.wait(objects));
        } else {
            drop(objects);
        }
        for change in new {
            since = change.version;
            if change.object["kind"] == of.kind {
                let object = shown(&change.object, of.whole);
                chunk(stream, &json!({ "type": change.sort, "object": object }))?;
            }
        }
        if marked.elapsed() >= BOOKMARK_EVERY {
            marked = Instant::now();
            let metadata = json!({ "resourceVersion": since.to_string() });
            let (kind, group) = match of.whole {
                true => (of.kind, of.group),
                false => ("PartialObjectMetadata", "meta.k8s.io/v1"),
            };
            let object = json!({ "kind": kind, "apiVersion": group, "metadata": metadata });
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
