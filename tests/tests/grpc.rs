//! gRPC: streams that nobody ends are found although their connection is one and healthy, at the line
//! that asked for them, in Go's own transport as in the C core; calls that end are no leak.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    corpus::subjects,
    go,
    host::{self, seconds},
    languages,
    program::Program,
    tests,
    tracer::{self, Report},
};

use crate::go_views::at_mark;

tests![streams_of_grpc_go, streams_of_the_c_core];

/// Watches clients, which begin once they are.
fn watched(clients: &mut [Program], watch: u64) -> Result<Report> {
    let duration = format!("{watch}s");
    let mut arguments: Vec<String> = ["check", "-o", "json", "--duration", &duration]
        .map(str::to_owned)
        .to_vec();
    for client in &*clients {
        arguments.extend(["--pid".to_owned(), client.pid().to_string()]);
    }
    let mut check = tracer::start(&arguments)?;
    tracer::attached(&mut check)?;
    for client in &mut *clients {
        client.write("go\n")?;
    }
    let ended = check.end(seconds(watch + 90))?;
    for client in clients {
        ensure!(client.runs()?, "it ended: {}", client.stderr());
    }
    Report::parse(&ended.stdout).with_context(|| ended.stderr.clone())
}

fn findings_of<'a>(report: &'a Report, client: &Program) -> Vec<&'a Value> {
    let all = report.findings().iter();
    let own = all.filter(|f| {
        let instances = f["instances"].as_array();
        instances.is_some_and(|all| all.iter().any(|one| one["pid"] == client.pid()))
    });
    own.collect()
}

fn streams_of_grpc_go() -> Result<()> {
    host::require_root()?;
    let program = go::build_with_grpc("1.27.3")?;
    let (_server, addresses) = Program::ready(&program, &["serve"])?;
    let (mut modes, mut clients) = (Vec::new(), Vec::new());
    for address in addresses.split_whitespace() {
        for mode in ["streams", "connections", "calls", "held"] {
            modes.push((mode, address));
            clients.push(Program::ready(&program, &[mode, address])?.0);
        }
    }
    let report = watched(&mut clients, 25)?;
    for ((mode, address), client) in modes.into_iter().zip(&clients) {
        let findings = findings_of(&report, client);
        if matches!(mode, "calls" | "held") {
            ensure!(findings.is_empty(), "{mode} {address}: {report}");
            continue;
        }
        let [finding] = findings[..] else {
            anyhow::bail!("{mode} {address}: one finding: {report}");
        };
        let said = match mode {
            "streams" => stream_of_go(finding, address),
            _ => connection_of_go(finding),
        };
        said.with_context(|| format!("{mode} {address}: {finding:#}"))?;
    }
    let degraded = report.0["coverage"]["degraded"].to_string();
    ensure!(!degraded.contains("grpc"), "{degraded}");
    Ok(())
}

fn stream_of_go(finding: &Value, address: &str) -> Result<()> {
    ensure!(finding["kind"] == "stream_never_cancelled", "kind");
    ensure!(at_mark(finding, "LEAK grpc-streams")?, "call site");
    let url = finding["remote"]["url"].as_str().unwrap_or_default();
    let host = address.trim_start_matches("https://");
    let scheme = if host == address { "http" } else { "https" };
    ensure!(url == format!("{scheme}://{host}/fixture.Log/Watch"), "URL");
    // four a second, those of the beginning left out
    let open = finding["connections"]["open"].as_u64();
    ensure!(open > Some(40) && open < Some(110), "{open:?}");
    ensure!(
        finding["library"].is_null(),
        "the library does as it is told"
    );
    ensure!(finding["go"]["states"]["reading"].as_u64() > Some(40), "go");
    Ok(())
}

/// Each connection has one call, which has ended: what leaks is the connection.
fn connection_of_go(finding: &Value) -> Result<()> {
    ensure!(finding["kind"] == "client_per_request", "kind");
    ensure!(at_mark(finding, "LEAK grpc-connections")?, "call site");
    let open = finding["connections"]["open"].as_u64();
    ensure!(open > Some(40), "{open:?}");
    ensure!(
        finding["library"].is_null(),
        "the library does as it is told"
    );
    Ok(())
}

/// Its frames are written by the thread that asks, as a rule; where another thread does, no line is
/// named.
fn streams_of_the_c_core() -> Result<()> {
    host::require_root()?;
    let python = languages::python_with_grpc()?;
    let script = subjects::directory().join("python/calls.py");
    let script = script.to_string_lossy();
    let (_server, address) = Program::ready(&python, &[&*script, "serve"])?;
    let modes = ["leak", "threads", "busy", "held"];
    let mut clients = Vec::new();
    for mode in modes {
        clients.push(Program::ready(&python, &[&*script, mode, address.trim()])?.0);
    }
    let report = watched(&mut clients, 25)?;
    let source = std::fs::read_to_string(&*script)?;
    let marked = |line: &str| line.ends_with("# LEAK grpc-leak");
    let line = source.lines().position(marked).context("no mark")? + 1;
    for (mode, client) in modes.into_iter().zip(&clients) {
        let findings = findings_of(&report, client);
        if matches!(mode, "busy" | "held") {
            ensure!(findings.is_empty(), "{mode}: {report}");
            continue;
        }
        let [finding] = findings[..] else {
            anyhow::bail!("{mode}: one finding: {report}");
        };
        let said = || {
            ensure!(finding["kind"] == "stream_never_cancelled", "kind");
            let url = finding["remote"]["url"].as_str().unwrap_or_default();
            ensure!(url.ends_with("/fixture.Log/Watch"), "URL");
            ensure!(finding["call_site"]["line"] == line, "line {line}");
            Ok(())
        };
        said().with_context(|| format!("{mode}: {finding:#}"))?;
    }
    Ok(())
}
