//! The JSON outputs are what `docs/schema` says, and nothing that it does not say.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tracer_tests::{
    host::{self, seconds},
    http,
    schema::{problems, unknown},
    tests, tracer,
};

use crate::{daemon, scenes};

tests![
    report_of_check,
    outputs_of_a_daemon,
    the_api_is_what_its_document_says,
    report_of_doctor
];

const REPORT: &str = include_str!("../../docs/schema/report.json");
const DESCRIBE: &str = include_str!("../../docs/schema/describe.json");
const CONNECTIONS: &str = include_str!("../../docs/schema/connections.json");
const OVERVIEW: &str = include_str!("../../docs/schema/overview.json");
const OPENAPI: &str = include_str!("../../docs/schema/openapi.json");
const DOCTOR: &str = include_str!("../../docs/schema/doctor.json");

/// `part` of a schema (a JSON pointer, empty for all of it) as a schema of its own.
fn schema(text: &str, part: &str) -> Result<Value> {
    let whole: Value = serde_json::from_str(text)?;
    if part.is_empty() {
        return Ok(whole);
    }
    whole.pointer(part).with_context(|| format!("no {part}"))?;
    Ok(json!({ "$ref": format!("#{part}"), "$defs": whole["$defs"] }))
}

/// Holds an output against a schema.
fn hold(schema: &Value, output: &str) -> Result<()> {
    let value: Value = serde_json::from_str(output).context("not JSON")?;
    let found = problems(schema, &value);
    ensure!(found.is_empty(), "{}\n{value:#}", found.join("\n"));
    let names = unknown(schema, &value);
    ensure!(names.is_empty(), "not in the schema: {names:?}");
    Ok(())
}

fn report_of_check() -> Result<()> {
    let leaky = scenes::client("client", "both", 16, 800, "leak")?;
    let twin = scenes::client("client", "fetch", 8, 800, "close")?;
    let report = schema(REPORT, "")?;
    let (leaky, twin) = (
        tracer::check(leaky.pid(), 10)?,
        tracer::check(twin.pid(), 10)?,
    );
    let leaks = leaky.report()?;
    ensure!(
        !leaks.findings().is_empty(),
        "nothing to hold against the schema: {leaks}"
    );
    hold(&report, &leaks.0.to_string())?;
    hold(&report, &twin.report()?.0.to_string())
}

fn outputs_of_a_daemon() -> Result<()> {
    let watched = daemon::watched()?;
    let found = watched.leak()?;
    let id = found.only()?["id"].as_str().context("no id")?;
    hold(&schema(REPORT, "")?, &watched.ask(&["top", "-o", "json"])?)?;
    for line in watched.ask(&["top", "-o", "jsonl"])?.lines() {
        hold(&schema(REPORT, "/$defs/Finding")?, line)?;
    }
    hold(
        &schema(DESCRIBE, "")?,
        &watched.ask(&["describe", id, "-o", "json"])?,
    )?;
    hold(
        &schema(CONNECTIONS, "")?,
        &watched.ask(&["connections", "-o", "json"])?,
    )?;
    let overview = http::get(watched.socket(), "/v1/overview")?;
    ensure!(overview.body.contains(id), "{}", overview.body);
    hold(&schema(OVERVIEW, "")?, &overview.body)?;
    for line in watched.ask(&["connections", "-o", "jsonl"])?.lines() {
        hold(&schema(CONNECTIONS, "/$defs/ConnectionRow")?, line)?;
    }
    Ok(())
}

/// Every path of `openapi.json` is answered as it says there, by root's socket and over TCP.
fn the_api_is_what_its_document_says() -> Result<()> {
    let watched = daemon::watched()?;
    let found = watched.leak()?;
    let id = found.only()?["id"].as_str().context("no id")?;
    // references into `components` as the validator has them
    let text = OPENAPI.replace("#/components/schemas/", "#/$defs/");
    let document: Value = serde_json::from_str(&text)?;
    let types = &document["components"]["schemas"];
    let paths = document["paths"].as_object().context("no paths")?;
    ensure!(paths.len() >= 9, "{} paths", paths.len());
    let hold_answer = |path: &str, operation: &Value, answer: &http::Answer| -> Result<()> {
        let said = &operation["responses"][answer.status.to_string()];
        ensure!(
            said.is_object(),
            "{path}: status {} is not said",
            answer.status
        );
        let content = said["content"].as_object().context("no content")?;
        let (kind, of_kind) = content.iter().next().context("no content")?;
        let has_kind = answer.head.contains(&format!("content-type: {kind}"));
        ensure!(has_kind, "{path}: no {kind}: {}", answer.head);
        if kind == "application/json" {
            let mut schema = of_kind["schema"].clone();
            schema["$defs"] = types.clone();
            hold(&schema, &answer.body).with_context(|| path.to_owned())?;
        }
        Ok(())
    };
    for (path, item) in paths {
        let operation = &item["get"];
        let asked = path.replace("{id}", id);
        let answer = http::get(watched.socket(), &asked)?;
        ensure!(answer.status == 200, "{path}: {}", answer.status);
        hold_answer(path, operation, &answer)?;
        let over_tcp = http::get(watched.tcp(), &asked)?;
        let open = operation["security"].as_array().is_some_and(Vec::is_empty);
        let expected = if open { 200 } else { 401 };
        ensure!(over_tcp.status == expected, "{path}: {}", over_tcp.status);
        hold_answer(path, operation, &over_tcp)?;
    }
    for (path, asked, status) in [
        ("/v1/findings/{id}", "/v1/findings/ffffffffffffffff", 404),
        ("/v1/connections", "/v1/connections?limit=many", 400),
    ] {
        let answer = http::get(watched.socket(), asked)?;
        ensure!(answer.status == status, "{asked}: {}", answer.status);
        hold_answer(path, &paths[path]["get"], &answer)?;
    }
    let nowhere = http::get(watched.socket(), "/v1/nowhere")?;
    ensure!(nowhere.status == 404, "{}", nowhere.status);
    for path in paths.keys() {
        let named = path.replace("{id}", "ID");
        ensure!(
            nowhere.body.contains(&named),
            "no {named}: {}",
            nowhere.body
        );
    }
    Ok(())
}

fn report_of_doctor() -> Result<()> {
    host::require_root()?;
    let ended = tracer::run(&["doctor", "-o", "json"], seconds(60))?;
    hold(&schema(DOCTOR, "")?, &ended.stdout)
}
