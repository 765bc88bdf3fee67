//! Prometheus scrapes three daemons while programs come and go: the series stay within their cap, sums
//! are right, the alert fires for what leaks and for nothing else, and it is over after the fix.
//!
//! `TRACER_PROMETHEUS_SECONDS` says how long (600 in the full run; at least 150). The shipped rules are
//! used with their durations shortened in proportion, so that ten minutes of growth fit in.

use std::{
    env, fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tracer_tests::{
    daemon::Daemon,
    fixtures,
    host::{self, seconds},
    program::Program,
    prometheus::Prometheus,
    runner::NotApplicable,
    tests, wait,
};

use crate::{scenes, targets::Group};

tests![alerts_and_sums_while_programs_come_and_go];

/// Series of findings that a daemon gives, and the one of the rest.
const CAP: f64 = 51.0;
/// Programs that leak at once, more than there are series.
const WAVE: usize = 60;
/// Connections that each of those leaks.
const EACH: u32 = 12;
/// The shortest time that leaves room for all that is to happen, seconds.
const LEAST: u64 = 150;
/// Of these seconds of the rules one is left for each second of the test.
const RULES: u64 = 6_000;

/// A node: a group of processes, and the daemon that watches it.
struct Node {
    name: &'static str,
    daemon: Daemon,
    address: String,
    // what runs has ended before the group is removed
    _pool: Program,
    group: Group,
    starts: Starts,
}

/// Starts the C client under names of its own.
#[derive(Clone)]
struct Starts {
    programs: PathBuf,
    server: String,
}

impl Starts {
    fn run(&self, group: &Group, name: &str, arguments: [&str; 4]) -> Result<Program> {
        let path = self.programs.join(name);
        if !path.exists() {
            fs::copy(fixtures::path("client")?, &path)?;
        }
        let [mode, rate, count, how] = arguments;
        let mut command = Command::new(path);
        command.args([mode, &self.server, rate, count, how]);
        group.enter(&mut command)?;
        let mut program = Program::start(&mut command)?;
        program.line("READY", seconds(20))?;
        Ok(program)
    }
}

impl Node {
    fn start(name: &'static str, starts: &Starts) -> Result<Node> {
        let id = format!("tracer-test-prometheus-{}-{name}", std::process::id());
        let group = Group::make("cgroup2", "", &id)?;
        // a group without processes is a target that has ended
        let pool = starts.run(&group, "pooled", ["pool", "20", "1000000", "leak"])?;
        let address = format!("127.0.0.1:{}", host::free_port()?);
        let path = group.0.to_string_lossy().into_owned();
        let daemon = Daemon::start(&[], &["--cgroup", &path, "--listen", &address])?;
        Ok(Node {
            name,
            daemon,
            address,
            _pool: pool,
            group,
            starts: starts.clone(),
        })
    }

    fn runs(&self, name: &str, arguments: [&str; 4]) -> Result<Program> {
        self.starts.run(&self.group, name, arguments)
    }

    /// Leaked connections as its API has them.
    fn leaked(&self) -> Result<u64> {
        // there are more findings than `top` lists unasked
        let report = self.daemon.ask(&["top", "--limit", "1000"])?;
        let findings = report["findings"].as_array().context("no findings")?;
        let counts = findings.iter();
        let counts = counts.map(|finding| finding["connections"]["outlived"].as_u64());
        counts.map(|count| count.context("no count")).sum()
    }
}

fn time() -> Result<u64> {
    let asked = env::var("TRACER_PROMETHEUS_SECONDS").ok();
    match (asked, env::var_os("TRACER_TEST_FULL")) {
        (Some(asked), _) => Ok(asked.parse::<u64>()?.max(LEAST)),
        (None, Some(_)) => Ok(600),
        (None, None) => bail!(NotApplicable("part of the full run".to_owned())),
    }
}

/// The shipped rules, every duration in them shorter.
fn shortened(rules: &str, time: u64) -> Result<String> {
    let short = |seconds: u64| format!("{}s", (seconds * time / RULES).max(5));
    let mut text = rules.to_owned();
    let of = |number: u64, unit: &str| match unit {
        "m" => number * 60,
        _ => number * 3_600,
    };
    for (number, unit) in [(5, "m"), (10, "m"), (15, "m"), (30, "m"), (1, "h")] {
        let shorter = short(of(number, unit));
        text = text.replace(
            &format!("for: {number}{unit}\n"),
            &format!("for: {shorter}\n"),
        );
        text = text.replace(&format!("[{number}{unit}]"), &format!("[{shorter}]"));
    }
    let ahead = 4 * 3_600 * time / RULES;
    text = text.replace("4 * 3600", &ahead.to_string());
    let left = text.lines().filter(|line| !line.contains("{{"));
    for line in left {
        let long = line.contains("for: ") && !line.trim_end().ends_with('s');
        ensure!(
            !long && !line.contains("m]") && !line.contains("h]"),
            "{line}"
        );
    }
    Ok(text)
}

fn alerts_and_sums_while_programs_come_and_go() -> Result<()> {
    let time = time()?;
    host::require_root()?;
    let end = Instant::now() + Duration::from_secs(time);
    let patience = seconds(time / 3);
    let programs = tempfile::tempdir()?;
    let (_server, server) = scenes::server("http", "127.0.0.1:0")?;
    let starts = Starts {
        programs: programs.path().to_owned(),
        server,
    };
    let nodes = ["a", "b", "c"].map(|name| Node::start(name, &starts));
    let [a, b, c] = nodes;
    let nodes = [a?, b?, c?];
    let [leaky, healthy, crowded] = &nodes;
    let shipped = fs::read_to_string(host::repository("deploy/prometheus/alerts.yaml"))?;
    let addresses = nodes.each_ref().map(|node| node.address.as_str());
    let mut prometheus = Prometheus::start(&addresses, Some(&shortened(&shipped, time)?))?;

    let leak = leaky.runs("shop", ["fetch", "4", "100000", "leak"])?;
    let _tidy = healthy.runs("tidy", ["fetch", "8", "1000000", "close"])?;
    let firing = "ALERTS{alertname=\"TracerLeakGrows\",alertstate=\"firing\"}";
    let fires = |prometheus: &Prometheus, program: &str| -> Result<bool> {
        let all = prometheus.query(firing)?;
        Ok(all.iter().any(|alert| alert.label("program") == program))
    };

    // More programs leak than there are series, each under a name of its own. Unread answers stay proof
    // when no more come, so that the sum stands still.
    let each = EACH.to_string();
    let wave = (0..WAVE)
        .map(|number| crowded.runs(&format!("wave-{number}"), ["unread", "2", &each, "leak"]))
        .collect::<Result<Vec<_>>>()?;
    let all = (WAVE as u64) * u64::from(EACH);
    let mut told = 0;
    wait::until("all of the wave to be told of", patience, || {
        come_and_go(&nodes)?;
        told = crowded.leaked()?;
        Ok(told == all)
    })
    .with_context(|| format!("{told} of {all}"))?;
    wait::until("the sum of the wave to be right", patience, || {
        come_and_go(&nodes)?;
        let of = |what: &str| {
            let instance = &crowded.address;
            prometheus.value(&format!(
                "{what}(tracer_leaked_connections{{instance=\"{instance}\"}})"
            ))
        };
        Ok(of("sum")? == all as f64 && of("count")? == CAP)
    })?;
    let rest = prometheus.value("sum(tracer_leaked_connections{program=\"other\"})")?;
    let least = f64::from(EACH) * (WAVE as f64 - (CAP - 1.0));
    ensure!(rest >= least, "`other` has {rest} of {least}");

    wait::until("the alert to fire for the leak", patience, || {
        come_and_go(&nodes)?;
        fires(&prometheus, "shop")
    })?;
    println!("prometheus: the alert fires for the leak");

    // The fix is rolled out: the same program, which closes now.
    drop(leak);
    drop(wave);
    let _fixed = leaky.runs("shop", ["fetch", "4", "1000000", "close"])?;
    wait::until("the alert to be over", patience, || {
        come_and_go(&nodes)?;
        Ok(prometheus.query(firing)?.is_empty())
    })?;
    println!("prometheus: the alert is over");
    wait::until("no leaked connection to be left", patience, || {
        Ok(prometheus.value("sum(tracer_leaked_connections)")? == 0.0)
    })?;

    // It stays so while others come and go.
    let mut rounds = 0;
    while Instant::now() < end || rounds == 0 {
        prometheus.must_run()?;
        come_and_go(&nodes)?;
        ensure!(prometheus.query(firing)?.is_empty(), "it fires again");
        rounds += 1;
    }
    over_all(&prometheus, time, &nodes)
}

/// Programs that come, do something and go, on all nodes; each takes part of a second.
fn come_and_go(nodes: &[Node]) -> Result<()> {
    for node in nodes {
        drop(node.runs("visitor", ["fetch", "50", "10", "close"])?);
    }
    thread::sleep(Duration::from_millis(500));
    Ok(())
}

/// What must have been true at every moment.
fn over_all(prometheus: &Prometheus, time: u64, nodes: &[Node]) -> Result<()> {
    let range = format!("[{}s]", time * 2);
    let counted = "count by (instance) (tracer_leaked_connections)";
    let most = prometheus.query(&format!("max_over_time({counted}[{}s:1s])", time * 2))?;
    ensure!(!most.is_empty(), "no daemon had a finding");
    for one in &most {
        ensure!(
            one.value <= CAP,
            "{} series at {}",
            one.value,
            one.label("instance")
        );
    }
    // by name, however many processes had it
    let visitors = format!("count by (instance) (last_over_time({{program=\"visitor\"}}{range}))");
    for one in prometheus.query(&visitors)? {
        ensure!(one.value <= 8.0, "{} series of visitors", one.value);
    }
    for name in ["pooled", "tidy", "visitor"] {
        let expression =
            format!("count_over_time(ALERTS{{program=\"{name}\",alertstate=\"firing\"}}{range})");
        let fired = prometheus.query(&expression)?;
        ensure!(fired.is_empty(), "{name} is healthy: {fired:?}");
    }
    let missed = prometheus.query(&format!("avg_over_time(up{range}) < 0.8"))?;
    ensure!(missed.is_empty(), "hardly scraped: {missed:?}");
    let series = prometheus.query(&format!(
        "count by (instance) (last_over_time({{job=\"tracer\"}}{range}))"
    ))?;
    for node in nodes {
        let of = |one: &&tracer_tests::prometheus::Sample| one.label("instance") == node.address;
        let count = series.iter().find(of).map_or(0.0, |one| one.value);
        println!("prometheus: node {}: {count} series in all", node.name);
    }
    Ok(())
}
