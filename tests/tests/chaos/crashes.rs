//! Daemons that crash over and over.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tracer_tests::{
    daemon::Daemon,
    host::{self, seconds},
    objects::Objects,
    program::Program,
    tracer, wait,
};

use super::{
    Random, full, seed,
    world::{entries, is_at, lasting, of},
};
use crate::{bpffs::BpfFs, scenes};

/// Daemons that are killed at any moment of their start or after it leave nothing in the kernel but
/// what is pinned, and that does not grow.
pub fn crash_loop_leaves_nothing_behind() -> Result<()> {
    host::require_root()?;
    let starts = if full() { 200 } else { 3 };
    let seed = seed();
    let mut random = Random(seed);
    println!("chaos: {starts} starts, seed {seed}");
    let bpffs = BpfFs::mount()?;
    let scene = scenes::client("client", "fetch", 4, 15_000, "leak")?;
    let pid = scene.pid();

    let begun = Instant::now();
    let daemon = bpffs.daemon(pid, &[])?;
    let start = begun.elapsed();
    let site = |daemon: &Daemon| {
        wait::for_value("the leak", seconds(60), || {
            let report = daemon.report()?;
            let mut findings = of(report.findings(), pid);
            Ok(findings.find(|f| is_at(f, "fetch_price")).map(lasting))
        })
    };
    let before = site(&daemon)?;
    let mut seen = Objects::of(daemon.program.pid());
    let pins = entries(&bpffs.outside())?;
    seen.0.extend(Objects::pinned(&bpffs.outside())?.0);
    daemon.program.signal(libc::SIGKILL)?;
    daemon.program.end(seconds(20))?;
    let left = settled(&seen, &Objects::default())?;

    for number in 1..=starts {
        let moment = start * u32::try_from(random.below(120))? / 100;
        let crashed = crash(&bpffs, pid, moment, &mut seen)
            .with_context(|| format!("start {number} of seed {seed}, killed after {moment:?}"))?;
        seen.0.extend(Objects::pinned(&bpffs.outside())?.0);
        let now = settled(&seen, &left)?;
        let pinned = entries(&bpffs.outside())?;
        let new: Vec<_> = now.0.difference(&left.0).collect();
        ensure!(
            now.0.len() <= left.0.len() && pinned <= pins,
            "start {number} of seed {seed}, killed after {moment:?}: {} objects and {pins} pins were \
             left, now {} and {pinned}, {new:?} of them new: {crashed}",
            left.0.len(),
            now.0.len()
        );
        if number % 20 == 0 {
            println!("chaos: {number} starts, {} objects live", now.0.len());
        }
    }

    // The last one takes over what the first began; then all is removed.
    let daemon = bpffs.daemon(pid, &[])?;
    let after = site(&daemon)?;
    ensure!(before == after, "it was {before:#}, it is {after:#}");
    // what was opened since the daemon looked last is not counted as live yet
    scene.program.signal(libc::SIGSTOP)?;
    let mut said = String::new();
    wait::until("the counts to agree", seconds(30), || {
        let counts = daemon.accounting()?;
        said = format!("{counts:?}");
        Ok(counts.balances())
    })
    .with_context(|| said.clone())?;
    seen.0.extend(Objects::of(daemon.program.pid()).0);
    daemon.program.signal(libc::SIGTERM)?;
    daemon.program.end(seconds(30))?;
    fs::remove_dir_all(bpffs.outside())?;
    let left = settled(&seen, &Objects::default())?;
    ensure!(left.0.is_empty(), "left behind: {left:?}");
    println!("chaos: of {} objects none is left", seen.0.len());
    Ok(())
}

/// Starts a daemon, kills it at this moment, and returns what it had said.
fn crash(bpffs: &BpfFs, pid: u32, moment: Duration, seen: &mut Objects) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("tracer.sock");
    let (socket, pins, pid) = (socket.to_string_lossy(), bpffs.pins(), pid.to_string());
    let arguments = ["daemon", "--pid", &pid, "--socket", &socket, "--pin", &pins];
    let mut command = tracer::command(&arguments)?;
    bpffs.enter(&mut command);
    let mut daemon = Program::start(&mut command)?;
    let end = Instant::now() + moment;
    while Instant::now() < end {
        seen.0.extend(Objects::of(daemon.pid()).0);
        thread::sleep(Duration::from_millis(20));
    }
    ensure!(daemon.runs()?, "it ended by itself: {}", daemon.stderr());
    daemon.signal(libc::SIGKILL)?;
    Ok(daemon.end(seconds(20))?.stderr)
}

/// The objects that are still there once no more than `wanted` are, or after a while; the kernel frees
/// them a little later.
fn settled(seen: &Objects, wanted: &Objects) -> Result<Objects> {
    let end = Instant::now() + seconds(5);
    loop {
        let alive = seen.alive()?;
        if alive.0.len() <= wanted.0.len() || Instant::now() >= end {
            return Ok(alive);
        }
        thread::sleep(Duration::from_millis(50));
    }
}
