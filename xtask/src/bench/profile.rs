//! Where the time of a load goes while it is traced, by sampling it (perf, cpu-clock).
//!
//! Samples of the same moments are compared with each other, so what else the machine does cancels
//! out; what tracing costs the load beyond its own instructions (caches) is not seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    Bench, Row,
    churn::{Watcher, start},
    load::Load,
    traced::Process,
};
use crate::sh;

/// One profile's time.
const WINDOW: Duration = Duration::from_secs(4);
/// Samples per second of CPU time.
const FREQUENCY: &str = "4000";
/// Before a profile: call paths are known by then, and what is passed for nothing is taken off.
pub const SETTLED: Duration = Duration::from_millis(2500);
/// perf has attached itself to the load's threads within this.
const SETTLE: Duration = Duration::from_millis(400);
/// With fewer samples than this there is nothing to say.
const SAMPLES_MIN: usize = 1000;

/// What a profile tells.
#[derive(Debug, PartialEq)]
struct Profile {
    /// All samples to those outside of BPF programs and of the tracepoints that call them.
    ratio: f64,
    /// What the others were doing, per cent of them.
    shares: BTreeMap<&'static str, f64>,
}

/// Kinds of work, by the beginnings of the innermost function's name.
const WORK: &[(&str, &[&str])] = &[
    (
        "entering and leaving programs",
        &[
            "bpf_trace_run",
            "__bpf_trace_",
            "__traceiter_",
            "bpf_trampoline_",
        ],
    ),
    ("programs", &["bpf_prog_"]),
    (
        "hash tables",
        &[
            "htab_",
            "__htab_",
            "lookup_nulls_elem",
            "pcpu_freelist",
            "free_htab",
            "memcmp",
        ],
    ),
    ("clock", &["read_tsc", "ktime_get", "bpf_ktime_get"]),
    (
        "reading the program's memory",
        &[
            "bpf_probe_read_user",
            "copy_from_user_nofault",
            "__check_object_size",
            "check_stack_object",
            "__virt_addr_valid",
            "is_vmalloc_addr",
            "nmi_uaccess_okay",
        ],
    ),
];
/// What is none of these.
const OTHER: &str = "other helpers";

/// Functions on whose account everything is that they call.
const OURS: &[&str] = &[
    "bpf_trace_run",
    "__bpf_trace_",
    "__traceiter_",
    "bpf_prog_",
    "bpf_trampoline_",
    // a breakpoint of a uprobe, and the step over its instruction
    "asm_exc_int3",
    "asm_exc_debug",
    "uprobe_",
];

/// Where perf's own work is seen: it arms a timer whenever a thread comes on.
const OF_PERF: &str = "finish_task_switch";

/// A row with the ratio under a watcher.
pub fn ratio(bench: &Bench, load: &mut Load, name: &str, watcher: &Watcher) -> Result<Row> {
    Ok(ratios(name, &several(bench, load, watcher)?))
}

/// The same, and rows that say what the programs spend their time with.
pub fn ratio_and_shares(
    bench: &Bench,
    load: &mut Load,
    name: &str,
    watcher: &Watcher,
) -> Result<(Row, Vec<Row>)> {
    let profiles = several(bench, load, watcher)?;
    let works: BTreeSet<_> = profiles.iter().flat_map(|p| p.shares.keys()).collect();
    let shares = works.into_iter().map(|work| {
        let shares = profiles.iter().map(|p| p.shares.get(work).copied());
        let shares = shares.map(Option::unwrap_or_default).collect();
        Row::new(format!("… of which {work}"), "%", shares)
    });
    Ok((ratios(name, &profiles), shares.collect()))
}

fn ratios(name: &str, profiles: &[Profile]) -> Row {
    let ratios = profiles.iter().map(|profile| profile.ratio).collect();
    Row::new(format!("by profile: {name}"), "ratio", ratios)
}

fn several(bench: &Bench, load: &mut Load, watcher: &Watcher) -> Result<Vec<Profile>> {
    let pid = load.pid();
    let once = |_| once(bench, load, pid, watcher);
    (0..bench.rounds(3)).map(once).collect()
}

/// The ratio of one profile of a process of the load, which is watched.
pub fn one_ratio(bench: &Bench, load: &mut Load, pid: u32, watcher: &Watcher) -> Result<f64> {
    Ok(once(bench, load, pid, watcher)?.ratio)
}

fn once(bench: &Bench, load: &mut Load, pid: u32, watcher: &Watcher) -> Result<Profile> {
    let started = start(bench, watcher, pid)?;
    load.run(SETTLED)?;
    let profile = take(bench, load, pid)?;
    drop(started);
    Ok(profile)
}

/// Samples a process of the load while it runs.
fn take(bench: &Bench, load: &mut Load, pid: u32) -> Result<Profile> {
    let data = bench.folder.join("perf.data");
    let perf = Process(
        Command::new("perf")
            .args([
                "record",
                "-q",
                "-g",
                "-e",
                "cpu-clock",
                "-F",
                FREQUENCY,
                "-o",
            ])
            .arg(&data)
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start perf")?,
    );
    thread::sleep(SETTLE);
    load.run(WINDOW)?;
    drop(perf);
    let text = sh::capture(
        Command::new("perf")
            .args(["script", "-F", "ip,sym", "-i"])
            .arg(&data)
            .stderr(Stdio::null()),
    )?;
    parse(&text)
}

/// Call chains, innermost function first, with an empty line behind each.
fn parse(text: &str) -> Result<Profile> {
    let (mut others, mut ours) = (0usize, 0usize);
    let mut doing = BTreeMap::new();
    for chain in text.split("\n\n") {
        let functions: Vec<&str> = chain.lines().filter_map(function).collect();
        let Some(innermost) = functions.first() else {
            continue;
        };
        if innermost.starts_with(OF_PERF) {
            continue;
        }
        if functions.iter().any(|name| begins_with(name, OURS)) {
            ours += 1;
            *doing.entry(work(innermost)).or_insert(0usize) += 1;
        } else {
            others += 1;
        }
    }
    ensure!(
        others + ours >= SAMPLES_MIN,
        "perf took only {} samples of the load",
        others + ours
    );
    Ok(Profile {
        ratio: (others + ours) as f64 / others as f64,
        shares: doing
            .into_iter()
            .map(|(work, samples)| (work, samples as f64 / ours as f64 * 100.0))
            .collect(),
    })
}

/// The name in a line "ADDRESS NAME".
fn function(line: &str) -> Option<&str> {
    line.split_whitespace().nth(1)
}

fn begins_with(name: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|&begin| name.starts_with(begin))
}

fn work(innermost: &str) -> &'static str {
    WORK.iter()
        .find(|(_, beginnings)| begins_with(innermost, beginnings))
        .map_or(OTHER, |&(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn samples_below_a_program_are_its_own() -> anyhow::Result<()> {
        let load = "ffff1 tcp_ack\nffff2 tcp_v4_rcv\n\n".repeat(900);
        let perf = "ffff3 finish_task_switch.isra.0\nffff4 __schedule\n\n".repeat(5000);
        let look_up = "ffff5 lookup_nulls_elem_raw\nffff6 bpf_prog_0a_tcp_state\n\
                       ffff7 bpf_trace_run3\nffff8 tcp_set_state\n\n"
            .repeat(75);
        let enter = "ffff7 bpf_trace_run3\nffff8 tcp_set_state\n\n".repeat(25);
        let profile = parse(&[load, perf, look_up, enter].concat())?;
        assert!((profile.ratio - 1000.0 / 900.0).abs() < 1e-9);
        assert_eq!(profile.shares["hash tables"], 75.0);
        assert_eq!(profile.shares["entering and leaving programs"], 25.0);
        assert_eq!(profile.shares.len(), 2);
        Ok(())
    }

    #[test]
    fn too_few_samples_say_nothing() {
        assert!(parse("ffff1 tcp_ack\n\n").is_err());
    }
}
