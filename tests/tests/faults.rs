//! When things go wrong no count does: a daemon that was stopped, maps that are too small, buffers
//! that are full, and more sockets than anybody should have. What was lost is counted by cause and
//! said, and the next look at the kernel's own lists makes up for it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use tracer_tests::{
    daemon::{Accounting, Daemon},
    fixtures,
    host::{self, seconds, socket_inodes},
    program::Program,
    runner::{NotApplicable, Skip},
    tests, wait,
};

use crate::{scenes, targets::Group};

tests![
    stopped_daemon_loses_no_tcp_socket,
    stopped_daemon_loses_no_unix_socket,
    what_was_not_looked_at_is_not_clean,
    too_little_room_is_said_and_healed,
    stacks_not_taken_are_counted,
    many_sockets_from_before,
    sockets_in_numbers_fit_into_memory,
    little_memory_is_enough,
];

/// Whether the long tests are asked for.
fn full() -> bool {
    std::env::var_os("TRACER_TEST_FULL").is_some()
}

/// A load that waits for its first line.
fn load(arguments: &[&str]) -> Result<Program> {
    Ok(Program::ready(fixtures::path("load")?, arguments)?.0)
}

/// What a load says it opened and kept.
fn done(load: &mut Program) -> Result<(u64, u64)> {
    let line = load.line("DONE opened=", seconds(120))?;
    let (opened, kept) = line.split_once(" kept=").context("no kept")?;
    Ok((opened.parse()?, kept.parse()?))
}

/// Churn for `time` while the daemon is stopped.
fn churned_while_stopped(what: &str) -> Result<()> {
    host::require_root()?;
    let mut load = load(&["churn", what, "1000"])?;
    let daemon = Daemon::start(&[load.pid()], &[])?;
    daemon.program.signal(libc::SIGSTOP)?;
    load.write("\n")?;
    // This is about a time, not about a condition.
    std::thread::sleep(std::time::Duration::from_secs(if full() { 10 } else { 3 }));
    load.write("\n")?;
    let (opened, kept) = done(&mut load)?;
    daemon.program.signal(libc::SIGCONT)?;
    // an emulated processor manages some hundred in that time
    ensure!(opened > 100, "hardly any churn: {opened}");
    ensure!(
        socket_inodes(load.pid())?.len() as u64 >= kept,
        "the load miscounts"
    );
    let mut counts = Accounting(BTreeMap::new());
    let settled = wait::until("the counts to agree", seconds(30), || {
        let (rows, omitted) = daemon.connections(10)?;
        counts = daemon.accounting()?;
        // A program does not run when an interrupt comes while it is running: that is counted.
        let missed = counts.of("recursion_misses");
        Ok(rows.len() as u64 + omitted == kept
            && counts.openings().abs_diff(opened) <= missed
            && counts.balances()
            && counts.dropped() == 0)
    });
    settled.with_context(|| format!("opened {opened}, kept {kept}: {counts:?}"))?;
    let report = daemon.report()?;
    ensure!(report.0["coverage"]["lost_events"] == 0, "{report}");
    Ok(())
}

fn stopped_daemon_loses_no_tcp_socket() -> Result<()> {
    churned_while_stopped("tcp")
}

fn stopped_daemon_loses_no_unix_socket() -> Result<()> {
    churned_while_stopped("pair")
}

fn what_was_not_looked_at_is_not_clean() -> Result<()> {
    host::require_root()?;
    let load = load(&["fill", "tcp", "5"])?;
    let daemon = Daemon::start(&[load.pid()], &[])?;
    let report = daemon.report()?;
    ensure!(report.verdict() == "clean", "{report}");
    daemon.program.signal(libc::SIGSTOP)?;
    // This is about a time, not about a condition.
    std::thread::sleep(std::time::Duration::from_secs(6));
    daemon.program.signal(libc::SIGCONT)?;
    let mut report = daemon.report()?;
    let said = wait::until("a sweep", seconds(10), || {
        report = daemon.report()?;
        Ok(report.verdict() == "inconclusive")
    });
    said.with_context(|| report.to_string())?;
    let because = report.0["inconclusive_because"].to_string();
    ensure!(because.contains("were looked at in a row"), "{because}");
    Ok(())
}

fn too_little_room_is_said_and_healed() -> Result<()> {
    host::require_root()?;
    let mut load = load(&["fill", "tcp", "4000"])?;
    let daemon = Daemon::start(&[load.pid()], &["--max-sockets", "500"])?;
    load.write("\n")?;
    let (opened, kept) = done(&mut load)?;

    let mut counts = Accounting(BTreeMap::new());
    let settled = wait::until("every socket to be counted", seconds(30), || {
        daemon.report()?;
        counts = daemon.accounting()?;
        let missed = counts.of("recursion_misses");
        Ok(counts.balances()
            && counts.openings().abs_diff(opened) <= missed
            && counts.of("live") + counts.of("without_room_now") == kept)
    });
    settled.with_context(|| format!("opened {opened}, kept {kept}: {counts:?}"))?;
    ensure!(counts.dropped() > 0, "nothing was dropped: {counts:?}");
    // Whoever asks is told: in the verdict, the coverage and the metrics.
    let report = daemon.report()?;
    let coverage = &report.0["coverage"];
    ensure!(
        coverage["losses"]["socket_map_full"].as_u64() > Some(0),
        "{report}"
    );
    ensure!(
        coverage["lost_events"].as_u64() >= Some(counts.of("without_room_now")),
        "{report}"
    );
    let degraded = coverage["degraded"].to_string();
    ensure!(degraded.contains("--max-sockets"), "{degraded}");
    ensure!(report.verdict() != "clean", "{report}");
    let metrics = daemon.metrics()?;
    for line in [
        "tracer_lost_events_total{cause=\"socket_map_full\"}",
        "tracer_lost_events_unhealed",
        "tracer_connections_opened_total",
        "tracer_connections_closed_total",
        "tracer_map_entries{map=\"SOCKS\"}",
    ] {
        ensure!(metrics.contains(line), "no {line} in {metrics}");
    }

    // Room again: the next scan finds what was dropped.
    load.write("\n")?;
    let left: u64 = load.line("LEFT ", seconds(30))?.parse()?;
    ensure!(
        socket_inodes(load.pid())?.len() as u64 == left + 1,
        "the load miscounts"
    );
    let healed = wait::until("the loss to be healed", seconds(30), || {
        let (rows, omitted) = daemon.connections(1_000)?;
        // an answer of a moment ago may be given again
        counts = daemon.accounting()?;
        let healed = counts.of("without_room_now") == 0 && counts.balances();
        Ok(rows.len() as u64 == left && omitted == 0 && healed)
    });
    healed.with_context(|| format!("left {left}: {counts:?}"))?;
    wait::until("a report without a loss", seconds(20), || {
        let coverage = &daemon.report()?.0["coverage"];
        Ok(coverage["lost_events"] == 0 && !coverage["degraded"].to_string().contains("--max"))
    })?;
    ensure!(counts.of("without_room_now") == 0, "{counts:?}");
    Ok(())
}

fn stacks_not_taken_are_counted() -> Result<()> {
    host::require_root()?;
    let (_server, address) = scenes::server("keep", "127.0.0.1:0")?;
    let mut loads = (0..4)
        .map(|_| load(&["deep", "400", &address]))
        .collect::<Result<Vec<_>>>()?;
    let pids: Vec<u32> = loads.iter().map(Program::pid).collect();
    let daemon = Daemon::start(&pids, &[])?;
    // The buffer holds some 120 copies; a process may cost 200 a second.
    daemon.program.signal(libc::SIGSTOP)?;
    for load in &mut loads {
        load.write("\n")?;
    }
    let mut opened = 0;
    for load in &mut loads {
        opened += done(load)?.0;
    }
    daemon.program.signal(libc::SIGCONT)?;
    let mut counts = Accounting(BTreeMap::new());
    let settled = wait::until("every connection to be counted", seconds(30), || {
        let Ok((rows, omitted)) = daemon.connections(10) else {
            return Ok(false);
        };
        counts = daemon.accounting()?;
        Ok(rows.len() as u64 + omitted == opened && counts.balances())
    });
    settled.with_context(|| format!("opened {opened}: {counts:?}"))?;
    let lost = counts.of("ring_full") + counts.of("stack_over_budget");
    ensure!(
        counts.of("ring_full") > 0,
        "the buffer was not full: {counts:?}"
    );
    // an emulated processor does not open that many a second
    ensure!(
        counts.of("stack_over_budget") > 0 || host::is_guest(),
        "the budget was not used up: {counts:?}"
    );
    let without = counts.of("without_stack_now");
    ensure!(
        without <= lost && without < opened,
        "stacks are missing that nobody lost: {counts:?}"
    );
    wait::until("the report to say so", seconds(20), || {
        let losses = &daemon.report()?.0["coverage"]["losses"];
        Ok(losses["ring_full"].as_u64() > Some(0))
    })
}

/// Sockets that were there before, in several processes because of the limit of descriptors.
fn held_before(count: u64, processes: u64, room: &str) -> Result<(Program, Daemon)> {
    host::require_root()?;
    let arguments = [&count.to_string(), &processes.to_string()];
    let load = load(&["hold", arguments[0], arguments[1]])?;
    let daemon = Daemon::start(&[load.pid()], &["--max-sockets", room])?;
    let mut counts = Accounting(BTreeMap::new());
    // A build without optimization takes its time with so many.
    let settled = wait::until("all to be found", seconds(180), || {
        counts = daemon.accounting().unwrap_or(counts.clone());
        Ok(counts.of("live") == count)
    });
    settled.with_context(|| format!("{counts:?}"))?;
    ensure!(
        counts.of("found_by_scan") == count && counts.of("seen") == count && counts.balances(),
        "{counts:?}"
    );
    let (rows, omitted) = wait::for_value("the list", seconds(120), || {
        Ok(daemon.connections(1_000).ok())
    })?;
    ensure!(
        rows.len() as u64 + omitted == count,
        "{} rows and {omitted} more",
        rows.len()
    );
    for row in &rows {
        ensure!(
            row["preexisting"] == true && row["call_site"].is_null(),
            "not marked: {row}"
        );
    }
    let report = wait::for_value("a report", seconds(120), || Ok(daemon.report().ok()))?;
    report.expect_verdict("clean")?;
    ensure!(report.0["coverage"]["lost_events"] == 0, "{report}");
    Ok((load, daemon))
}

fn many_sockets_from_before() -> Result<()> {
    let (count, processes) = if full() { (200_000, 16) } else { (40_000, 4) };
    held_before(count, processes, "200000").map(drop)
}

/// A million of them in the full tests, where 2.5 GB of memory go to the sockets themselves.
fn sockets_in_numbers_fit_into_memory() -> Result<()> {
    const RESIDENT_MAX: u64 = 150_000_000;
    /// Of the maps besides the one of sockets.
    const OTHERS: u64 = 31_000_000;
    let (count, processes) = if full() { (1_000_000, 80) } else { (50_000, 4) };
    let (_load, daemon) = held_before(count, processes, &count.to_string())?;
    let pid = daemon.program.pid();
    let maps = host::bpf_map_bytes_of(pid)?;
    let resident = host::resident_bytes(pid)?;
    println!("{count} sockets: {maps} bytes of kernel maps, {resident} of the daemon");
    // kernel/bpf/hashtab.c: an entry of ours has 152 bytes, a bucket 16
    let expected = OTHERS + 152 * count + 16 * count.next_power_of_two();
    ensure!(maps <= expected, "{maps} bytes of kernel maps");
    ensure!(resident <= RESIDENT_MAX, "{resident} bytes of memory");
    Ok(())
}

/// A group that may use this much memory, whichever version of groups has the controller.
fn limited_group(bytes: u64) -> Result<Group> {
    let name = format!("tracer-test-memory-{}", std::process::id());
    let (group, limit) = match Group::make("cgroup", "memory", &name) {
        Ok(group) => (group, "memory.limit_in_bytes"),
        Err(_) => (Group::make("cgroup2", "", &name)?, "memory.max"),
    };
    if let (Some(parent), true) = (group.0.parent(), host::is_guest()) {
        // the controller may be missing: then there is no such file below
        let _ = std::fs::write(parent.join("cgroup.subtree_control"), "+memory");
    }
    let limit = group.0.join(limit);
    if !limit.exists() {
        bail!(Skip("no group can be limited in its memory".to_owned()));
    }
    std::fs::write(limit, bytes.to_string())?;
    Ok(group)
}

/// The limit counts what the kernel keeps for the daemon, its readers and the files that they read;
/// where it is reached, a reader ends and not the daemon.
fn little_memory_is_enough() -> Result<()> {
    host::require_root()?;
    if !full() {
        bail!(NotApplicable("part of the full run".to_owned()));
    }
    let group = limited_group(128 << 20)?;
    let leak = scenes::client("client", "fetch", 8, 2_000, "leak")?;
    let mut many = load(&["fill", "tcp", "4000"])?;
    let mut churn = load(&["churn", "pair", "1000"])?;
    let pids = [leak.pid(), many.pid(), churn.pid()];
    let mut entered = Ok(());
    let mut daemon = Daemon::start_as(&pids, &[], |command| {
        entered = group.enter(command);
    })?;
    entered?;
    many.write("\n")?;
    churn.write("\n")?;
    let mut report = daemon.report()?;
    let settled = wait::until("the leak", seconds(60), || {
        report = daemon.report()?;
        Ok(report.at("fetch_price").is_ok())
    });
    settled.with_context(|| report.to_string())?;
    churn.write("\n")?;
    let (opened, kept) = done(&mut churn)?;
    // what was opened since the daemon looked last is not counted as live yet
    leak.program.signal(libc::SIGSTOP)?;
    let mut counts = Accounting(BTreeMap::new());
    wait::until("the counts to agree", seconds(30), || {
        counts = daemon.accounting()?;
        Ok(counts.balances())
    })
    .with_context(|| format!("{opened} opened, {kept} kept: {counts:?}"))?;
    ensure!(
        daemon.program.runs()?,
        "it ended: {}",
        daemon.program.stderr()
    );
    let most = ["memory.max_usage_in_bytes", "memory.peak"];
    let most = most
        .iter()
        .find_map(|name| std::fs::read_to_string(group.0.join(name)).ok());
    println!("at most {} bytes", most.unwrap_or_default().trim());
    Ok(())
}
