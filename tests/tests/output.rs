//! What users script against is there, by name; what people read has what they need.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    fixtures::line_of,
    host::{self, seconds},
    tests, tracer,
};

use crate::scenes;

tests![
    json_has_the_fields_of_the_contract,
    table_has_what_people_need,
    saved_result_is_a_baseline
];

/// Fields of a report.
const REPORT: &[&str] = &[
    "/schema",
    "/verdict",
    "/started_at",
    "/duration_seconds",
    "/coverage/backend",
    "/coverage/hooks/tcp_open",
    "/coverage/attached/0",
    "/coverage/degraded",
    "/coverage/lost_events",
    "/coverage/sockets_tracked",
    "/coverage/sockets_unattributed",
    "/findings/0",
    "/resources/0",
];

/// Fields of a finding.
const FINDING: &[&str] = &[
    "/id",
    "/kind",
    "/also",
    "/confidence",
    "/role",
    "/process/pid",
    "/process/comm",
    "/process/exe",
    "/process/runtime",
    "/process/container_id",
    "/process/pod",
    "/process/namespace",
    "/call_site/function",
    "/call_site/file",
    "/call_site/line",
    "/call_site/module",
    "/stack/0/function",
    "/stack/0/file",
    "/stack/0/line",
    "/stack/0/module",
    "/stack/0/inlined",
    "/instances/0/node",
    "/instances/0/pid",
    "/instances/0/connections",
    "/instances/0/first_seen_at",
    "/local",
    "/stack_quality",
    "/stack_of",
    "/remote/family",
    "/remote/address",
    "/remote/host",
    "/remote/path",
    "/remote/url",
    "/remote/examples/0",
    "/connections/open",
    "/connections/outlived",
    "/connections/opened",
    "/connections/closed",
    "/connections/peak_open",
    "/requests",
    "/leaked_per_request",
    "/growth_per_minute",
    "/burst_period_seconds",
    "/oldest_opened_at",
    "/evidence/0",
    "/advice",
];

/// Fields of an entry of the resources.
const RESOURCES: &[&str] = &[
    "/pid",
    "/fds_open",
    "/fds_limit",
    "/exhausted_in_seconds",
    "/ephemeral_ports",
    "/connect_errors",
];

/// All of them are there, if only as null.
fn has(value: &Value, fields: &[&str]) -> Result<()> {
    for field in fields {
        value
            .pointer(field)
            .with_context(|| format!("no {field} in {value:#}"))?;
    }
    Ok(())
}

fn json_has_the_fields_of_the_contract() -> Result<()> {
    let scene = scenes::client("client", "fetch", 8, 800, "leak")?;
    let report = tracer::check(scene.pid(), 12)?.report()?;
    has(&report.0, REPORT)?;
    let finding = report.only()?;
    has(finding, FINDING)?;
    has(&report.0["resources"][0], RESOURCES)?;
    for time in [&report.0["started_at"], &finding["oldest_opened_at"]] {
        let time = time.as_str().context("a time is not a string")?;
        ensure!(
            time.as_bytes().get(10) == Some(&b'T') && time.ends_with('Z'),
            "not RFC 3339: {time}"
        );
    }
    let count = |name: &str| finding["connections"][name].as_u64().unwrap_or(0);
    ensure!(count("outlived") <= count("open"), "{report}");
    ensure!(count("open") <= count("peak_open"), "{report}");
    ensure!(count("peak_open") <= count("opened"), "{report}");
    ensure!(
        count("open") + count("closed") <= count("opened"),
        "{report}"
    );
    let open = host::socket_inodes(scene.pid())?.len() as u64;
    ensure!(count("open") <= open, "more open than there are: {report}");
    ensure!(
        report.0["resources"][0]["fds_limit"]
            .as_u64()
            .is_some_and(|n| n > 0),
        "{report}"
    );
    Ok(())
}

fn table_has_what_people_need() -> Result<()> {
    host::require_root()?;
    let scene = scenes::client("client", "fetch", 8, 800, "leak")?;
    let pid = scene.pid().to_string();
    let time = format!("{}s", seconds(12).as_secs());
    let ended = tracer::run(&["check", "--pid", &pid, "-d", &time], seconds(60))?;
    ensure!(
        ended.code() == 0,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    let line = line_of(include_str!("../fixtures/c/client.c"), "fetch_price")?;
    for word in [
        "fetch_price",
        &format!("client.c:{line}"),
        "prices.test/v1/prices/{}",
        "client_per_request",
        "/min",
    ] {
        ensure!(ended.stdout.contains(word), "no {word} in {}", ended.stdout);
    }
    ensure!(
        !ended.stdout.contains('\u{1b}'),
        "colour, though this is not a terminal"
    );
    ensure!(
        !ended.stdout.contains("secret"),
        "a secret is given away: {}",
        ended.stdout
    );
    ensure!(
        !ended.stderr.contains('\r'),
        "progress, though this is not a terminal"
    );
    Ok(())
}

fn saved_result_is_a_baseline() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("saved.json");
    let saved = file.to_string_lossy();
    let scene = scenes::client("client", "fetch", 8, 900, "leak")?;
    let pid = scene.pid().to_string();
    let time = format!("{}s", seconds(12).as_secs());
    let watch = ["check", "--pid", &pid, "-d", &time, "--exit-code"];
    let first = tracer::run(&[&watch[..], &["--save", &saved]].concat(), seconds(60))?;
    ensure!(
        first.code() == 4,
        "status {}: {}",
        first.code(),
        first.stderr
    );
    let kept = tracer::Report::read(&file)?;
    ensure!(kept.findings().len() == 1, "{kept}");
    // The same leak at the same pace is nothing new.
    let second = tracer::run(&[&watch[..], &["--baseline", &saved]].concat(), seconds(60))?;
    ensure!(
        second.code() == 0,
        "status {}: {}",
        second.code(),
        second.stdout
    );
    Ok(())
}
