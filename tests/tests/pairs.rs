//! Programs that leak, each with its healthy twin, and what is expected of a report about them.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, ensure};
use serde_json::Value;
use tracer_tests::{fixtures::line_of, host, program::Program};

use crate::scenes::{self, Scene};

/// Source of the C client.
pub const CLIENT: &str = include_str!("../fixtures/c/client.c");

/// Source of the Rust client.
pub const RUST_CLIENT: &str = include_str!("../src/bin/fixture-client.rs");

/// Source of the Python client with a connection per request.
pub const PYTHON_CLIENT: &str = include_str!("../fixtures/python/per_request.py");

/// Source of the Python client that keeps what its server has closed.
pub const CLOSE_WAIT: &str = include_str!("../fixtures/python/close_wait.py");

/// Source of the program whose helpers inherit.
pub const INHERIT: &str = include_str!("../fixtures/c/inherit.c");

/// Calls a second that each fixture makes.
pub const RATE: u32 = 8;

/// Calls each fixture makes at most.
pub const COUNT: u32 = 800;

/// How fast the programs of a pair call, and how often at most: each leaked connection costs its
/// server a thread.
#[derive(Clone, Copy)]
pub struct Pace {
    pub rate: u32,
    pub count: u32,
}

/// Of a pair by itself.
pub const PACE: Pace = Pace {
    rate: RATE,
    count: COUNT,
};

/// Where many run side by side. A guest watches twice as long.
pub fn slow() -> Pace {
    let rate = if host::is_guest() { 1 } else { 2 };
    Pace { rate, count: 240 }
}

/// What is expected of a finding.
#[derive(Default)]
pub struct Expected {
    pub kind: &'static str,
    pub role: &'static str,
    pub function: Option<&'static str>,
    pub file: Option<&'static str>,
    pub line: Option<u32>,
    pub family: &'static str,
    pub url: Option<String>,
}

impl Expected {
    /// Holds a finding against it.
    pub fn hold(&self, finding: &Value, address: &str) -> Result<()> {
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
                .is_some_and(|growth| growth > 30.0),
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
pub struct Pair {
    pub leaky: Scene,
    pub twin: Scene,
    pub expected: Expected,
    /// Clients of those two that are servers.
    pub traffic: Vec<Program>,
}

impl Pair {
    /// Of two programs that need nobody else.
    pub fn of(leaky: Scene, twin: Scene, expected: Expected) -> Pair {
        Pair {
            leaky,
            twin,
            expected,
            traffic: Vec::new(),
        }
    }
}

/// Starts a pair at a pace.
pub type Start = fn(Pace) -> Result<Pair>;

/// Pairs whose leaks have ids of their own, for [`every_leak_at_once`].
pub const PAIRS: &[Start] = &[
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

/// The C client's leak of one connection per request.
pub fn fetch_price() -> Result<Expected> {
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

pub fn in_c(Pace { rate, count }: Pace) -> Result<Pair> {
    let leaky = scenes::client("client", "fetch", rate, count, "leak")?;
    let twin = scenes::client("client", "fetch", rate, count, "close")?;
    Ok(Pair::of(leaky, twin, fetch_price()?))
}

pub fn without_frame_pointers(Pace { rate, count }: Pace) -> Result<Pair> {
    let leaky = scenes::client("client-o2", "fetch", rate, count, "leak")?;
    let twin = scenes::client("client-o2", "fetch", rate, count, "close")?;
    Ok(Pair::of(leaky, twin, fetch_price()?))
}

pub fn without_debug_information(Pace { rate, count }: Pace) -> Result<Pair> {
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

pub fn over_ipv6(Pace { rate, count }: Pace) -> Result<Pair> {
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

pub fn in_rust(Pace { rate, count }: Pace) -> Result<Pair> {
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

pub fn in_python(Pace { rate, count }: Pace) -> Result<Pair> {
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

pub fn unused(Pace { rate, count }: Pace) -> Result<Pair> {
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

pub fn unread(Pace { rate, count }: Pace) -> Result<Pair> {
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

pub fn unix_stream(Pace { rate, count }: Pace) -> Result<Pair> {
    let leaky = scenes::store(rate, count, "leak")?;
    let twin = scenes::store(rate, count, "close")?;
    let expected = Expected {
        kind: "never_closed",
        function: Some("query_store"),
        line: Some(line_of(CLIENT, "query_store")?),
        family: "unix",
        url: None,
        ..fetch_price()?
    };
    Ok(Pair::of(leaky, twin, expected))
}

pub fn abstract_name(Pace { rate, count }: Pace) -> Result<Pair> {
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

pub fn peer_closed(Pace { rate, count }: Pace) -> Result<Pair> {
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

pub fn peer_reset(Pace { rate, count }: Pace) -> Result<Pair> {
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

pub fn streams(Pace { rate, count }: Pace) -> Result<Pair> {
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

pub fn accepted(Pace { rate, count }: Pace) -> Result<Pair> {
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

pub fn accepted_on_unix(Pace { rate, count }: Pace) -> Result<Pair> {
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

pub fn left_to_a_helper(Pace { rate, count }: Pace) -> Result<Pair> {
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
