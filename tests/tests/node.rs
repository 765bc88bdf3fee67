//! JavaScript's call sites are those of the functions that asked, whatever V8 has made of them.
//!
//! `TRACER_TEST_FULL=1` does it in each version of Node.js, seen from its beginning and later.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use tracer_tests::{
    daemon::Daemon,
    fixtures, host, languages, node,
    program::Program,
    runner::NotApplicable,
    tests,
    tracer::{self, Report},
    wait,
};

tests![
    sites_in_code_that_changes,
    no_wrong_name_in_ten_thousand_stacks,
    sites_in_every_version,
    streams_within_one_connection
];

/// Seconds that the check watches.
const WATCH: u64 = 20;
/// Stacks of which none may be named wrongly: as many as a daemon shows.
const STACKS: usize = 10_000;
/// Functions of the fixture that connect.
const SITES: [&str; 6] = [
    "dialClosure",
    "dialExpression",
    "dialPrivate",
    "dialLater",
    "dialStep",
    "dialOld",
];

fn sites_in_code_that_changes() -> Result<()> {
    host::require_root()?;
    let node = host::tool("node")?;
    let script = languages::source("node/churn.js");
    let (_server, port) = serve(&node, &script)?;
    let arguments = [&*script.to_string_lossy(), &port, "60"];
    let (mut program, _) = Program::ready(&node, &arguments)?;
    let report = tracer::check(program.pid(), WATCH)?.report()?;
    program.write("\n")?;
    let told = program.line("OPENED", host::seconds(20))?;
    let opened: BTreeMap<String, u64> = serde_json::from_str(told.trim())?;
    hold(&report, Some(&opened))
}

/// Each connection of so many has the function that opened it for a call site, or none.
fn no_wrong_name_in_ten_thousand_stacks() -> Result<()> {
    host::require_root()?;
    need_full()?;
    let node = host::tool("node")?;
    let script = languages::source("node/churn.js");
    let (_server, port) = serve(&node, &script)?;
    let count = STACKS.to_string();
    let arguments = [&*script.to_string_lossy(), &port, "20", &count];
    let (mut program, _) = Program::ready(&node, &arguments)?;
    let daemon = Daemon::start(&[program.pid()], &[])?;
    program.write("\n")?;
    let told = program.line("PORTS ", host::seconds(600))?;
    let ports: BTreeMap<String, Vec<u64>> = serde_json::from_str(&told)?;
    let opened: BTreeMap<u64, &str> = ports
        .iter()
        .flat_map(|(name, ports)| ports.iter().map(|port| (*port, name.as_str())))
        .collect();
    let mut rows = Vec::new();
    wait::until("all connections", host::seconds(60), || {
        (rows, _) = daemon.connections(STACKS)?;
        rows.retain(|row| opened.contains_key(&row["local_port"].as_u64().unwrap_or_default()));
        Ok(rows.len() >= STACKS)
    })?;
    let source = fs::read_to_string(&script)?;
    let (mut named, mut wrong) = (0, Vec::new());
    for row in &rows {
        let name = opened[&row["local_port"].as_u64().unwrap_or_default()];
        let site = &row["call_site"];
        let function = site["function"].as_str().unwrap_or_default();
        if site.is_null() {
            continue;
        }
        named += 1;
        let line = fixtures::line_of(&source, name)?;
        let right = function.ends_with(name)
            && site["line"] == line
            && site["file"].as_str() == script.to_str();
        if !right {
            wrong.push(format!("{name} (line {line}): {site}"));
        }
    }
    println!(
        "{named} of {} connections are named, {} of them wrong",
        rows.len(),
        wrong.len()
    );
    wrong.truncate(20);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(named * 10 >= rows.len() * 9, "{named} of {}", rows.len());
    Ok(())
}

fn need_full() -> Result<()> {
    if std::env::var_os("TRACER_TEST_FULL").is_none() {
        bail!(NotApplicable("part of the full run".to_owned()));
    }
    Ok(())
}

fn sites_in_every_version() -> Result<()> {
    host::require_root()?;
    need_full()?;
    let script = languages::source("node/churn.js");
    for version in node::VERSIONS {
        let node = node::version(version)?;
        let (_server, port) = serve(&node, &script)?;
        let arguments = [&*script.to_string_lossy(), &port, "60"];
        let (program, _) = Program::ready(&node, &arguments)?;
        let later = tracer::check(program.pid(), WATCH)?.report()?;
        hold(&later, None).with_context(|| format!("Node.js {version}, seen later"))?;
        drop(program);
        let beginning = from_the_beginning(&node, &arguments)?;
        hold(&beginning, None)
            .with_context(|| format!("Node.js {version}, seen from its beginning"))?;
        println!("Node.js {version}: as it should be");
    }
    Ok(())
}

/// Streams of HTTP/2 that are never ended are found although their connection is one and healthy, and
/// is older than the watch; those that are ended are no leak.
fn streams_within_one_connection() -> Result<()> {
    host::require_root()?;
    let node = host::tool("node")?;
    let script = languages::source("node/streams.js");
    let (_server, port) = serve(&node, &script)?;
    for mode in ["leak", "healthy"] {
        let origin = format!("http://127.0.0.1:{port}");
        let arguments = [&*script.to_string_lossy(), mode, &origin];
        let (program, _) = Program::ready(&node, &arguments)?;
        // its connection is there before the probes are
        std::thread::sleep(host::seconds(2));
        let output = tracer::check(program.pid(), WATCH)?;
        let report = output.report()?;
        if mode == "healthy" {
            ensure!(report.findings().is_empty(), "{report:?}");
            continue;
        }
        let [finding] = report.findings() else {
            anyhow::bail!("one finding: {report:?}");
        };
        ensure!(finding["kind"] == "stream_never_cancelled", "{finding}");
        let url = finding["remote"]["url"].as_str().unwrap_or_default();
        ensure!(url.ends_with("/watch/topics/{}?key=…"), "{url}");
        let open = finding["connections"]["open"].as_u64();
        // 2.5 a second, those of the beginning left out
        ensure!(open > Some(30) && open < Some(80), "{finding}");
        ensure!(!format!("{report:?}").contains("SECRET"), "{report:?}");
        // what is sent goes out from the event loop, long after whoever asked
        let line = fixtures::line_of(&fs::read_to_string(&script)?, "node")?;
        ensure!(
            finding["call_site"]["line"] == line,
            "line {line}: {finding}"
        );
    }
    Ok(())
}

/// A server, and its port.
fn serve(node: &Path, script: &Path) -> Result<(Program, String)> {
    let arguments = [script.to_string_lossy(), "serve".into()];
    let (server, port) = Program::ready(node, &arguments.map(String::from))?;
    Ok((server, port.trim().to_owned()))
}

/// Lets the tracer start the program itself, and end with it.
fn from_the_beginning(node: &Path, arguments: &[&str]) -> Result<Report> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("report");
    let mut command: Vec<String> = ["check", "-o", "json", "--report"]
        .map(str::to_owned)
        .to_vec();
    command.push(file.to_string_lossy().into_owned());
    command.push("--".to_owned());
    command.push(node.to_string_lossy().into_owned());
    command.extend(arguments.iter().map(|&argument| argument.to_owned()));
    let mut check = tracer::start(&command)?;
    check.line("READY", host::seconds(60))?;
    std::thread::sleep(host::seconds(WATCH));
    // the program ends with its input, and the tracer with the program
    check.close_stdin();
    let ended = check.end(host::seconds(60))?;
    Report::read(&file).with_context(|| ended.stderr)
}

/// Findings at the sites are in their lines, with no more connections than were opened there, and
/// there is one for each. Of all connections, one in ten may be elsewhere: those from before the
/// probes were attached, and those whose stack was read after the collector had moved a function.
fn hold(report: &Report, opened: Option<&BTreeMap<String, u64>>) -> Result<()> {
    let source = fs::read_to_string(languages::source("node/churn.js"))?;
    let (mut found, mut right, mut all) = (0, 0, 0);
    for finding in report.findings() {
        let site = &finding["call_site"];
        let function = site["function"].as_str().unwrap_or_default();
        let open = finding["connections"]["open"].as_u64().unwrap_or_default();
        all += open;
        let Some(name) = SITES.iter().find(|name| function.ends_with(*name)) else {
            let others = site["file"]
                .as_str()
                .is_some_and(|f| f.ends_with("churn.js"));
            ensure!(!others, "nothing is opened by {site}");
            continue;
        };
        let line = fixtures::line_of(&source, name)?;
        ensure!(site["line"] == line, "{name} is in line {line}: {site}");
        let most = opened.map_or(u64::MAX, |opened| {
            opened.get(*name).copied().unwrap_or_default()
        });
        ensure!(open <= most, "{name} has opened {most}, not {open}");
        found += 1;
        right += open;
    }
    ensure!(
        found == SITES.len() && right * 10 >= all * 9,
        "{found} of {} sites, {right} of {all} connections: {:#}",
        SITES.len(),
        report.0
    );
    // they go on while the report is made
    let opened: u64 = opened.map_or(0, |opened| opened.values().sum());
    ensure!(right * 2 >= opened, "{right} of {opened} connections");
    Ok(())
}
