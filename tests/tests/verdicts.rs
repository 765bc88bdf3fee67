//! `tracer check --pid` on a leaking program says `leak`, of the right kind, at the right line, to the
//! right remote; on its healthy twin it says `clean`.

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use tracer_tests::{
    fixtures::{self, line_of},
    host, tests,
    tracer::{self, Report, check},
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
];

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

/// What is expected of a finding.
#[derive(Default)]
struct Expected<'a> {
    kind: &'a str,
    role: &'a str,
    function: Option<&'a str>,
    file: Option<&'a str>,
    line: Option<u32>,
    family: &'a str,
    url: Option<&'a str>,
}

impl Expected<'_> {
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
        if let Some(url) = self.url {
            ensure!(remote["url"] == url, "url is {}, not {url}", remote["url"]);
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

/// Checks a leaking program and its twin side by side.
fn pair(leaky: &Scene, twin: &Scene, expected: &Expected<'_>) -> Result<()> {
    let (leaky_check, twin_check) = (check(leaky.pid(), WATCH)?, check(twin.pid(), WATCH)?);
    let report = leaky_check.report()?;
    one_leak(&report, &leaky.address, expected).with_context(|| leaky.name.clone())?;
    let report = twin_check.report()?;
    report
        .expect_verdict("clean")
        .with_context(|| twin.name.clone())
}

/// The report has one finding, as expected, and gives no secret away.
fn one_leak(report: &Report, address: &str, expected: &Expected<'_>) -> Result<()> {
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
fn fetch_price() -> Result<Expected<'static>> {
    Ok(Expected {
        kind: "client_per_request",
        role: "client",
        function: Some("fetch_price"),
        file: Some("client.c"),
        line: Some(line_of(CLIENT, "fetch_price")?),
        family: "tcp4",
        url: Some("http://prices.test/v1/prices/{}?token=…"),
    })
}

fn connection_per_request_in_c() -> Result<()> {
    let leaky = scenes::client("client", "fetch", RATE, COUNT, "leak")?;
    let twin = scenes::client("client", "fetch", RATE, COUNT, "close")?;
    pair(&leaky, &twin, &fetch_price()?)
}

fn connection_per_request_without_frame_pointers() -> Result<()> {
    let leaky = scenes::client("client-o2", "fetch", RATE, COUNT, "leak")?;
    let twin = scenes::client("client-o2", "fetch", RATE, COUNT, "close")?;
    pair(&leaky, &twin, &fetch_price()?)
}

fn connection_per_request_without_debug_information() -> Result<()> {
    let leaky = scenes::client("client-nodebug", "fetch", RATE, COUNT, "leak")?;
    let twin = scenes::client("client-nodebug", "fetch", RATE, COUNT, "close")?;
    pair(
        &leaky,
        &twin,
        &Expected {
            file: None,
            line: None,
            ..fetch_price()?
        },
    )
}

fn connection_per_request_over_ipv6() -> Result<()> {
    let to = "[::1]:0";
    let leaky = scenes::client_to(to, "http", "client", "fetch", RATE, COUNT, "leak")?;
    let twin = scenes::client_to(to, "http", "client", "fetch", RATE, COUNT, "close")?;
    pair(
        &leaky,
        &twin,
        &Expected {
            family: "tcp6",
            ..fetch_price()?
        },
    )
}

fn connection_per_request_in_rust() -> Result<()> {
    let leaky = scenes::rust("rates", "http", RATE, COUNT, "leak")?;
    let twin = scenes::rust("rates", "http", RATE, COUNT, "close")?;
    let expected = Expected {
        kind: "client_per_request",
        role: "client",
        function: Some("fixture_client::fetch_exchange_rate"),
        file: Some("fixture-client.rs"),
        line: Some(line_of(RUST_CLIENT, "fetch_exchange_rate")?),
        family: "tcp4",
        url: Some("http://rates.test/v1/rates/{}?token=…"),
    };
    pair(&leaky, &twin, &expected)
}

fn connection_per_request_in_python() -> Result<()> {
    let leaky = scenes::python("per_request.py", "http", RATE, COUNT, "leak")?;
    let twin = scenes::python("per_request.py", "http", RATE, COUNT, "close")?;
    let url = format!("http://{}/v1/profiles/{{}}?token=…", leaky.address);
    let expected = Expected {
        kind: "client_per_request",
        role: "client",
        function: Some("load_profile"),
        file: Some("per_request.py"),
        line: Some(line_of(PYTHON_CLIENT, "load_profile")?),
        family: "tcp4",
        url: Some(&url),
    };
    pair(&leaky, &twin, &expected)
}

fn opened_and_never_used() -> Result<()> {
    let leaky = scenes::client("client", "idle", RATE, COUNT, "leak")?;
    let twin = scenes::client("client", "idle", RATE, COUNT, "close")?;
    let expected = Expected {
        kind: "never_closed",
        function: Some("open_session"),
        line: Some(line_of(CLIENT, "open_session")?),
        url: None,
        ..fetch_price()?
    };
    pair(&leaky, &twin, &expected)
}

fn response_not_read() -> Result<()> {
    let leaky = scenes::client("client", "unread", RATE, COUNT, "leak")?;
    let twin = scenes::client("client", "unread", RATE, COUNT, "close")?;
    let expected = Expected {
        kind: "response_not_read",
        function: Some("subscribe_prices"),
        line: Some(line_of(CLIENT, "subscribe_prices")?),
        url: Some("http://prices.test/v1/ticker?token=…"),
        ..fetch_price()?
    };
    pair(&leaky, &twin, &expected)
}

fn unix_stream_never_closed() -> Result<()> {
    let leaky = scenes::store(RATE, COUNT, "leak")?;
    let twin = scenes::store(RATE, COUNT, "close")?;
    let expected = Expected {
        function: Some("query_store"),
        line: Some(line_of(CLIENT, "query_store")?),
        family: "unix",
        url: None,
        ..fetch_price()?
    };
    pair(&leaky, &twin, &expected)
}

fn abstract_unix_name() -> Result<()> {
    let name = |twin: &str| format!("unix:@tracer-test-{}-{twin}", std::process::id());
    let leaky = scenes::client_to(
        &name("leak"),
        "http",
        "client",
        "fetch",
        RATE,
        COUNT,
        "leak",
    )?;
    let twin = scenes::client_to(
        &name("close"),
        "http",
        "client",
        "fetch",
        RATE,
        COUNT,
        "close",
    )?;
    let url = format!(
        "http+unix://%40{}/v1/prices/{{}}?token=…",
        leaky.address.trim_start_matches("unix:@")
    );
    let expected = Expected {
        family: "unix",
        url: Some(&url),
        ..fetch_price()?
    };
    pair(&leaky, &twin, &expected)
}

fn peer_closed_and_we_did_not() -> Result<()> {
    let leaky = scenes::python("close_wait.py", "once", RATE, COUNT, "leak")?;
    let twin = scenes::python("close_wait.py", "once", RATE, COUNT, "close")?;
    let expected = Expected {
        kind: "close_wait",
        role: "client",
        function: Some("refresh_quote"),
        file: Some("close_wait.py"),
        line: Some(line_of(CLOSE_WAIT, "refresh_quote")?),
        family: "tcp4",
        url: Some("http://quotes.test/v1/quotes/{}?token=…"),
    };
    pair(&leaky, &twin, &expected)
}

fn peer_reset_and_we_kept_it() -> Result<()> {
    let scene = |how| {
        scenes::client_to(
            "127.0.0.1:0",
            "reset",
            "client",
            "abandon",
            RATE,
            COUNT,
            how,
        )
    };
    let (leaky, twin) = (scene("leak")?, scene("close")?);
    let expected = Expected {
        kind: "close_wait",
        function: Some("abandon_upload"),
        line: Some(line_of(CLIENT, "abandon_upload")?),
        url: Some("http://prices.test/v1/upload?token=…"),
        ..fetch_price()?
    };
    pair(&leaky, &twin, &expected)
}

fn streams_never_cancelled() -> Result<()> {
    let leaky = scenes::rust("feed", "sse", RATE, COUNT, "leak")?;
    let twin = scenes::rust("feed", "sse", RATE, COUNT, "close")?;
    let expected = Expected {
        kind: "stream_never_cancelled",
        role: "client",
        function: Some("fixture_client::follow_feed"),
        file: Some("fixture-client.rs"),
        line: Some(line_of(RUST_CLIENT, "follow_feed")?),
        family: "tcp4",
        url: Some("http://feed.test/v1/feed?token=…"),
    };
    pair(&leaky, &twin, &expected)
}

fn accepted_and_never_closed() -> Result<()> {
    let (leaky, _keeps) = scenes::python_server("leak", "leak", RATE, COUNT)?;
    let (twin, _closes) = scenes::python_server("close", "close", RATE, COUNT)?;
    let expected = Expected {
        kind: "accepted_never_closed",
        role: "server",
        function: Some("serve"),
        file: Some("accept.py"),
        family: "tcp4",
        ..Expected::default()
    };
    pair(&leaky, &twin, &expected)
}

fn accepted_on_a_unix_socket_and_never_closed() -> Result<()> {
    let (leaky, _keeps) = scenes::unix_server("keep", "leak", RATE, COUNT)?;
    let (twin, _closes) = scenes::unix_server("http", "close", RATE, COUNT)?;
    let expected = Expected {
        kind: "accepted_never_closed",
        role: "server",
        family: "unix",
        ..Expected::default()
    };
    pair(&leaky, &twin, &expected)
}

fn descriptor_left_to_a_helper() -> Result<()> {
    let (leaky, twin) = (
        scenes::inherit(4, 60, "leak")?,
        scenes::inherit(4, 60, "close")?,
    );
    let expected = Expected {
        kind: "inherited_fd",
        role: "client",
        function: Some("start_helper"),
        file: Some("inherit.c"),
        line: Some(line_of(INHERIT, "start_helper")?),
        family: "tcp4",
        url: Some("http://jobs.test/v1/jobs/next?token=…"),
    };
    pair(&leaky, &twin, &expected)
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
        url: Some("http://discounts.shop.test/v1/discounts/{}?customer=…&token=…"),
    };
    one_leak(&report, &address, &expected)?;
    ensure!(
        !report.to_string().contains("hush"),
        "a secret is given away"
    );
    Ok(())
}
