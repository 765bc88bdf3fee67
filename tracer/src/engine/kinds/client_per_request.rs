use super::{Case, Class, Fit, Kind, Mask, Rules, Spec, never};

/// Connections that carried one request each.
pub const MASK: Mask = Mask::of(&[Class::OneShot]);

/// A new client for each call.
pub const SPEC: Spec = Spec {
    kind: Kind::ClientPerRequest,
    summary: "A new client, transport or pool for each call: connections sit idle after one request \
              and are never reused.",
    documentation: DOCUMENTATION,
    client: rule,
    server: never,
    condition,
    advice: |_| {
        "Create one client (transport, session, pool) at start and share it between calls; where a \
         client must be short-lived, close it and its idle connections. If there is only one \
         already, its responses are not finished: read each to its end, or close it."
    },
};

fn rule(rules: &Rules<'_>, before: &[Fit]) -> Option<Fit> {
    if before.iter().any(|fit| fit.mask.contains(MASK)) {
        return None;
    }
    let tally = &rules.state.tally;
    // A pool that reuses some of its connections is no client per request.
    (tally.reused * rules.settings().reuse_one_in <= tally.open)
        .then(|| {
            rules
                .growth(SPEC.kind, MASK, rules.settings().ordinary)
                .or_else(|| rules.plateau(SPEC.kind, MASK))
        })
        .flatten()
}

fn condition(case: &Case<'_>) -> String {
    format!(
        "{} carried one request and have been idle since, for up to {}; {} ever reused.",
        case.of(),
        case.longest(),
        match case.state.tally.reused {
            0 => "none was".to_owned(),
            1 => "1 was".to_owned(),
            n => format!("{n} were"),
        }
    )
}

const DOCUMENTATION: &str = r#"
Each call makes a client with a pool of its own. Its connection goes back into that pool, kept alive
for a next request that never comes. It is as costly where timeouts hold the number: each call pays
for a new connection.

**Healthy look-alikes.** A pool that fills up: it stops growing, and its connections are reused. A
connection that speaks a protocol of its own (MQTT, a database, an upgraded websocket) is idle after
its first exchange by design; those are judged by their growth alone. A small response that nobody
consumed looks the same from the kernel's side when the client's library has it in its own buffer.

**Confidence.** Medium: growth over eight seconds, less than one connection in ten reused. High:
twelve seconds, ten connections.

**What to change.**

- Go: one `http.Client` (and `http.Transport`) in a package variable or a struct.
- Python: one `requests.Session` or `httpx.Client` for all calls, or `with` around a short-lived one.
- Node: one `http.Agent({ keepAlive: true })`, one undici `Pool`.
- Java: one `HttpClient` in a static field. PHP, Ruby: one handle or `Net::HTTP.start` with a block.
"#;
