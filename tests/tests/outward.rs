//! Others are told of each change in a finding's life, once, and of nothing else.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    daemon::Daemon,
    host::{self, seconds},
    program::Program,
    receiver::{Post, Receiver},
    schema::{problems, unknown},
    tests, tracer, wait,
    wheel::Wheel,
};

use crate::scenes;

tests![
    each_change_is_told_once,
    addresses_that_are_none_are_refused
];

/// What the published definition of OTLP needs: it, and the library that reads it.
const OTLP: &[(&str, &str)] = &[("opentelemetry-proto", "1.45.2"), ("protobuf", "7.36.2")];

fn each_change_is_told_once() -> Result<()> {
    host::require_root()?;
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    let mut program = Program::start(
        Command::new(host::tool("python3")?)
            .arg(host::repository("tests/fixtures/python/repents.py"))
            .args([&address, "0.1"]),
    )?;
    program.line("READY", seconds(20))?;
    let receiver = Receiver::start()?;
    let webhook = format!("http://{}/hook?team=shop", receiver.address);
    let otlp = format!("http://{}", receiver.address);
    let daemon = Daemon::start(
        &[program.pid()],
        &["--webhook", &webhook, "--otlp", &otlp, "--node", "node-a"],
    )?;
    let leak = wait::for_value("the leak", seconds(90), || {
        let report = daemon.report()?;
        Ok((report.verdict() == "leak").then_some(report))
    })?;
    let id = leak.only()?["id"].as_str().context("no id")?.to_owned();
    wait::until("it to become worse", seconds(60), || {
        daemon.report()?;
        Ok(told(&receiver, "/hook")?
            .iter()
            .any(|event| event["change"] == "worse"))
    })?;
    program.signal(libc::SIGUSR1)?;
    wait::until("both to hear of its end", seconds(60), || {
        daemon.report()?;
        let webhook = told(&receiver, "/hook")?;
        let over = webhook.iter().any(|event| event["change"] == "resolved");
        Ok(over && told(&receiver, "/v1/logs")?.len() == webhook.len())
    })?;
    // Nothing has changed since, so nothing more is told.
    daemon.report()?;
    let events = told(&receiver, "/hook")?;
    let changes: Vec<&str> = events.iter().filter_map(|e| e["change"].as_str()).collect();
    let [first, between @ .., last] = changes.as_slice() else {
        anyhow::bail!("{changes:?}");
    };
    ensure!(
        *first == "new" && *last == "resolved" && between.iter().all(|one| *one == "worse"),
        "{changes:?}"
    );
    let keys: BTreeSet<&str> = events.iter().filter_map(|e| e["key"].as_str()).collect();
    ensure!(keys.len() == events.len(), "{keys:?} of {changes:?}");
    ensure!(
        events.iter().all(|event| event["finding"]["id"] == id),
        "{events:?}"
    );
    ensure!(
        events.iter().all(|event| event["node"] == "node-a"),
        "{events:?}"
    );
    hold_to_schema(&events)?;

    let posts = receiver.posts();
    let refused = posts.first().context("no post")?;
    let again = posts.iter().filter(|post| post.body == refused.body);
    ensure!(again.count() == 2, "the refused one did not come again");
    for post in &posts {
        ensure!(
            post.head.contains("content-type: application/json"),
            "{}",
            post.head
        );
        ensure!(
            !post.body.contains("hush"),
            "a secret is given away: {}",
            post.body
        );
        ensure!(
            !post.body.contains("GET "),
            "a request is given away: {}",
            post.body
        );
    }
    let sent = ["webhook", "otlp"].map(|destination| {
        let count = events.len();
        format!("tracer_events_total{{destination=\"{destination}\",result=\"sent\"}} {count}")
    });
    wait::until("the metrics to count them", seconds(20), || {
        let metrics = daemon.metrics()?;
        Ok(sent.iter().all(|line| metrics.contains(line)))
    })?;
    let records = as_published(&told(&receiver, "/v1/logs")?)?;
    let program = events[0]["finding"]["process"]["comm"].as_str();
    let program = program.context("no program")?;
    let expected: Vec<String> = changes
        .iter()
        .map(|change| format!("tracer.finding.{change}\t{id}\t{program}"))
        .collect();
    ensure!(records == expected, "{records:?}");
    Ok(())
}

/// The bodies that were accepted there.
fn told(receiver: &Receiver, path: &str) -> Result<Vec<Value>> {
    let accepted = receiver.posts().into_iter().skip(1);
    let there = |post: &Post| post.path.starts_with(path);
    accepted
        .filter(there)
        .map(|post| serde_json::from_str(&post.body).context(post.body))
        .collect()
}

fn hold_to_schema(events: &[Value]) -> Result<()> {
    let schema: Value = serde_json::from_str(include_str!("../../docs/schema/event.json"))?;
    for event in events {
        let found = problems(&schema, event);
        ensure!(found.is_empty(), "{}\n{event:#}", found.join("\n"));
        let names = unknown(&schema, event);
        ensure!(names.is_empty(), "not in the schema: {names:?}");
    }
    Ok(())
}

/// What a reader of OTLP makes of requests: events, findings and programs.
fn as_published(requests: &[Value]) -> Result<Vec<String>> {
    let cache = host::cache()?.join("python");
    std::fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    let mut path = Vec::new();
    for (package, version) in OTLP {
        let place = cache.join(format!("{package}-{version}"));
        if !place.is_dir() {
            let wheel = Wheel::get(package, version, &cache, &[])?;
            // another test may have been faster
            if let Err(error) = std::fs::rename(wheel.folder(), &place) {
                ensure!(place.is_dir(), "renaming to {}: {error}", place.display());
            }
        }
        path.push(place);
    }
    let mut reader = Program::start(
        Command::new(host::tool("python3")?)
            .arg(host::repository("tests/fixtures/python/otlp.py"))
            .env("PYTHONPATH", std::env::join_paths(path)?),
    )?;
    for request in requests {
        reader.write(&format!("{request}\n"))?;
    }
    reader.close_stdin();
    let ended = reader.end(seconds(60))?;
    ensure!(ended.code() == 0, "{}", ended.stderr);
    Ok(ended.stdout.lines().map(str::to_owned).collect())
}

fn addresses_that_are_none_are_refused() -> Result<()> {
    for (option, address, reason) in [
        ("--webhook", "https://hooks.shop.test/x", "TLS"),
        ("--webhook", "http://me:secret@hooks.shop.test/", "password"),
        ("--otlp", "collector:4317", "http://HOST:PORT"),
    ] {
        let ended = tracer::run(&["daemon", option, address], seconds(30))?;
        ensure!(ended.code() == 2, "{address}: {}", ended.code());
        ensure!(
            ended.stderr.contains(reason) && !ended.stderr.contains("secret"),
            "{}",
            ended.stderr
        );
    }
    Ok(())
}
