//! With pins a daemon may go and come again: the probes go on, and the next one takes over stacks,
//! ages and counts; what does not fit is replaced.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    daemon::Daemon,
    host::{self, seconds, socket_inodes},
    objects::{self, Kind},
    program::Program,
    tests, tracer, wait,
};

use crate::{
    bpffs::BpfFs,
    go_views,
    scenes::{self, Scene},
};

tests![
    restarted_daemon_goes_on,
    what_is_known_of_go_programs_lasts,
    pins_that_do_not_fit_are_replaced,
    pins_are_refused_where_they_can_not_be,
];

/// The only finding of a leak, once there is one.
fn leak(daemon: &Daemon) -> Result<Value> {
    wait::for_value("the leak to be found", seconds(60), || {
        let report = daemon.report()?;
        if report.verdict() != "leak" {
            return Ok(None);
        }
        report.only().cloned().map(Some)
    })
}

/// Waits until a program has opened more sockets.
fn opens_more(pid: u32, more: usize) -> Result<()> {
    let before = socket_inodes(pid)?.len();
    wait::until("more connections", seconds(60), || {
        Ok(socket_inodes(pid)?.len() >= before + more)
    })
}

/// What of a finding must not change.
fn lasting(finding: &Value) -> Value {
    serde_json::json!({
        "id": finding["id"],
        "kind": finding["kind"],
        "call_site": finding["call_site"],
        "url": finding["remote"]["url"],
        "oldest_opened_at": finding["oldest_opened_at"],
        "first_seen_at": finding["instances"][0]["first_seen_at"],
    })
}

/// Every connection that is open is listed, sooner or later with its call site and its URL unless it
/// was there before tracing, or the kernel counts an event that it did not tell (`missed` by earlier
/// daemons); returns how many were there before, and how many events were not told. Later, because
/// to connect takes a second where the server's queue is full, and the request comes after that.
fn complete(daemon: &Daemon, scene: &Scene, missed: u64) -> Result<(usize, u64)> {
    let mut incomplete: Vec<Value> = Vec::new();
    let complete = wait::for_value("every connection to be listed", seconds(20), || {
        let before = socket_inodes(scene.pid())?.len();
        let (rows, _) = daemon.connections(10_000)?;
        let after = socket_inodes(scene.pid())?.len();
        if rows.len() < before || rows.len() > after {
            return Ok(None);
        }
        let earlier = rows.iter().filter(|row| row["preexisting"] == true).count();
        incomplete = rows
            .into_iter()
            // the youngest may be on their way
            .filter(|row| row["preexisting"] == false && row["age_seconds"].as_f64() > Some(1.0))
            .filter(|row| row["call_site"]["function"] != "fetch_price" || !row["url"].is_string())
            .collect();
        let missed = missed + daemon.accounting()?.of("recursion_misses");
        // as many again may be missed between two daemons, where nobody counts, and the one send
        // that was under way when programs came, and when others went
        let under_way = if says_calls_were_under_way(daemon)? {
            UNDER_WAY
        } else {
            0
        };
        Ok((incomplete.len() as u64 <= 2 * missed + under_way).then_some((earlier, missed)))
    });
    complete.with_context(|| format!("connections without call site or URL: {incomplete:#?}"))
}

/// Sends of a client that may be under way while daemons follow each other: it has one thread, and
/// programs come and go twice.
const UNDER_WAY: u64 = 4;

/// Whether the daemon says that it may have missed sends when it took over: where they are seen at a
/// function's return.
fn says_calls_were_under_way(daemon: &Daemon) -> Result<bool> {
    let report = daemon.report()?;
    let degraded = report.0["coverage"]["degraded"].as_array();
    let said = |line: &Value| {
        let line = line.as_str().unwrap_or_default();
        line.contains("send") && line.contains("were under way")
    };
    Ok(degraded.context("no list")?.iter().any(said))
}

fn restarted_daemon_goes_on() -> Result<()> {
    let bpffs = BpfFs::mount()?;
    let scene = scenes::client("client", "fetch", 8, 900, "leak")?;
    let mut daemon = bpffs.daemon(scene.pid(), &[])?;
    let (earlier, _) = complete(&daemon, &scene, 0)?;
    let mut missed = 0;
    leak(&daemon)?;
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let programs = tracer::programs(&daemon.program)?;
        let before = leak(&daemon)?;
        (_, missed) = complete(&daemon, &scene, missed)?;
        daemon.program.signal(signal)?;
        daemon.program.end(seconds(30))?;
        opens_more(scene.pid(), 16)?;
        let mut left = 0;
        for id in &programs {
            left += usize::from(objects::exists(Kind::Program, *id)?);
        }
        // The descriptor scan and the probes of Go programs are the daemon's own.
        ensure!(left > 5, "{left} of {} programs are left", programs.len());
        daemon = bpffs.daemon(scene.pid(), &[])?;
        let after = leak(&daemon)?;
        ensure!(
            lasting(&before) == lasting(&after),
            "it was {before:#}, it is {after:#}"
        );
        let opened = |finding: &Value| finding["connections"]["opened"].as_u64().unwrap_or(0);
        ensure!(
            opened(&after) >= opened(&before) + 16,
            "it was {before:#}, it is {after:#}"
        );
        let (unseen, _) = complete(&daemon, &scene, missed)?;
        ensure!(
            unseen <= earlier,
            "{unseen} connections were not seen opening"
        );
    }
    let counts = daemon.accounting()?;
    ensure!(counts.dropped() == 0, "{counts:?}");
    Ok(())
}

/// The probes of a Go program are the daemon's own and go with it. What they told stays, and what
/// was opened meanwhile is found in the program's memory.
fn what_is_known_of_go_programs_lasts() -> Result<()> {
    let bpffs = BpfFs::mount()?;
    let running = go_views::running("body-http", "400")?;
    let pid = running.client.pid();
    let mut daemon = bpffs.daemon(pid, &[])?;
    let at_fault = |daemon: &Daemon| {
        wait::for_value("the line at fault", seconds(60), || {
            let report = daemon.report()?;
            for finding in report.findings() {
                if finding["kind"] == go_views::BODY
                    && go_views::at_mark(finding, "LEAK body-http")?
                {
                    return Ok(Some(finding.clone()));
                }
            }
            Ok(None)
        })
    };
    let before = at_fault(&daemon)?;
    daemon.program.signal(libc::SIGTERM)?;
    daemon.program.end(seconds(30))?;
    opens_more(pid, 8)?;
    daemon = bpffs.daemon(pid, &[])?;
    opens_more(pid, 8)?;
    let after = at_fault(&daemon)?;
    // older ones, whose call site nobody saw, may be counted with them by now
    let but_the_oldest = |finding: &Value| {
        let mut lasting = lasting(finding);
        lasting["oldest_opened_at"] = Value::Null;
        lasting
    };
    ensure!(
        but_the_oldest(&before) == but_the_oldest(&after),
        "it was {before:#}, it is {after:#}"
    );
    let open = |finding: &Value| finding["connections"]["open"].as_u64().unwrap_or(0);
    wait::until("what was opened meanwhile", seconds(60), || {
        let report = daemon.report()?;
        let bodies = |f: &Value| f["kind"] == go_views::BODY;
        ensure!(report.findings().iter().all(bodies), "{report}");
        let all: u64 = report.findings().iter().map(open).sum();
        Ok(all >= open(&before) + 16)
    })
}

/// Directories of pins, as seen from outside.
fn kept(bpffs: &BpfFs) -> Result<Vec<String>> {
    let entries = fs::read_dir(bpffs.outside())?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}

fn pins_that_do_not_fit_are_replaced() -> Result<()> {
    let bpffs = BpfFs::mount()?;
    let scene = scenes::client("client", "fetch", 8, 900, "leak")?;
    let daemon = bpffs.daemon(scene.pid(), &["--max-sockets", "5000"])?;
    let programs = tracer::programs(&daemon.program)?;
    let before = kept(&bpffs)?;
    ensure!(before.len() == 1, "{before:?}");
    daemon.program.signal(libc::SIGTERM)?;
    daemon.program.end(seconds(30))?;

    let daemon = bpffs.daemon(scene.pid(), &["--max-sockets", "6000"])?;
    let after = kept(&bpffs)?;
    ensure!(after.len() == 1 && after != before, "{before:?}, {after:?}");
    tracer::detached(&programs)?;
    wait::until("it to be told", seconds(30), || {
        Ok(daemon.program.stderr().contains("replaced"))
    })?;
    let metrics = daemon.metrics()?;
    ensure!(
        metrics.contains("tracer_map_max_entries{map=\"SOCKS\"} 6000"),
        "{metrics}"
    );
    complete(&daemon, &scene, 0)?;

    // What is pinned is in use: nobody else may take it.
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("other.sock");
    let pid = scene.pid().to_string();
    let pins = bpffs.pins();
    let socket = socket.to_string_lossy();
    let arguments = ["daemon", "--pid", &pid, "--socket", &socket, "--pin", &pins];
    let mut second = tracer::command(&arguments)?;
    bpffs.enter(&mut second);
    let ended = Program::start(&mut second)?.end(seconds(30))?;
    ensure!(
        ended.code() != 0 && ended.stderr.contains("another daemon"),
        "{}",
        ended.stderr
    );

    // Whoever removes the directory ends it all.
    let programs = tracer::programs(&daemon.program)?;
    daemon.program.signal(libc::SIGTERM)?;
    daemon.program.end(seconds(30))?;
    fs::remove_dir_all(bpffs.outside())?;
    tracer::detached(&programs)
}

fn pins_are_refused_where_they_can_not_be() -> Result<()> {
    host::require_root()?;
    let scene = scenes::client("client", "fetch", 1, 1, "close")?;
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("tracer.sock");
    let pid = scene.pid().to_string();
    let (socket, pins) = (socket.to_string_lossy(), directory.path().join("pins"));
    let pins = pins.to_string_lossy();
    let arguments = ["daemon", "--pid", &pid, "--socket", &socket, "--pin", &pins];
    let ended = tracer::run(&arguments, seconds(30))?;
    ensure!(
        ended.code() == 2 && ended.stderr.contains("mount -t bpf"),
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    Ok(())
}
