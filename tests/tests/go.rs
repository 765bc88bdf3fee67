//! Go programs: the line that issued the request, its URL, and the kind of leak; healthy twins
//! stay clean. One `tracer check` watches several programs, each with a process for every scenario.
//!
//! `TRACER_TEST_FULL=1` adds the other versions of Go and ways to link.

use std::{collections::BTreeMap, path::PathBuf, slice};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    go::{self, Variant},
    host,
    program::Program,
    tests,
    tracer::{self, Report},
};

tests![older_versions, newer_versions];

/// Seconds that the check watches.
const WATCH: u64 = 25;
/// Repetitions of each scenario, and the time between them: more than the check watches.
const REPEAT: [&str; 4] = ["-n", "200", "-every", "250ms"];

/// What a scenario leads to.
struct Leak {
    scenario: &'static str,
    kind: &'static str,
    /// Comment on the line to blame.
    mark: &'static str,
    /// End of the URL template, empty where none is known.
    url: &'static str,
}

const fn leak(
    scenario: &'static str,
    kind: &'static str,
    mark: &'static str,
    url: &'static str,
) -> Leak {
    Leak {
        scenario,
        kind,
        mark,
        url,
    }
}

const BODY: &str = "response_body_not_closed";

const LEAKS: &[Leak] = &[
    leak(
        "body-http",
        BODY,
        "LEAK body-http",
        "/v2/app/tags/list?token=…",
    ),
    leak(
        "body-https",
        BODY,
        "LEAK body-https",
        "/v2/app/manifests/latest",
    ),
    leak(
        "body-unix",
        BODY,
        "LEAK body-unix",
        "engine.sock/containers/json",
    ),
    leak("error-path", BODY, "LEAK error-path", "/missing"),
    leak("dependency", BODY, "LEAK dependency", "/v2/dependency"),
    leak("helper", BODY, "LEAK helper", "/v2/helper"),
    leak("dep-helper", BODY, "LEAK dep-helper", "/v2/status"),
    leak("proxy-plain", BODY, "LEAK proxy-plain", "/v2/proxied"),
    leak("proxy-connect", BODY, "LEAK proxy-connect", "/v2/tunnelled"),
    leak(
        "client-per-call",
        "client_per_request",
        "LEAK client-per-call",
        "/small",
    ),
    leak(
        "follow",
        "stream_never_cancelled",
        "LEAK follow",
        "/logs?follow=…",
    ),
    leak("h2-stream", BODY, "LEAK h2-stream", "/v2/watch"),
    leak("two-leaks", BODY, "LEAK two-leaks one", "/v2/one"),
    leak("two-leaks", "never_closed", "LEAK two-leaks two", ""),
    leak("later-request", BODY, "LEAK later-request", "/v2/later"),
    leak("raw-dial", "never_closed", "LEAK raw-dial", ""),
    leak("created-by", "never_closed", "LEAK created-by", ""),
    leak("asked-aside", BODY, "LEAK asked-aside", "/v2/aside"),
    leak("layers", BODY, "LEAK layers", "/v2/layers"),
    leak("sql-open", "never_closed", "LEAK sql-open", ""),
    leak("finalizer", "never_closed", "LEAK finalizer", ""),
];

const HEALTHY: &[&str] = &[
    "pool",
    "read-eof",
    "no-body",
    "long-poll",
    "events",
    "websocket",
    "slow-body",
    "timeout",
    "sql-pool",
    "h2-healthy",
];

fn older_versions() -> Result<()> {
    if !full() {
        return matrix(&[("1.21.13", Variant::Stripped)]);
    }
    for version in &go::ALL_VERSIONS[..4] {
        matrix(&[(version, Variant::Plain), (version, Variant::Stripped)])?;
    }
    Ok(())
}

fn newer_versions() -> Result<()> {
    if !full() {
        return matrix(&[("1.27.3", Variant::Plain)]);
    }
    for version in &go::ALL_VERSIONS[4..] {
        matrix(&[(version, Variant::Plain), (version, Variant::Stripped)])?;
    }
    matrix(&[
        ("1.27.3", Variant::Pie),
        ("1.27.3", Variant::Cgo),
        ("1.27.3", Variant::Race),
    ])
}

/// Whether every version and variant is asked for.
pub fn full() -> bool {
    std::env::var_os("TRACER_TEST_FULL").is_some()
}

/// Every scenario on each of these programs, as a table.
fn matrix(builds: &[(&str, Variant)]) -> Result<()> {
    let mut scenarios: Vec<&str> = LEAKS.iter().map(|l| l.scenario).collect();
    scenarios.dedup();
    scenarios.extend(HEALTHY);
    let mut programs = Vec::new();
    for &(version, variant) in builds {
        programs.push(Built {
            title: format!("go {version} {}", variant.name()),
            version: version.to_owned(),
            path: go::build(version, variant)?,
        });
    }
    let (report, findings) = watch(&programs, &scenarios)?;
    let mut wrong = 0;
    for (program, found) in programs.iter().zip(&findings) {
        for (scenario, found) in found {
            wrong += usize::from(!told(program, scenario, found));
        }
    }
    ensure!(
        wrong == 0,
        "{wrong} of {} are wrong: {}",
        programs.len() * scenarios.len(),
        report.0["coverage"]
    );
    Ok(())
}

/// A fixture program.
pub struct Built {
    /// Name in the table.
    pub title: String,
    /// Version of Go that it claims.
    pub version: String,
    /// The executable.
    pub path: PathBuf,
}

/// Findings by scenario.
pub type Found = BTreeMap<String, Vec<Value>>;

/// Lets each program do each scenario in a process of its own, all watched by one check; returns
/// the findings of each program.
pub fn watch(programs: &[Built], scenarios: &[&str]) -> Result<(Report, Vec<Found>)> {
    host::require_root()?;
    let duration = format!("{WATCH}s");
    let mut arguments: Vec<String> = ["check", "-o", "json", "--duration", &duration]
        .map(str::to_owned)
        .to_vec();
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    for program in programs {
        let directory = tempfile::tempdir()?;
        let place = directory.path().to_string_lossy().into_owned();
        let (server, addresses) = Program::ready(&program.path, &["serve", "-dir", &place])?;
        servers.push((server, directory));
        let mut started = BTreeMap::new();
        for scenario in scenarios {
            let mut line = vec![scenario, "-wait", "-servers", &*addresses];
            line.extend(REPEAT);
            let (client, _) = Program::ready(&program.path, &line)?;
            arguments.extend(["--pid".to_owned(), client.pid().to_string()]);
            started.insert((*scenario).to_owned(), client);
        }
        clients.push(started);
    }
    let mut check = tracer::start(&arguments)?;
    tracer::attached(&mut check)?;
    for client in clients.iter_mut().flat_map(BTreeMap::values_mut) {
        client.write("go\n")?;
    }
    let ended = check.end(host::seconds(WATCH + 120))?;
    let report = Report::parse(&ended.stdout).with_context(|| ended.stderr.clone())?;
    let of = |client: &Program| {
        let mine = |f: &&Value| f["process"]["pid"] == client.pid();
        report.findings().iter().filter(mine).cloned().collect()
    };
    let found = clients
        .iter()
        .map(|started| started.iter().map(|(s, c)| (s.clone(), of(c))).collect())
        .collect();
    for (scenario, client) in clients.iter_mut().flatten() {
        ensure!(
            client.runs()? && client.stderr().is_empty(),
            "{scenario} misbehaved: {}",
            client.stderr()
        );
    }
    Ok((report, found))
}

/// Prints the lines of the table for a scenario; whether they are as they should be.
fn told(program: &Built, scenario: &str, found: &[Value]) -> bool {
    let expected: Vec<&Leak> = LEAKS.iter().filter(|l| l.scenario == scenario).collect();
    let fits = found.len() == expected.len()
        && expected
            .iter()
            .all(|leak| found.iter().any(|f| is(f, leak, &program.version)));
    let verdict = if fits { "ok" } else { "WRONG" };
    let title = &program.title;
    for finding in found {
        println!(
            "{title:20} {scenario:16} {verdict:5} {:26} {}:{} {}",
            finding["kind"].as_str().unwrap_or("?"),
            finding["call_site"]["function"].as_str().unwrap_or("?"),
            finding["call_site"]["line"],
            finding["remote"]["url"].as_str().unwrap_or("-"),
        );
        if !fits {
            println!("{finding:#}");
        }
    }
    if found.is_empty() {
        println!("{title:20} {scenario:16} {verdict:5} clean");
    }
    fits
}

/// Whether the program's own pools were asked, and its live settings are those of the source.
fn pools_fit(leak: &Leak, finding: &Value) -> bool {
    let go = &finding["go"];
    let settings = &go["transport"];
    match leak.scenario {
        "body-http" => {
            settings["max_conns_per_host"] == 500
                && settings["max_idle_conns_per_host"] == 7
                && settings["disable_keep_alives"] == false
                && go["transports"] == 1
                && go["main_module"] == "fixture.example/app"
                && go["states"]["response"].as_u64() > Some(20)
                && go["peak_per_host"].as_u64() > Some(20)
                && go["reuse_ratio"] == 0.0
                && says(go, "MaxConnsPerHost = 500 is in force")
                && says(go, "apply to idle connections only; none of these is idle")
        }
        // Each connection carried an innocent request before, so it was used again once.
        "later-request" => go["reuse_ratio"] == 0.5,
        "client-per-call" => {
            settings["max_idle_conns_per_host"] == 3
                && go["transports"].as_u64() > Some(20)
                && go["requests_per_connection"] == 1.0
        }
        "follow" => go["states"]["reading"].as_u64() > Some(20),
        "h2-stream" => go["states"]["response"].as_u64() > Some(20),
        "helper" => {
            let callers = finding["callers"].as_array();
            callers.is_some_and(|callers| {
                let at = |mark| calls(callers, mark);
                callers.len() == 2 && at("CALLER helper first") && at("CALLER helper second")
            })
        }
        // One leak, of the dependency, for whoever calls it.
        "dep-helper" => {
            let callers = finding["called_by"].as_array();
            let both = callers.is_some_and(|callers| {
                callers.len() == 2
                    && callers
                        .iter()
                        .all(|caller| calls(slice::from_ref(caller), leak.mark))
            });
            both && finding["library"]["name"] == "fixture.example/fetch"
        }
        "raw-dial" | "created-by" | "sql-open" | "finalizer" => go.is_null(),
        _ => true,
    }
}

/// Whether one of the sentences has this in it.
fn says(go: &Value, words: &str) -> bool {
    let notes = go["notes"].as_array();
    notes.is_some_and(|notes| {
        let has = |note: &Value| note.as_str().is_some_and(|note| note.contains(words));
        notes.iter().any(has)
    })
}

/// Whether one of the callers is the marked line.
fn calls(callers: &[Value], mark: &str) -> bool {
    let Ok(marked) = go::marked(mark) else {
        return false;
    };
    callers.iter().any(|caller| {
        marked
            .iter()
            .any(|(file, line)| caller["file"].as_str() == file.to_str() && caller["line"] == *line)
    })
}

fn is(finding: &Value, leak: &Leak, version: &str) -> bool {
    let Ok(marked) = go::marked(leak.mark) else {
        return false;
    };
    let site = &finding["call_site"];
    let at_mark = marked
        .iter()
        .any(|(file, line)| site["file"].as_str() == file.to_str() && site["line"] == *line);
    let url = finding["remote"]["url"].as_str().unwrap_or("");
    at_mark
        && finding["kind"] == leak.kind
        && finding["role"] == "client"
        && url.ends_with(leak.url)
        && (leak.url.is_empty() == url.is_empty())
        && finding["process"]["runtime"] == format!("go{version}")
        && pools_fit(leak, finding)
}
