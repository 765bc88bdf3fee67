//! The daemon collects, answers the other commands, is scraped by Prometheus, and leaves without a trace.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tracer_tests::{
    fixtures::line_of,
    go,
    host::{self, seconds},
    http,
    program::Program,
    prometheus::{self, Prometheus, promtool},
    tests,
    tracer::{self, Report},
    wait,
};

use crate::scenes::{self, Scene};

tests![
    findings_and_connections_are_served,
    metrics_pass_promtool_and_prometheus_scrapes_them,
    alerts_are_what_their_tests_say,
    profiles_name_the_call_site_first,
    local_socket_is_for_root_only,
    sigterm_detaches_everything,
    several_daemons_are_merged_and_a_dead_one_is_named,
    a_choice_of_pods_is_not_met_in_silence,
    doctor_of_a_daemon_tells_what_it_sees,
    what_watching_does_not_take_is_given_up,
];

/// A daemon that watches a leaky client.
pub struct Watched {
    daemon: Program,
    scene: Scene,
    socket: String,
    tcp: String,
    directory: TempDir,
}

/// Starts a daemon on a client of eight leaked connections a second, and waits until it is ready.
pub fn watched() -> Result<Watched> {
    host::require_root()?;
    let scene = scenes::client("client", "fetch", 8, 900, "leak")?;
    let directory = tempfile::tempdir()?;
    let socket = directory
        .path()
        .join("tracer.sock")
        .to_string_lossy()
        .into_owned();
    let tcp = format!("127.0.0.1:{}", host::free_port()?);
    let pid = scene.pid().to_string();
    let mut daemon = tracer::start(&[
        "daemon", "--pid", &pid, "--socket", &socket, "--listen", &tcp,
    ])?;
    wait::until("a ready daemon", seconds(60), || {
        ensure!(daemon.runs()?, "the daemon ended: {}", daemon.stderr());
        Ok(http::get(&socket, "/readyz").is_ok_and(|answer| answer.status == 200))
    })?;
    Ok(Watched {
        daemon,
        scene,
        socket,
        tcp,
        directory,
    })
}

impl Watched {
    /// Runs a command that asks this daemon.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let ended = tracer::run(
            &[arguments, &["--endpoint", &self.socket]].concat(),
            seconds(30),
        )?;
        ensure!(
            ended.code() == 0,
            "{arguments:?}: status {}: {}",
            ended.code(),
            ended.stderr
        );
        Ok(ended.stdout)
    }

    /// Its local socket.
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// Where it answers over TCP.
    pub fn tcp(&self) -> &str {
        &self.tcp
    }

    /// The command of a live view of this daemon.
    pub fn live(&self) -> Result<Command> {
        tracer::command(&["top", "-w", "--endpoint", &self.socket])
    }

    /// Waits until `top` has the leak.
    pub fn leak(&self) -> Result<Report> {
        wait::for_value("top to show the leak", seconds(60), || {
            let report = Report::parse(&self.ask(&["top", "-o", "json"])?)?;
            Ok((report.verdict() == "leak").then_some(report))
        })
    }
}

fn findings_and_connections_are_served() -> Result<()> {
    let watched = watched()?;
    let report = watched.leak()?;
    let finding = report.only()?;
    let line = line_of(include_str!("../fixtures/c/client.c"), "fetch_price")?;
    ensure!(finding["call_site"]["line"] == line, "{report}");
    let id = finding["id"].as_str().context("no id")?;

    // Every form of every list shows it.
    for form in ["table", "wide"] {
        let text = watched.ask(&["top", "-o", form])?;
        ensure!(
            text.contains("fetch_price") && text.contains("/v1/prices/{}"),
            "{form}: {text}"
        );
    }
    for text in watched.ask(&["top", "-o", "jsonl"])?.lines() {
        let row: Value = serde_json::from_str(text)?;
        ensure!(row["id"] == id, "jsonl: {text}");
    }
    let csv = watched.ask(&["top", "-o", "csv"])?;
    ensure!(csv.lines().count() == 2 && csv.contains(id), "csv: {csv}");
    let wide = watched.ask(&["top", "-o", "wide"])?;
    ensure!(
        !wide.contains("POD") && !wide.contains("NAMESPACE") && wide.contains("RUNTIME"),
        "columns that nobody fills: {wide}"
    );
    for order in ["leaked", "rate", "age", "open"] {
        watched.ask(&["top", "--sort-by", order, "--limit", "1"])?;
    }
    let pid = watched.scene.pid();
    ensure!(
        Report::parse(&watched.ask(&["top", "--pid", &pid.to_string(), "-o", "json"])?)?
            .findings()
            .len()
            == 1,
        "top --pid hides it"
    );
    ensure!(
        Report::parse(&watched.ask(&["top", "--pid", "1", "-o", "json"])?)?
            .findings()
            .is_empty(),
        "top --pid 1 shows it"
    );

    let text = watched.ask(&["describe", id])?;
    for word in [
        "fetch_price",
        "client.c",
        "/v1/prices/{}",
        "client_per_request",
    ] {
        ensure!(text.contains(word), "describe has no {word}: {text}");
    }
    let described: Value = serde_json::from_str(&watched.ask(&["describe", id, "-o", "json"])?)?;
    ensure!(described["schema"] == 1, "describe: {described:#}");
    let unknown = tracer::run(
        &["describe", "ffffffffffff", "--endpoint", &watched.socket],
        seconds(30),
    )?;
    ensure!(
        unknown.code() != 0 && unknown.stderr.contains("ffffffffffff"),
        "{}",
        unknown.stderr
    );

    let list: Value = serde_json::from_str(&watched.ask(&["connections", "-o", "json"])?)?;
    ensure!(list["schema"] == 1, "connections: {list:#}");
    let rows = list["connections"].as_array().context("no connections")?;
    ensure!(rows.len() >= 10, "connections: {} rows", rows.len());
    for row in rows {
        ensure!(row["pid"] == pid && row["role"] == "client", "{row:#}");
        ensure!(row["remote"] == watched.scene.address, "{row:#}");
    }
    let some = watched.ask(&["connections", "--limit", "3", "-o", "jsonl"])?;
    ensure!(some.lines().count() == 3, "--limit 3: {some}");

    let everything = report.to_string() + &csv + &text + &list.to_string();
    ensure!(!everything.contains("secret"), "a secret is given away");
    Ok(())
}

fn metrics_pass_promtool_and_prometheus_scrapes_them() -> Result<()> {
    let promtool = prometheus::tool("promtool")?;
    let watched = watched()?;
    watched.leak()?;
    for path in ["/healthz", "/readyz"] {
        let answer = http::get(&watched.tcp, path)?;
        ensure!(answer.status == 200, "{path}: {}", answer.status);
    }
    let metrics = http::get(&watched.tcp, "/metrics")?;
    ensure!(
        metrics.status == 200 && metrics.head.contains("text/plain"),
        "{}",
        metrics.head
    );
    ensure!(!metrics.body.contains("secret"), "a secret is given away");
    let names = || {
        metrics
            .body
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
    };
    ensure!(
        names().all(|line| line.starts_with("tracer_")),
        "a metric without the prefix"
    );
    ensure!(
        names().any(|line| line.contains("leaked") && line.contains("client_per_request")),
        "the leak is not in the metrics: {}",
        metrics.body
    );

    let mut check = Program::start(Command::new(promtool).args(["check", "metrics"]))?;
    check.write(&metrics.body)?;
    check.close_stdin();
    let ended = check.end(seconds(30))?;
    ensure!(
        ended.code() == 0 && ended.stderr.is_empty(),
        "promtool: {}",
        ended.stderr
    );

    let mut server = Prometheus::start(&[&watched.tcp], None)?;
    wait::until("Prometheus to have scraped the daemon", seconds(60), || {
        server.must_run()?;
        let count = server.value("count({job=\"tracer\",__name__=~\"tracer_.*\"})")?;
        Ok(count >= 10.0)
    })
}

/// The shipped alerts fire as `alerts.test.yaml` says, which a changed threshold does not pass; and what
/// they ask for is served.
fn alerts_are_what_their_tests_say() -> Result<()> {
    prometheus::tool("promtool")?;
    let shipped = host::repository("deploy/prometheus");
    let read = |file: &str| fs::read_to_string(shipped.join(file)).with_context(|| file.to_owned());
    let (alerts, expected) = (read("alerts.yaml")?, read("alerts.test.yaml")?);
    let directory = tempfile::tempdir()?;
    let tested = |alerts: &str| -> Result<(i32, String)> {
        fs::write(directory.path().join("alerts.yaml"), alerts)?;
        fs::write(directory.path().join("alerts.test.yaml"), &expected)?;
        promtool(directory.path(), &["test", "rules", "alerts.test.yaml"])
    };
    let (status, said) = tested(&alerts)?;
    ensure!(status == 0, "promtool: {said}");
    for (threshold, other) in [
        ("> 20", "> 200"),
        ("4 * 3600", "1 * 3600"),
        ("> 0.8", "> 0.95"),
    ] {
        let changed = alerts.replace(threshold, other);
        ensure!(changed != alerts, "no {threshold} in the alerts");
        let (status, said) = tested(&changed)?;
        ensure!(status != 0, "{other} for {threshold} passes: {said}");
    }
    let documented = fs::read_to_string(host::repository("docs/metrics.md"))?;
    let expressions = alerts.lines().filter(|line| !line.contains('`'));
    for word in expressions.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'))
    {
        ensure!(
            !word.starts_with("tracer_") || documented.contains(&format!("`{word}`")),
            "no metric {word}"
        );
    }
    Ok(())
}

fn local_socket_is_for_root_only() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let watched = watched()?;
    let mode = fs::metadata(&watched.socket)?.permissions().mode() & 0o777;
    ensure!(mode & 0o077 == 0, "mode {mode:o}");
    Ok(())
}

fn sigterm_detaches_everything() -> Result<()> {
    let watched = watched()?;
    let programs = tracer::programs(&watched.daemon)?;
    watched.daemon.signal(libc::SIGTERM)?;
    let Watched {
        daemon,
        mut scene,
        socket,
        ..
    } = watched;
    let ended = daemon.end(seconds(30))?;
    ensure!(
        ended.code() == 0,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    tracer::detached(&programs)?;
    ensure!(!fs::exists(&socket)?, "the socket file is left behind");
    ensure!(scene.program.runs()?, "the watched program ended");
    Ok(())
}

fn several_daemons_are_merged_and_a_dead_one_is_named() -> Result<()> {
    let (one, two) = (watched()?, watched()?);
    one.leak()?;
    two.leak()?;
    let dead = "/no/such/tracer.sock";
    let endpoints = [
        "--endpoint",
        &one.socket,
        "--endpoint",
        &two.socket,
        "--endpoint",
        dead,
    ];
    let ended = tracer::run(
        &[&["top", "-o", "json"], &endpoints[..]].concat(),
        seconds(30),
    )?;
    let report = Report::parse(&ended.stdout).with_context(|| ended.stderr.clone())?;
    let nodes = report.0["nodes"].as_array().context("no nodes")?;
    ensure!(nodes.len() == 3, "nodes: {report}");
    let failed = nodes.iter().filter(|node| !node["error"].is_null()).count();
    ensure!(
        failed == 1 && ended.stderr.contains(dead),
        "the dead one is not named: {report}"
    );
    // The same program with the same leak, on ports of its own but with one host name: one finding.
    let finding = report.only()?;
    let instances = finding["instances"].as_array().context("no instances")?;
    ensure!(instances.len() == 2, "instances: {report}");
    Ok(())
}

fn profiles_name_the_call_site_first() -> Result<()> {
    let watched = watched()?;
    let report = watched.leak()?;
    let site = report.only()?["call_site"]["function"]
        .as_str()
        .context("no call site")?;
    let folded = watched.ask(&["profile", "-o", "folded"])?;
    let first = folded.lines().next().unwrap_or_default();
    let (stack, open) = first.rsplit_once(' ').context("no folded stack")?;
    ensure!(
        stack.split(';').any(|frame| frame == site) && open.parse::<u64>().is_ok(),
        "{folded}"
    );
    let scraped = http::get(&watched.socket, "/debug/pprof/connections")?;
    ensure!(scraped.head.contains("octet-stream"), "{}", scraped.head);
    let file = watched.directory.path().join("connections.pb.gz");
    let written = tracer::command(&["profile", "--endpoint", &watched.socket])?
        .stdout(fs::File::create(&file)?)
        .status()?;
    ensure!(written.success(), "tracer profile: {written}");
    let pprof = go::toolchain(go::DEFAULT_VERSIONS[0])?.join("pkg/tool/linux_amd64/pprof");
    for index in ["open", "leaked"] {
        let shown = Command::new(&pprof)
            .args(["-top", &format!("-sample_index={index}")])
            .arg(&file)
            .output()?;
        let top = String::from_utf8_lossy(&shown.stdout);
        let mut rows = top.lines().skip_while(|line| !line.contains("flat%"));
        let named = rows.nth(1).is_some_and(|row| row.ends_with(site));
        ensure!(named, "{top}{}", String::from_utf8_lossy(&shown.stderr));
    }
    Ok(())
}

fn a_choice_of_pods_is_not_met_in_silence() -> Result<()> {
    let watched = watched()?;
    watched.leak()?;
    for (choice, shown, reason) in [
        (
            &["-n", "shop"][..],
            0,
            "no pod names are known here, because",
        ),
        (&["-l", "app=web"], 0, "labels are known to the API server"),
        (&["-A"], 1, "no pod names are known here, because"),
    ] {
        let words = [
            &["top", "-o", "jsonl", "--endpoint", &watched.socket],
            choice,
        ]
        .concat();
        let ended = tracer::run(&words, seconds(30))?;
        ensure!(ended.code() == 0, "{choice:?}: {}", ended.stderr);
        ensure!(
            ended.stderr.contains(reason),
            "{choice:?}: {}",
            ended.stderr
        );
        ensure!(
            ended.stdout.lines().count() == shown,
            "{choice:?}: {}",
            ended.stdout
        );
    }
    Ok(())
}

/// The daemon runs on this machine with these privileges, so it must say what a local doctor says.
fn doctor_of_a_daemon_tells_what_it_sees() -> Result<()> {
    let watched = watched()?;
    let asked: Value = serde_json::from_str(&watched.ask(&["doctor", "-o", "json"])?)?;
    let local = tracer::run(&["doctor", "-o", "json"], seconds(60))?;
    let local: Value = serde_json::from_str(&local.stdout)?;
    for field in ["kernel", "architecture", "btf", "lockdown", "capabilities"] {
        ensure!(asked[field] == local[field], "{field}: {asked:#} {local:#}");
    }
    ensure!(
        asked["capabilities"]
            .as_array()
            .is_some_and(|all| !all.is_empty()),
        "{asked:#}"
    );
    Ok(())
}

/// `CAP_BPF`, `CAP_PERFMON`, `CAP_SYS_PTRACE`, `CAP_DAC_READ_SEARCH`, `CAP_CHECKPOINT_RESTORE`,
/// `CAP_SYS_RESOURCE`, `CAP_SYS_ADMIN` and `CAP_KILL` (include/uapi/linux/capability.h).
const TO_WATCH: u64 = 1 << 39 | 1 << 38 | 1 << 19 | 1 << 2 | 1 << 40 | 1 << 24 | 1 << 21 | 1 << 5;
/// `CAP_SETUID`, `CAP_SETGID` and `CAP_SETPCAP`, with which a reader becomes nobody.
const FOR_READERS: u64 = 1 << 7 | 1 << 6 | 1 << 8;

fn what_watching_does_not_take_is_given_up() -> Result<()> {
    let watched = watched()?;
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", watched.daemon.pid()))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_whitespace().nth(1));
            Ok(u64::from_str_radix(value.context(status.clone())?, 16)?)
        };
        ensure!(field("CapEff:")? & !TO_WATCH == 0, "{status}");
        ensure!(
            field("CapPrm:")? & !(TO_WATCH | FOR_READERS) == 0,
            "{status}"
        );
        ensure!(
            field("CapBnd:")? & !(TO_WATCH | FOR_READERS) == 0,
            "{status}"
        );
        ensure!(
            field("CapInh:")? == 0 && field("NoNewPrivs:")? == 1,
            "{status}"
        );
        // SECCOMP_MODE_FILTER
        ensure!(field("Seccomp:")? == 2, "{status}");
        threads += 1;
    }
    ensure!(threads >= 2, "the worker's thread is one of {threads}");
    // What is kept suffices: the call site and its line need the program's files and its memory.
    let report = watched.leak()?;
    ensure!(report.only()?["call_site"]["line"].is_u64(), "{report}");
    Ok(())
}
