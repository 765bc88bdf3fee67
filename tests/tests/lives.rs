//! A finding has a life: the daemon takes back what was closed, says when and why, and knows it again.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tracer_tests::{
    daemon::Daemon,
    host::{self, seconds},
    program::Program,
    tests, tracer, wait,
};

use crate::scenes;

tests![what_was_closed_is_resolved_with_a_reason];

fn what_was_closed_is_resolved_with_a_reason() -> Result<()> {
    host::require_root()?;
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    let mut program = Program::start(
        Command::new(host::tool("python3")?)
            .arg(host::repository("tests/fixtures/python/repents.py"))
            .arg(&address),
    )?;
    program.line("READY", seconds(20))?;
    let daemon = Daemon::start(&[program.pid()], &[])?;
    let leak = wait::for_value("the leak", seconds(90), || {
        let report = daemon.report()?;
        Ok((report.verdict() == "leak").then_some(report))
    })?;
    let id = leak.only()?["id"].as_str().context("no id")?.to_owned();
    ensure!(leak.only()?["state"] == "new", "{leak}");
    ensure!(leak.0["resolved"].is_null(), "{leak}");

    program.signal(libc::SIGUSR1)?;
    let after = wait::for_value("the leak to be over", seconds(60), || {
        let report = daemon.report()?;
        Ok(report.findings().is_empty().then_some(report))
    })?;
    ensure!(after.verdict() == "clean", "{after}");
    let over = &after.0["resolved"][0];
    ensure!(over["id"] == id.as_str(), "{after}");
    ensure!(over["state"] == "resolved", "{after}");
    ensure!(over["resolved_at"].is_string(), "{after}");
    let because = over["resolved_because"].as_str().context("no reason")?;
    ensure!(because.contains("were closed since"), "{because}");

    // It can still be asked for, and the daemon has told of its end.
    let detail = daemon.ask(&["describe", &id])?;
    ensure!(detail["finding"]["state"] == "resolved", "{detail}");
    wait::until("the daemon to tell of it", seconds(20), || {
        let told = daemon.program.stderr();
        Ok(told.contains(&format!("{id} found: ")) && told.contains(&format!("{id} over: ")))
    })?;
    let text = tracer::run(
        &["describe", &id, "--endpoint", daemon.socket()],
        seconds(30),
    )?;
    ensure!(text.stdout.contains("resolved at "), "{}", text.stdout);
    Ok(())
}
