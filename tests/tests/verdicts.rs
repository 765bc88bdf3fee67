//! `tracer check --pid` on a leaking program says `leak`, of the right kind, at the right line, to the
//! right remote; on its healthy twin it says `clean`.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use tracer_tests::{
    fixtures::{self, line_of},
    host,
    runner::NotApplicable,
    tests,
    tracer::{self, Report, check, check_all},
};

use crate::{
    pairs::{self, CLIENT, COUNT, Expected, PACE, PAIRS, Pair, RATE, fetch_price, slow},
    scenes,
};

tests![
    connection_per_request_in_c,
    connection_per_request_without_frame_pointers,
    connection_per_request_without_debug_information,
    connection_per_request_over_ipv6,
    connection_per_request_in_rust,
    connection_per_request_in_python,
    opened_and_never_used,
    response_not_read,
    unix_stream_never_closed,
    abstract_unix_name,
    peer_closed_and_we_did_not,
    peer_reset_and_we_kept_it,
    streams_never_cancelled,
    accepted_and_never_closed,
    accepted_on_a_unix_socket_and_never_closed,
    descriptor_left_to_a_helper,
    later_request_is_at_fault,
    two_leaks_in_one_program,
    pool_and_slow_turnover_are_healthy,
    the_demo,
];

// Held with each backend.
tests![BY_BACKEND: every_leak_at_once];

/// Source of the demo.
const SHOP: &str = include_str!("../src/bin/leaky-shop.rs");

/// Checks both side by side.
fn hold(pair: &Pair) -> Result<()> {
    let (leaky_check, twin_check) = (
        check(pair.leaky.pid(), WATCH)?,
        check(pair.twin.pid(), WATCH)?,
    );
    let report = leaky_check.report()?;
    one_leak(&report, &pair.leaky.address, &pair.expected)
        .with_context(|| pair.leaky.name.clone())?;
    let report = twin_check.report()?;
    report
        .expect_verdict("clean")
        .with_context(|| pair.twin.name.clone())
}

/// Seconds that each check watches.
const WATCH: u64 = 20;

/// All pairs under one tracer: where attaching is what takes the time (emulated guests, and each
/// backend), this shows the same as the tests of each.
fn every_leak_at_once() -> Result<()> {
    // sixty programs: with those of another backend beside them, an emulated processor falls behind
    static ONE: Mutex<()> = Mutex::new(());
    host::require_root()?;
    let hooks = tracer::hooks()?;
    if ["send", "receive"]
        .iter()
        .any(|event| hooks[*event] == "none")
    {
        let why = "it sees no transfers here; what is seen then, the tests of backends hold";
        bail!(NotApplicable(why.to_owned()));
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut pairs: Vec<Pair> = Vec::new();
    for start in PAIRS {
        let pair = start(slow())?;
        // else it would be done before the probes are attached where that takes a minute
        signal(&pair, libc::SIGSTOP)?;
        pairs.push(pair);
    }
    let pids: Vec<u32> = pairs
        .iter()
        .flat_map(|pair| [pair.leaky.pid(), pair.twin.pid()])
        .collect();
    let mut check = check_all(&pids, WATCH)?;
    tracer::attached(&mut check.program)?;
    for pair in &pairs {
        signal(pair, libc::SIGCONT)?;
    }
    let report = check.report()?;
    report.expect_verdict("leak")?;
    let mut problems = Vec::new();
    for pair in &pairs {
        if let Err(problem) = in_report(&report, pair) {
            problems.push(format!("{}: {problem:#}", pair.leaky.name));
        }
    }
    let strange = report.findings().iter().filter(|finding| {
        !pairs
            .iter()
            .any(|pair| instance_of(finding, pair.leaky.pid()))
    });
    problems.extend(strange.map(|finding| format!("nobody leaks this: {finding:#}")));
    ensure!(
        !report.to_string().contains("secret"),
        "a secret is given away"
    );
    let findings = report.findings().iter();
    let found: Vec<String> = findings
        .map(|f| {
            format!(
                "{} of {} ({})",
                f["kind"], f["process"]["comm"], f["process"]["pid"]
            )
        })
        .collect();
    ensure!(
        problems.is_empty(),
        "{}\nfound: {}\ncoverage: {:#}",
        problems.join("\n"),
        found.join(", "),
        report.0["coverage"]
    );
    Ok(())
}

/// Sends a signal to the programs of a pair that call.
fn signal(pair: &Pair, signal: i32) -> Result<()> {
    let programs = [&pair.leaky.program, &pair.twin.program];
    for program in programs.into_iter().chain(&pair.traffic) {
        program.signal(signal)?;
    }
    Ok(())
}

/// The leak of a pair, the only one of its program, and nothing of its twin.
fn in_report(report: &Report, pair: &Pair) -> Result<()> {
    let of = |pid: u32| {
        let findings = report.findings().iter();
        findings.filter(move |finding| instance_of(finding, pid))
    };
    if let Some(finding) = of(pair.twin.pid()).next() {
        bail!("the healthy twin is accused: {finding:#}");
    }
    // what was lost is a finding of its own, of which little is known; so is what a program opened
    // before it was stopped
    let lost = report.0["coverage"]["losses"]["recursion_misses"].as_u64() > Some(0);
    let little_known = |finding: &Value| {
        let before = finding["evidence"]
            .to_string()
            .contains("before the watch began");
        finding["confidence"] == "low" && (lost || before)
    };
    let mut leaks = of(pair.leaky.pid()).filter(|finding| !little_known(finding));
    let leak = leaks.next().context("its leak is not found")?;
    if let Some(other) = leaks.next() {
        bail!("more than one finding: {leak:#} and {other:#}");
    }
    pair.expected
        .hold(leak, &pair.leaky.address)
        .map_err(|error| anyhow!("{error:#}: {leak:#}"))
}

/// Whether a finding concerns this process.
fn instance_of(finding: &Value, pid: u32) -> bool {
    let instances = finding["instances"].as_array();
    instances.is_some_and(|all| all.iter().any(|one| one["pid"] == pid))
}

/// The report has one finding, as expected, and gives no secret away.
fn one_leak(report: &Report, address: &str, expected: &Expected) -> Result<()> {
    report.expect_verdict("leak")?;
    // What is wrong comes first, all there is to see after it.
    expected
        .hold(report.only()?, address)
        .map_err(|error| anyhow!("{error:#}: {report}"))?;
    ensure!(
        !report.to_string().contains("secret"),
        "a secret is given away"
    );
    Ok(())
}

fn connection_per_request_in_c() -> Result<()> {
    hold(&pairs::in_c(PACE)?)
}

fn connection_per_request_without_frame_pointers() -> Result<()> {
    hold(&pairs::without_frame_pointers(PACE)?)
}

fn connection_per_request_without_debug_information() -> Result<()> {
    hold(&pairs::without_debug_information(PACE)?)
}

fn connection_per_request_over_ipv6() -> Result<()> {
    hold(&pairs::over_ipv6(PACE)?)
}

fn connection_per_request_in_rust() -> Result<()> {
    hold(&pairs::in_rust(PACE)?)
}

fn connection_per_request_in_python() -> Result<()> {
    hold(&pairs::in_python(PACE)?)
}

fn opened_and_never_used() -> Result<()> {
    hold(&pairs::unused(PACE)?)
}

fn response_not_read() -> Result<()> {
    hold(&pairs::unread(PACE)?)
}

fn unix_stream_never_closed() -> Result<()> {
    hold(&pairs::unix_stream(PACE)?)
}

fn abstract_unix_name() -> Result<()> {
    hold(&pairs::abstract_name(PACE)?)
}

fn peer_closed_and_we_did_not() -> Result<()> {
    hold(&pairs::peer_closed(PACE)?)
}

fn peer_reset_and_we_kept_it() -> Result<()> {
    hold(&pairs::peer_reset(PACE)?)
}

fn streams_never_cancelled() -> Result<()> {
    hold(&pairs::streams(PACE)?)
}

fn accepted_and_never_closed() -> Result<()> {
    hold(&pairs::accepted(PACE)?)
}

fn accepted_on_a_unix_socket_and_never_closed() -> Result<()> {
    hold(&pairs::accepted_on_unix(PACE)?)
}

fn descriptor_left_to_a_helper() -> Result<()> {
    hold(&pairs::left_to_a_helper(PACE)?)
}

fn later_request_is_at_fault() -> Result<()> {
    let leaky = scenes::client("client", "reuse", RATE, COUNT, "leak")?;
    let twin = scenes::client("client", "reuse", RATE, COUNT, "close")?;
    let report = check(leaky.pid(), WATCH)?;
    let twin_report = check(twin.pid(), WATCH)?.report()?;
    let report = report.report()?;
    report.expect_verdict("leak")?;
    let finding = report.only()?;
    let line = line_of(CLIENT, "watch_orders")?;
    let site = &finding["call_site"];
    ensure!(
        site["function"] == "watch_orders" && site["line"] == line,
        "call site: {report}"
    );
    ensure!(finding["stack_of"] == "request", "stack_of: {report}");
    let opener = finding["opener_stack"].to_string();
    ensure!(
        opener.contains("borrow_connection"),
        "the opener is not beside it: {report}"
    );
    let url = "http://prices.test/v1/orders?since=…";
    ensure!(finding["remote"]["url"] == url, "url: {report}");
    twin_report.expect_verdict("clean")
}

fn two_leaks_in_one_program() -> Result<()> {
    let scene = scenes::client("client", "both", 2 * RATE, COUNT, "leak")?;
    let report = check(scene.pid(), WATCH)?.report()?;
    report.expect_verdict("leak")?;
    ensure!(report.findings().len() == 2, "not two findings: {report}");
    let fetch = report.at("fetch_price")?;
    fetch_price()?
        .hold(fetch, &scene.address)
        .map_err(|error| anyhow!("{error:#}: {report}"))?;
    let idle = report.at("open_session")?;
    ensure!(
        idle["kind"] == "never_closed",
        "kind of open_session: {report}"
    );
    ensure!(fetch["id"] != idle["id"], "one id for two leaks: {report}");
    Ok(())
}

fn pool_and_slow_turnover_are_healthy() -> Result<()> {
    let pool = scenes::client("client", "pool", RATE, COUNT, "close")?;
    let linger = scenes::client("client", "linger", RATE, COUNT, "close")?;
    let (pool_check, linger_check) = (check(pool.pid(), WATCH)?, check(linger.pid(), WATCH)?);
    pool_check.report()?.expect_verdict("clean")?;
    linger_check.report()?.expect_verdict("clean")
}

/// The shop ends by itself, and with it all its connections: the leak is reported all the same.
fn the_demo() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("report.json");
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    let shop = fixtures::path("leaky-shop")?;
    let options = [
        "check",
        "-o",
        "json",
        "--report",
        &file.to_string_lossy(),
        "--",
    ];
    // an emulated processor takes half a minute to name the first call site
    let count = if host::is_guest() { "600" } else { "200" };
    let command = [&shop.to_string_lossy(), &*address, "10", count];
    let program = tracer::start(&[&options[..], &command].concat())?;
    let ended = program.end(host::seconds(90))?;
    ensure!(
        ended.code() == 0,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    ensure!(
        ended.stdout == format!("READY\nSOLD {count}\n"),
        "stdout: {:?}",
        ended.stdout
    );
    let report = Report::read(&file)?;
    let expected = Expected {
        kind: "client_per_request",
        role: "client",
        function: Some("leaky_shop::Discounts::lookup"),
        file: Some("leaky-shop.rs"),
        line: Some(line_of(SHOP, "discounts")?),
        family: "tcp4",
        url: Some("http://discounts.shop.test/v1/discounts/{}?customer=…&token=…".to_owned()),
    };
    one_leak(&report, &address, &expected)?;
    ensure!(
        !report.to_string().contains("hush"),
        "a secret is given away"
    );
    Ok(())
}
