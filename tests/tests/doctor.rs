//! `tracer doctor` says how each event is observed here, what else was refused, and what that costs.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    host::{self, seconds},
    program::Program,
    tests, tracer,
};

tests![
    each_event_has_its_backend,
    refusals_are_named,
    table_says_the_same,
    without_privilege
];

/// What doctor says as JSON.
fn doctor() -> Result<Value> {
    host::require_root()?;
    let ended = tracer::run(&["doctor", "-o", "json"], seconds(60))?;
    ensure!(
        ended.code() == 0,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    let value: Value = serde_json::from_str(&ended.stdout)?;
    ensure!(value["schema"] == 1, "{value:#}");
    Ok(value)
}

/// Its entries for the events.
fn events(doctor: &Value) -> Result<&Vec<Value>> {
    doctor["events"].as_array().context("no events")
}

fn each_event_has_its_backend() -> Result<()> {
    let doctor = doctor()?;
    ensure!(doctor["usable"] == true, "not usable: {doctor:#}");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    ensure!(doctor["kernel"] == release.trim(), "kernel: {doctor:#}");
    ensure!(
        doctor["capabilities"]
            .as_array()
            .is_some_and(|all| { !all.is_empty() && all.iter().all(|one| one["held"] == true) }),
        "capabilities: {doctor:#}"
    );
    let names: BTreeSet<&str> = events(&doctor)?
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    ensure!(names.contains("tcp_open"), "events: {names:?}");
    ensure!(
        names.len() == events(&doctor)?.len(),
        "an event twice: {names:?}"
    );
    for event in events(&doctor)? {
        let backend = event["backend"].as_str().unwrap_or_default();
        let known = [
            "tracepoint",
            "fentry",
            "kprobe",
            "cgroup",
            "iterator",
            "none",
        ];
        ensure!(known.contains(&backend), "backend of {event:#}");
        let hooks = event["hooks"].as_array().map_or(0, Vec::len);
        ensure!((hooks > 0) == (backend != "none"), "hooks of {event:#}");
        ensure!(
            backend != "none" || event["lost"].is_string(),
            "silent loss: {event:#}"
        );
    }
    Ok(())
}

fn refusals_are_named() -> Result<()> {
    let doctor = doctor()?;
    let mut refused = BTreeSet::new();
    for event in events(&doctor)? {
        for refusal in event["refused"].as_array().context("no list of refusals")? {
            for field in ["backend", "hook", "error", "would_add"] {
                ensure!(
                    refusal[field].as_str().is_some_and(|text| !text.is_empty()),
                    "{field} of {event:#}"
                );
            }
            refused.insert(refusal["backend"].as_str().unwrap_or_default().to_owned());
        }
    }
    // A kernel without kprobes does not have the function that registers them.
    let kprobes = fs::read_to_string("/proc/kallsyms")?
        .lines()
        .any(|line| line.split_whitespace().nth(2) == Some("register_kprobe"));
    let backends: BTreeSet<&str> = events(&doctor)?
        .iter()
        .filter_map(|event| event["backend"].as_str())
        .collect();
    if !backends.contains("fentry") {
        ensure!(
            refused.contains("fentry"),
            "fentry is neither used nor refused: {doctor:#}"
        );
    }
    if !kprobes {
        ensure!(
            !backends.contains("kprobe"),
            "kprobes in a kernel without: {doctor:#}"
        );
        ensure!(
            refused.contains("kprobe"),
            "kprobe is not among the refused: {doctor:#}"
        );
    }
    Ok(())
}

fn table_says_the_same() -> Result<()> {
    let doctor = doctor()?;
    let text = tracer::run(&["doctor"], seconds(60))?.stdout;
    for event in events(&doctor)? {
        for field in ["event", "backend"] {
            let word = event[field].as_str().unwrap_or_default();
            ensure!(text.contains(word), "no {word} in {text}");
        }
    }
    ensure!(
        !text.contains('\u{1b}'),
        "colour, though this is not a terminal"
    );
    Ok(())
}

fn without_privilege() -> Result<()> {
    host::require_root()?;
    let mut command = tracer::command(&["doctor", "-o", "json"])?;
    host::without_capabilities(&mut command, &[]);
    let ended = Program::start(&mut command)?.end(seconds(60))?;
    let value: Value = serde_json::from_str(&ended.stdout)
        .with_context(|| format!("doctor has nothing to say: {}", ended.stderr))?;
    ensure!(value["usable"] == false, "{value:#}");
    let missing = value["capabilities"]
        .as_array()
        .context("no capabilities")?
        .iter()
        .any(|one| one["name"] == "CAP_BPF" && one["held"] == false);
    ensure!(missing, "CAP_BPF is not said to be missing: {value:#}");
    ensure!(ended.code() == 3, "status {}", ended.code());
    Ok(())
}
