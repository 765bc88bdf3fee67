//! Many open sockets: what they cost in memory, and how long answers take.

use std::{
    collections::HashMap,
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{Bar, Bench, Row, Section, load::Load, traced::Daemon};

/// Memory and answers.
pub const SECTION: Section = Section {
    name: "memory",
    title: "Many open sockets",
    about: "Connections to themselves held by many processes, opened while traced, each after one request; both ends are \
            tracked. Kernel memory is what the kernel says of the daemon's maps (fdinfo), all of them. A fresh answer \
            includes a scan of all descriptors and a sweep of all sockets.",
    run,
};

/// What is held.
struct Scene {
    name: &'static str,
    family: &'static str,
    processes: u32,
    connections: u32,
    bars: bool,
}

const SCENES: &[Scene] = &[
    Scene {
        name: "100,000 TCP sockets",
        family: "tcp",
        processes: 10,
        connections: 5_000,
        bars: false,
    },
    Scene {
        name: "1,000,000 UNIX sockets",
        family: "unix",
        processes: 80,
        connections: 6_250,
        bars: true,
    },
];

const MB: f64 = 1e6;
/// All of them are tracked after this, or never.
const TRACKED_WITHIN: Duration = Duration::from_secs(90);
/// An answer is made anew when the last one is older (`REPORT_AGE_MAX` of the daemon).
const STALE_AFTER: Duration = Duration::from_millis(2_500);

fn run(bench: &Bench) -> Result<Vec<Row>> {
    let scenes = if bench.quick { 1 } else { SCENES.len() };
    let mut rows = Vec::new();
    for scene in SCENES.iter().take(scenes) {
        rows.extend(measure(bench, scene).with_context(|| scene.name)?);
    }
    Ok(rows)
}

fn measure(bench: &Bench, scene: &Scene) -> Result<Vec<Row>> {
    let sockets = scene.processes * scene.connections * 2;
    let config = bench.folder.join("many.toml");
    fs::write(&config, format!("max_sockets = {}\n", sockets + 1_000))?;
    let counts = [scene.processes.to_string(), scene.connections.to_string()];
    let mut load = Load::start(bench, &["hold", scene.family, &counts[0], &counts[1]])?;
    let config = config.to_string_lossy();
    let daemon = Daemon::start(bench, load.pid(), &["--config", &config])?;
    load.tell("go")?;
    load.answer()?;
    let tracked = until_tracked(&daemon, f64::from(sockets))?;
    let pid = daemon.process.0.id();

    let (mut answers, mut asked, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds(5) {
        thread::sleep(STALE_AFTER);
        let (began, cpu_before) = (Instant::now(), daemon.process.cpu_ns());
        ask(bench, &daemon)?;
        asked.push(began.elapsed().as_secs_f64());
        answers.push((daemon.process.cpu_ns() - cpu_before) / 1e9);
        let (began, cpu_before) = (Instant::now(), daemon.process.cpu_ns());
        thread::sleep(STALE_AFTER);
        let share = (daemon.process.cpu_ns() - cpu_before) / began.elapsed().as_nanos() as f64;
        cpu.push(share * 100.0);
    }
    let of = |what: &str| format!("{}: {what}", scene.name);
    let bar = |row: Row, most: f64| {
        if scene.bars {
            row.bar(Bar::AtMost(most))
        } else {
            row
        }
    };
    Ok(vec![
        Row::new(of("tracked"), "", vec![tracked]),
        bar(
            Row::new(of("kernel maps"), "MB", vec![maps_bytes(pid)? / MB]),
            200.0,
        ),
        bar(
            Row::new(
                of("daemon, resident"),
                "MB",
                vec![resident_bytes(pid)? / MB],
            ),
            150.0,
        ),
        bar(Row::new(of("`tracer top`"), "s", asked), 1.0),
        Row::new(of("a fresh answer, CPU"), "s", answers),
        Row::new(of("daemon between answers"), "% of a CPU", cpu),
    ])
}

fn until_tracked(daemon: &Daemon, sockets: f64) -> Result<f64> {
    let began = Instant::now();
    loop {
        thread::sleep(STALE_AFTER);
        let tracked = daemon.coverage("sockets_tracked")?;
        if tracked >= sockets {
            return Ok(tracked);
        }
        if began.elapsed() > TRACKED_WITHIN {
            bail!("only {tracked} of {sockets} sockets came to be tracked");
        }
    }
}

/// Asks as a user does.
fn ask(bench: &Bench, daemon: &Daemon) -> Result<()> {
    let status = Command::new(&bench.tracer)
        .arg("top")
        .arg("--endpoint")
        .arg(daemon.socket())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("`tracer top` failed: {status}");
    }
    Ok(())
}

/// Kernel memory of the BPF maps that a process has open.
fn maps_bytes(pid: u32) -> Result<f64> {
    let mut maps = HashMap::new();
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // descriptors come and go
        let info = fs::read_to_string(file?.path()).unwrap_or_default();
        let number = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        if let (Some(id), Some(bytes)) = (number("map_id:"), number("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    if maps.is_empty() {
        bail!("the kernel tells no memory of the daemon's maps");
    }
    Ok(maps.values().sum::<u64>() as f64)
}

/// Memory that a process has resident.
pub fn resident_bytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
        .context("no VmRSS")?;
    Ok(kib * 1024.0)
}
