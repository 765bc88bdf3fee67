//! Go programs: the line that issued the request, its URL, and the kind of leak; healthy twins
//! stay clean. One `tracer check` watches a program for each scenario at the same time.
//!
//! `TRACER_TEST_FULL=1` adds the other versions of Go and ways to link.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    go::{self, Variant},
    host,
    program::Program,
    tests,
    tracer::{self, Report},
};

tests![
    oldest_version,
    newest_version,
    leaked_before_tracing,
    leaked_before_and_during_tracing,
];

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
    leak("sql-open", "client_per_request", "LEAK sql-open", ""),
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

fn oldest_version() -> Result<()> {
    one_program("1.21.13", Variant::Stripped)?;
    if full() {
        one_program("1.21.13", Variant::Plain)?;
    }
    Ok(())
}

fn newest_version() -> Result<()> {
    one_program("1.27.3", Variant::Plain)?;
    if full() {
        for variant in [Variant::Stripped, Variant::Pie, Variant::Cgo] {
            one_program("1.27.3", variant)?;
        }
        for version in &go::ALL_VERSIONS[1..6] {
            for variant in [Variant::Plain, Variant::Stripped] {
                one_program(version, variant)?;
            }
        }
    }
    Ok(())
}

/// Whether every version and variant is asked for.
fn full() -> bool {
    std::env::var_os("TRACER_TEST_FULL").is_some()
}

fn one_program(version: &str, variant: Variant) -> Result<()> {
    host::require_root()?;
    let program = go::build(version, variant)?;
    let directory = tempfile::tempdir()?;
    let (_server, addresses) = Program::ready(
        &program,
        &["serve", "-dir", &directory.path().to_string_lossy()],
    )?;
    let mut scenarios: Vec<&str> = LEAKS.iter().map(|l| l.scenario).collect();
    scenarios.dedup();
    scenarios.extend(HEALTHY);
    let mut clients = BTreeMap::new();
    let duration = format!("{WATCH}s");
    let mut arguments: Vec<String> = ["check", "-o", "json", "--duration", &duration]
        .map(str::to_owned)
        .to_vec();
    for scenario in &scenarios {
        let mut line = vec![scenario, "-wait", "-servers", &*addresses];
        line.extend(REPEAT);
        let (client, _) = Program::ready(&program, &line)?;
        arguments.extend(["--pid".to_owned(), client.pid().to_string()]);
        clients.insert(*scenario, client);
    }
    let mut check = tracer::start(&arguments)?;
    tracer::attached(&mut check)?;
    for client in clients.values_mut() {
        client.write("go\n")?;
    }
    let ended = check.end(host::seconds(WATCH + 60))?;
    let report = Report::parse(&ended.stdout).with_context(|| ended.stderr.clone())?;
    let mut wrong = 0;
    let title = format!("go {version} {}", variant.name());
    println!("{title:18} {:16} {:26} line  url", "scenario", "kind");
    for scenario in &scenarios {
        let pid = clients.get(scenario).map_or(0, Program::pid);
        let findings: Vec<&Value> = report
            .findings()
            .iter()
            .filter(|f| f["process"]["pid"] == pid)
            .collect();
        let expected: Vec<&Leak> = LEAKS.iter().filter(|l| l.scenario == *scenario).collect();
        let fits = findings.len() == expected.len()
            && expected
                .iter()
                .all(|leak| findings.iter().any(|f| is(f, leak, version)));
        for finding in &findings {
            println!(
                "{:18} {scenario:16} {:26} {:>4}  {}",
                if fits { "ok" } else { "WRONG" },
                finding["kind"].as_str().unwrap_or("?"),
                finding["call_site"]["line"],
                finding["remote"]["url"].as_str().unwrap_or("-"),
            );
            if !fits {
                println!("{finding:#}");
            }
        }
        if findings.is_empty() {
            println!(
                "{:18} {scenario:16} clean",
                if fits { "ok" } else { "WRONG" }
            );
        }
        wrong += usize::from(!fits);
    }
    ensure!(
        wrong == 0,
        "{title}: {wrong} of {} are wrong: {report}",
        scenarios.len()
    );
    Ok(())
}

/// Whether the program's own pools were asked, and its live settings are those of the source.
fn pools_fit(leak: &Leak, go: &Value) -> bool {
    let settings = &go["transport"];
    match leak.scenario {
        "body-http" => {
            settings["max_conns_per_host"] == 500
                && settings["max_idle_conns_per_host"] == 7
                && settings["disable_keep_alives"] == false
                && go["transports"] == 1
                && go["main_module"] == "fixture.example/app"
                && go["states"]["response"].as_u64() > Some(20)
        }
        "client-per-call" => {
            settings["max_idle_conns_per_host"] == 3
                && go["transports"].as_u64() > Some(20)
                && go["requests_per_connection"] == 1.0
        }
        "follow" => go["states"]["reading"].as_u64() > Some(20),
        "h2-stream" => go["states"]["response"].as_u64() > Some(20),
        "raw-dial" | "created-by" | "sql-open" | "finalizer" => go.is_null(),
        _ => true,
    }
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
        && pools_fit(leak, &finding["go"])
}

/// A client that runs by itself, and its server.
fn running(scenario: &str, n: &str) -> Result<(Program, Program, tempfile::TempDir)> {
    host::require_root()?;
    let program = go::build("1.27.3", Variant::Stripped)?;
    let directory = tempfile::tempdir()?;
    let (server, addresses) = Program::ready(
        &program,
        &["serve", "-dir", &directory.path().to_string_lossy()],
    )?;
    let (client, _) = Program::ready(
        &program,
        &[scenario, "-servers", &addresses, "-n", n, "-every", "250ms"],
    )?;
    Ok((client, server, directory))
}

fn leaked_before_tracing() -> Result<()> {
    let (mut client, _server, _directory) = running("body-http", "12")?;
    client.line("DONE", Duration::from_secs(20))?;
    // The kernel keeps no date of birth for sockets, so only patience proves a standing stock.
    let report = tracer::check(client.pid(), 40)?.report()?;
    let finding = report.only()?;
    ensure!(finding["kind"] == BODY, "{report}");
    ensure!(finding["connections"]["open"] == 12, "{report}");
    ensure!(finding["call_site"].is_null(), "{report}");
    ensure!(finding["stack_quality"] == "none", "{report}");
    let url = finding["remote"]["url"].as_str().unwrap_or("");
    ensure!(url.ends_with("/v2/app/tags/list?token=…"), "{report}");
    Ok(())
}

fn leaked_before_and_during_tracing() -> Result<()> {
    let (client, _server, _directory) = running("body-http", "200")?;
    let pid = client.pid();
    tracer_tests::wait::until("ten connections", Duration::from_secs(20), || {
        Ok(host::socket_inodes(pid)?.len() >= 10)
    })?;
    let report = tracer::check(pid, 20)?.report()?;
    let finding = report.only()?;
    let [(file, line)] = &go::marked("LEAK body-http")?[..] else {
        anyhow::bail!("marked more than once");
    };
    ensure!(finding["kind"] == BODY, "{report}");
    ensure!(
        finding["call_site"]["line"] == *line
            && finding["call_site"]["file"].as_str() == file.to_str(),
        "{report}"
    );
    // Four a second while it was watched, and those from before.
    ensure!(
        finding["connections"]["open"].as_u64() >= Some(60),
        "{report}"
    );
    Ok(())
}
