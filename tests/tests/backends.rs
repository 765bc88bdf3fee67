//! Each way to attach sees what it can, and what it can't is said: no more, no less.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context, Result, ensure};
use tracer_tests::{
    host::{self, seconds},
    program::Program,
    tests, tracer,
};

use crate::scenes;

tests![
    tracepoints_see_tcp_and_the_rest_is_degraded,
    raw_tracepoints_see_tcp_and_the_rest_is_degraded,
    fentry_sees_everything,
    kprobes_see_everything,
    system_calls_see_all_but_ends_of_unix_sockets,
    system_calls_are_not_watched_unasked,
    type_information_from_a_file,
];

/// What tracepoints cannot see on any kernel.
const WITHOUT_FUNCTIONS: [&str; 2] = ["tcp_accept_owner", "unix_end"];

/// Whether the kernel has this symbol.
fn kernel_has(symbol: &str) -> Result<bool> {
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    Ok(symbols
        .lines()
        .any(|line| line.split_whitespace().nth(2) == Some(symbol)))
}

/// With this backend exactly these events are not observed, and each of them is said to be lost.
fn unseen(backend: &'static str, expected: &BTreeSet<&str>) -> Result<()> {
    let doctor = tracer::with_backend(backend)?.doctor;
    let events = doctor["events"].as_array().context("no events")?;
    let degraded = doctor["degraded"].to_string();
    let mut unseen = BTreeSet::new();
    for event in events {
        let name = event["event"].as_str().context("an event without a name")?;
        if event["backend"] == "none" {
            unseen.insert(name);
            let lost = event["lost"].as_str().context("not said to be lost")?;
            ensure!(
                degraded.contains(&format!("{name}: {lost}")),
                "{name} is not degraded: {doctor:#}"
            );
        }
    }
    ensure!(
        unseen == *expected,
        "not observed: {unseen:?}, not {expected:?}: {doctor:#}"
    );
    Ok(())
}

/// The events that tracepoints miss in this kernel.
fn without_functions() -> Result<BTreeSet<&'static str>> {
    let mut missed = BTreeSet::from(WITHOUT_FUNCTIONS);
    if !kernel_has("__traceiter_sock_send_length")? {
        missed.insert("send");
    }
    if !kernel_has("__traceiter_sock_recv_length")? {
        missed.insert("receive");
    }
    if !kernel_has("__traceiter_sk_data_ready")? {
        missed.insert("unix_open");
    }
    Ok(missed)
}

fn tracepoints_see_tcp_and_the_rest_is_degraded() -> Result<()> {
    unseen("tracepoint", &without_functions()?)
}

fn raw_tracepoints_see_tcp_and_the_rest_is_degraded() -> Result<()> {
    unseen("raw_tracepoint", &without_functions()?)
}

fn fentry_sees_everything() -> Result<()> {
    unseen("fentry", &BTreeSet::new())
}

fn kprobes_see_everything() -> Result<()> {
    unseen("kprobe", &BTreeSet::new())
}

fn system_calls_see_all_but_ends_of_unix_sockets() -> Result<()> {
    unseen("syscalls", &BTreeSet::from(["unix_end"]))?;
    // What it costs is measured and said, by every command.
    let doctor = tracer::with_backend("syscalls")?.doctor;
    let told = |text: &str| text.contains(" ns longer") && text.contains(" ns before");
    ensure!(told(&doctor["degraded"].to_string()), "{doctor:#}");
    let ended = tracer::run(
        &["check", "--backend", "syscalls", "--", "true"],
        seconds(60),
    )?;
    ensure!(told(&ended.stderr), "no cost in {}", ended.stderr);
    Ok(())
}

fn system_calls_are_not_watched_unasked() -> Result<()> {
    host::require_root()?;
    let doctor = tracer::diagnosis(None)?.doctor;
    for event in doctor["events"].as_array().context("no events")? {
        ensure!(event["backend"] != "syscalls", "unasked: {event:#}");
        if event["event"] == "tcp_accept_owner" && event["backend"] == "none" {
            let offered = event["refused"].to_string().contains("--trace-syscalls");
            ensure!(offered, "the way out is not named: {event:#}");
        }
    }
    Ok(())
}

/// A file stands in for what the kernel does not show.
fn type_information_from_a_file() -> Result<()> {
    const KERNELS_OWN: &str = "/sys/kernel/btf/vmlinux";
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join("vmlinux.btf");
    fs::copy(KERNELS_OWN, &copy)?;
    let scene = scenes::client("client", "fetch", 8, 800, "leak")?;
    let pid = scene.pid().to_string();
    let time = format!("{}s", seconds(12).as_secs());
    let copy = copy.to_string_lossy();
    let arguments = ["check", "--pid", &pid, "-d", &time, "-o", "json"];
    let run = |mut command: Command| -> Result<_> {
        host::without_btf(&mut command);
        Program::start(&mut command)?.end(seconds(60))
    };
    let refused = run(tracer::command(&arguments)?)?;
    ensure!(
        refused.code() == 3 && refused.stderr.contains("--btf"),
        "status {}: {}",
        refused.code(),
        refused.stderr
    );
    let ended = run(tracer::command(
        &[&arguments[..], &["--btf", &copy]].concat(),
    )?)?;
    ensure!(
        ended.code() == 0,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    let report = tracer::Report::parse(&ended.stdout)?;
    report.expect_verdict("leak")?;
    let finding = report.only()?;
    ensure!(
        finding["call_site"]["function"] == "fetch_price",
        "{report}"
    );
    Ok(())
}
