//! `tracer check --pid` on a leaking program says `leak`, of the right kind, at the right line, to the
//! right remote; on its healthy twin it says `clean`.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use tracer_tests::{
    fixtures::{self, line_of},
    host,
    program::Program,
    runner::NotApplicable,
    tests,
    tracer::{self, Report, check, check_all},
};

use crate::scenes::{self, Scene};

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
    every_leak_at_once,
];

// Held with each backend.
tests![BY_BACKEND: every_leak_at_once];

/// Source of the C client.
const CLIENT: &str = include_str!("../fixtures/c/client.c");
/// Source of the Rust client.
const RUST_CLIENT: &str = include_str!("../src/bin/fixture-client.rs");
/// Source of the demo.
const SHOP: &str = include_str!("../src/bin/leaky-shop.rs");
/// Source of the Python client with a connection per request.
const PYTHON_CLIENT: &str = include_str!("../fixtures/python/per_request.py");
/// Source of the Python client that keeps what its server has closed.
const CLOSE_WAIT: &str = include_str!("../fixtures/python/close_wait.py");
/// Source of the program whose helpers inherit.
const INHERIT: &str = include_str!("../fixtures/c/inherit.c");

/// Seconds that each check watches.
const WATCH: u64 = 20;
/// Calls a second that each fixture makes.
const RATE: u32 = 8;
/// Calls each fixture makes at most.
const COUNT: u32 = 800;

/// How fast the programs of a pair call, and how often at most: each leaked connection costs its
/// server a thread.
#[derive(Clone, Copy)]
struct Pace {
    rate: u32,
    count: u32,
}

/// Of a pair by itself.
const PACE: Pace = Pace {
    rate: RATE,
    count: COUNT,
};
/// Where many run side by side.
const SLOW: Pace = Pace {
    rate: 2,
    count: 240,
};

/// What is expected of a finding.
#[derive(Default)]
struct Expected {
    kind: &'static str,
    role: &'static str,
    function: Option<&'static str>,
    file: Option<&'static str>,
    line: Option<u32>,
    family: &'static str,
    url: Option<String>,
}

impl Expected {
    /// Holds a finding against it.
    fn hold(&self, finding: &Value, address: &str) -> Result<()> {
        let site = &finding["call_site"];
        ensure!(finding["kind"] == self.kind, "kind is not {}", self.kind);
        ensure!(finding["role"] == self.role, "role is not {}", self.role);
        if let Some(function) = self.function {
            let given = site["function"].as_str().unwrap_or_default();
            ensure!(
                given.ends_with(function),
                "function {given:?} is not {function}"
            );
        }
        if let Some(file) = self.file {
            let given = site["file"].as_str().unwrap_or_default();
            ensure!(given.ends_with(file), "file {given:?} is not {file}");
        }
        if let Some(line) = self.line {
            ensure!(site["line"] == line, "line is {}, not {line}", site["line"]);
        }
        let remote = &finding["remote"];
        ensure!(
            remote["family"] == self.family,
            "family is not {}",
            self.family
        );
        match (self.role, address.strip_prefix("unix:")) {
            ("server", _) => {
                let local = address.strip_prefix("unix:").unwrap_or(address);
                ensure!(finding["local"] == local, "local is not {local}");
            }
            (_, Some(path)) => ensure!(remote["path"] == path, "path is not {path}"),
            (_, None) => ensure!(remote["address"] == address, "address is not {address}"),
        }
        if let Some(url) = &self.url {
            ensure!(
                remote["url"] == **url,
                "url is {}, not {url}",
                remote["url"]
            );
        }
        let number = |name: &str| finding["connections"][name].as_u64().unwrap_or(0);
        ensure!(
            number("open") >= 5 && number("outlived") >= 5,
            "hardly any leaked connection"
        );
        ensure!(
            finding["growth_per_minute"]
                .as_f64()
                .is_some_and(|growth| growth > 60.0),
            "growth is not seen"
        );
        ensure!(
            finding["evidence"]
                .as_array()
                .is_some_and(|all| !all.is_empty()),
            "no evidence"
        );
        ensure!(
            finding["advice"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "no advice"
        );
        Ok(())
    }
}

/// A leaking program, its healthy twin, and what is expected of the leak.
struct Pair {
    leaky: Scene,
    twin: Scene,
    expected: Expected,
    /// Clients of those two that are servers.
    traffic: Vec<Program>,
}

impl Pair {
    /// Of two programs that need nobody else.
    fn of(leaky: Scene, twin: Scene, expected: Expected) -> Pair {
        Pair {
            leaky,
            twin,
            expected,
            traffic: Vec::new(),
        }
    }

    /// Checks both side by side.
    fn hold(self) -> Result<()> {
        let (leaky_check, twin_check) = (
            check(self.leaky.pid(), WATCH)?,
            check(self.twin.pid(), WATCH)?,
        );
        let report = leaky_check.report()?;
        one_leak(&report, &self.leaky.address, &self.expected)
            .with_context(|| self.leaky.name.clone())?;
        let report = twin_check.report()?;
        report
            .expect_verdict("clean")
            .with_context(|| self.twin.name.clone())
    }
}

/// Starts a pair at a pace.
type Start = fn(Pace) -> Result<Pair>;

/// Pairs whose leaks have ids of their own, for [`every_leak_at_once`].
const PAIRS: &[Start] = &[
    in_c,
    without_frame_pointers,
    without_debug_information,
    in_rust,
    in_python,
    unused,
    unread,
    unix_stream,
    abstract_name,
    peer_closed,
    peer_reset,
    streams,
    accepted,
    accepted_on_unix,
    left_to_a_helper,
];

/// All pairs under one tracer: where attaching is what takes the time (emulated guests, and each
/// backend), this shows the same as the tests of each.
fn every_leak_at_once() -> Result<()> {
    host::require_root()?;
    let hooks = tracer::hooks()?;
    if ["send", "receive"]
        .iter()
        .any(|event| hooks[*event] == "none")
    {
        let why = "it sees no transfers here; what is seen then, the tests of backends hold";
        bail!(NotApplicable(why.to_owned()));
    }
    let pairs = PAIRS
        .iter()
        .map(|start| start(SLOW))
        .collect::<Result<Vec<Pair>>>()?;
    let pids: Vec<u32> = pairs
        .iter()
        .flat_map(|pair| [pair.leaky.pid(), pair.twin.pid()])
        .collect();
    // else they would be done before the probes are attached where that takes a minute
    signal_all(&pairs, libc::SIGSTOP)?;
    let mut check = check_all(&pids, WATCH)?;
    tracer::attached(&mut check.program)?;
    signal_all(&pairs, libc::SIGCONT)?;
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
    ensure!(
        problems.is_empty(),
        "{}\ncoverage: {:#}",
        problems.join("\n"),
        report.0["coverage"]
    );
    Ok(())
}

/// Sends a signal to all programs that call.
fn signal_all(pairs: &[Pair], signal: i32) -> Result<()> {
    for pair in pairs {
        for program in [&pair.leaky.program, &pair.twin.program] {
            program.signal(signal)?;
        }
        for program in &pair.traffic {
            program.signal(signal)?;
        }
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
    let mut leaks = of(pair.leaky.pid());
    let leak = leaks.next().context("its leak is not found")?;
    ensure!(leaks.next().is_none(), "more than one finding");
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

/// The C client's leak of one connection per request.
fn fetch_price() -> Result<Expected> {
    Ok(Expected {
        kind: "client_per_request",
        role: "client",
        function: Some("fetch_price"),
        file: Some("client.c"),
        line: Some(line_of(CLIENT, "fetch_price")?),
        family: "tcp4",
        url: Some("http://prices.test/v1/prices/{}?token=…".to_owned()),
    })
}

fn connection_per_request_in_c() -> Result<()> {
    in_c(PACE)?.hold()
}

fn in_c(Pace { rate, count }: Pace) -> Result<Pair> {
    let leaky = scenes::client("client", "fetch", rate, count, "leak")?;
    let twin = scenes::client("client", "fetch", rate, count, "close")?;
    Ok(Pair::of(leaky, twin, fetch_price()?))
}

fn connection_per_request_without_frame_pointers() -> Result<()> {
    without_frame_pointers(PACE)?.hold()
}

fn without_frame_pointers(Pace { rate, count }: Pace) -> Result<Pair> {
    let leaky = scenes::client("client-o2", "fetch", rate, count, "leak")?;
    let twin = scenes::client("client-o2", "fetch", rate, count, "close")?;
    Ok(Pair::of(leaky, twin, fetch_price()?))
}

fn connection_per_request_without_debug_information() -> Result<()> {
    without_debug_information(PACE)?.hold()
}

fn without_debug_information(Pace { rate, count }: Pace) -> Result<Pair> {
    let leaky = scenes::client("client-nodebug", "fetch", rate, count, "leak")?;
    let twin = scenes::client("client-nodebug", "fetch", rate, count, "close")?;
    Ok(Pair::of(
        leaky,
        twin,
        Expected {
            file: None,
            line: None,
            ..fetch_price()?
        },
    ))
}

fn connection_per_request_over_ipv6() -> Result<()> {
    over_ipv6(PACE)?.hold()
}

fn over_ipv6(Pace { rate, count }: Pace) -> Result<Pair> {
    let to = "[::1]:0";
    let leaky = scenes::client_to(to, "http", "client", "fetch", rate, count, "leak")?;
    let twin = scenes::client_to(to, "http", "client", "fetch", rate, count, "close")?;
    Ok(Pair::of(
        leaky,
        twin,
        Expected {
            family: "tcp6",
            ..fetch_price()?
        },
    ))
}

fn connection_per_request_in_rust() -> Result<()> {
    in_rust(PACE)?.hold()
}

fn in_rust(Pace { rate, count }: Pace) -> Result<Pair> {
    let leaky = scenes::rust("rates", "http", rate, count, "leak")?;
    let twin = scenes::rust("rates", "http", rate, count, "close")?;
    let expected = Expected {
        kind: "client_per_request",
        role: "client",
        function: Some("fixture_client::fetch_exchange_rate"),
        file: Some("fixture-client.rs"),
        line: Some(line_of(RUST_CLIENT, "fetch_exchange_rate")?),
        family: "tcp4",
        url: Some("http://rates.test/v1/rates/{}?token=…".to_owned()),
    };
    Ok(Pair::of(leaky, twin, expected))
}

fn connection_per_request_in_python() -> Result<()> {
    in_python(PACE)?.hold()
}

fn in_python(Pace { rate, count }: Pace) -> Result<Pair> {
    let leaky = scenes::python("per_request.py", "http", rate, count, "leak")?;
    let twin = scenes::python("per_request.py", "http", rate, count, "close")?;
    let url = format!("http://{}/v1/profiles/{{}}?token=…", leaky.address);
    let expected = Expected {
        kind: "client_per_request",
        role: "client",
        function: Some("load_profile"),
        file: Some("per_request.py"),
        line: Some(line_of(PYTHON_CLIENT, "load_profile")?),
        family: "tcp4",
        url: Some(url),
    };
    Ok(Pair::of(leaky, twin, expected))
}

fn opened_and_never_used() -> Result<()> {
    unused(PACE)?.hold()
}

fn unused(Pace { rate, count }: Pace) -> Result<Pair> {
    let leaky = scenes::client("client", "idle", rate, count, "leak")?;
    let twin = scenes::client("client", "idle", rate, count, "close")?;
    let expected = Expected {
        kind: "never_closed",
        function: Some("open_session"),
        line: Some(line_of(CLIENT, "open_session")?),
        url: None,
        ..fetch_price()?
    };
    Ok(Pair::of(leaky, twin, expected))
}

fn response_not_read() -> Result<()> {
    unread(PACE)?.hold()
}

fn unread(Pace { rate, count }: Pace) -> Result<Pair> {
    let leaky = scenes::client("client", "unread", rate, count, "leak")?;
    let twin = scenes::client("client", "unread", rate, count, "close")?;
    let expected = Expected {
        kind: "response_not_read",
        function: Some("subscribe_prices"),
        line: Some(line_of(CLIENT, "subscribe_prices")?),
        url: Some("http://prices.test/v1/ticker?token=…".to_owned()),
        ..fetch_price()?
    };
    Ok(Pair::of(leaky, twin, expected))
}

fn unix_stream_never_closed() -> Result<()> {
    unix_stream(PACE)?.hold()
}

fn unix_stream(Pace { rate, count }: Pace) -> Result<Pair> {
    let leaky = scenes::store(rate, count, "leak")?;
    let twin = scenes::store(rate, count, "close")?;
    let expected = Expected {
        function: Some("query_store"),
        line: Some(line_of(CLIENT, "query_store")?),
        family: "unix",
        url: None,
        ..fetch_price()?
    };
    Ok(Pair::of(leaky, twin, expected))
}

fn abstract_unix_name() -> Result<()> {
    abstract_name(PACE)?.hold()
}

fn abstract_name(Pace { rate, count }: Pace) -> Result<Pair> {
    // several tests start this pair, and may do so side by side
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let name = |twin: &str| format!("unix:@tracer-test-{process}-{number}-{twin}");
    let leaky = scenes::client_to(
        &name("leak"),
        "http",
        "client",
        "fetch",
        rate,
        count,
        "leak",
    )?;
    let twin = scenes::client_to(
        &name("close"),
        "http",
        "client",
        "fetch",
        rate,
        count,
        "close",
    )?;
    let url = format!(
        "http+unix://%40{}/v1/prices/{{}}?token=…",
        leaky.address.trim_start_matches("unix:@")
    );
    let expected = Expected {
        family: "unix",
        url: Some(url),
        ..fetch_price()?
    };
    Ok(Pair::of(leaky, twin, expected))
}

fn peer_closed_and_we_did_not() -> Result<()> {
    peer_closed(PACE)?.hold()
}

fn peer_closed(Pace { rate, count }: Pace) -> Result<Pair> {
    let leaky = scenes::python("close_wait.py", "once", rate, count, "leak")?;
    let twin = scenes::python("close_wait.py", "once", rate, count, "close")?;
    let expected = Expected {
        kind: "close_wait",
        role: "client",
        function: Some("refresh_quote"),
        file: Some("close_wait.py"),
        line: Some(line_of(CLOSE_WAIT, "refresh_quote")?),
        family: "tcp4",
        url: Some("http://quotes.test/v1/quotes/{}?token=…".to_owned()),
    };
    Ok(Pair::of(leaky, twin, expected))
}

fn peer_reset_and_we_kept_it() -> Result<()> {
    peer_reset(PACE)?.hold()
}

fn peer_reset(Pace { rate, count }: Pace) -> Result<Pair> {
    let scene = |how| {
        scenes::client_to(
            "127.0.0.1:0",
            "reset",
            "client",
            "abandon",
            rate,
            count,
            how,
        )
    };
    let (leaky, twin) = (scene("leak")?, scene("close")?);
    let expected = Expected {
        kind: "close_wait",
        function: Some("abandon_upload"),
        line: Some(line_of(CLIENT, "abandon_upload")?),
        url: Some("http://prices.test/v1/upload?token=…".to_owned()),
        ..fetch_price()?
    };
    Ok(Pair::of(leaky, twin, expected))
}

fn streams_never_cancelled() -> Result<()> {
    streams(PACE)?.hold()
}

fn streams(Pace { rate, count }: Pace) -> Result<Pair> {
    let leaky = scenes::rust("feed", "sse", rate, count, "leak")?;
    let twin = scenes::rust("feed", "sse", rate, count, "close")?;
    let expected = Expected {
        kind: "stream_never_cancelled",
        role: "client",
        function: Some("fixture_client::follow_feed"),
        file: Some("fixture-client.rs"),
        line: Some(line_of(RUST_CLIENT, "follow_feed")?),
        family: "tcp4",
        url: Some("http://feed.test/v1/feed?token=…".to_owned()),
    };
    Ok(Pair::of(leaky, twin, expected))
}

fn accepted_and_never_closed() -> Result<()> {
    accepted(PACE)?.hold()
}

fn accepted(Pace { rate, count }: Pace) -> Result<Pair> {
    let (leaky, keeps) = scenes::python_server("leak", "leak", rate, count)?;
    let (twin, closes) = scenes::python_server("close", "close", rate, count)?;
    let expected = Expected {
        kind: "accepted_never_closed",
        role: "server",
        function: Some("serve"),
        file: Some("accept.py"),
        family: "tcp4",
        ..Expected::default()
    };
    Ok(Pair {
        leaky,
        twin,
        expected,
        traffic: vec![keeps, closes],
    })
}

fn accepted_on_a_unix_socket_and_never_closed() -> Result<()> {
    accepted_on_unix(PACE)?.hold()
}

fn accepted_on_unix(Pace { rate, count }: Pace) -> Result<Pair> {
    let (leaky, keeps) = scenes::unix_server("keep", "leak", rate, count)?;
    let (twin, closes) = scenes::unix_server("http", "close", rate, count)?;
    let expected = Expected {
        kind: "accepted_never_closed",
        role: "server",
        family: "unix",
        ..Expected::default()
    };
    Ok(Pair {
        leaky,
        twin,
        expected,
        traffic: vec![keeps, closes],
    })
}

fn descriptor_left_to_a_helper() -> Result<()> {
    left_to_a_helper(PACE)?.hold()
}

fn left_to_a_helper(Pace { rate, count }: Pace) -> Result<Pair> {
    let (leaky, twin) = (
        scenes::inherit(rate.min(4), count.min(480 / rate), "leak")?,
        scenes::inherit(rate.min(4), count.min(480 / rate), "close")?,
    );
    let expected = Expected {
        kind: "inherited_fd",
        role: "client",
        function: Some("start_helper"),
        file: Some("inherit.c"),
        line: Some(line_of(INHERIT, "start_helper")?),
        family: "tcp4",
        url: Some("http://jobs.test/v1/jobs/next?token=…".to_owned()),
    };
    Ok(Pair::of(leaky, twin, expected))
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
    let command = [&shop.to_string_lossy(), &*address, "10", "200"];
    let program = tracer::start(&[&options[..], &command].concat())?;
    let ended = program.end(host::seconds(60))?;
    ensure!(
        ended.code() == 0,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    ensure!(
        ended.stdout == "READY\nSOLD 200\n",
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
