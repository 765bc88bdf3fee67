//! The frames of JavaScript are those that V8 itself sees at the same call, frame for frame, in code
//! that is interpreted and in code that was optimized with what it inlined.
//!
//! `TRACER_TEST_FULL=1` does it in each version of Node.js, seen from its beginning and later.

use std::{collections::BTreeMap, fmt::Write as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tracer_tests::{
    beginning,
    fixtures::line_of,
    host,
    languages::{Server, source},
    node,
    program::Program,
    runner::NotApplicable,
    tests,
    tracer::{self, Report},
};

tests![frames_as_v8_sees_them, frames_in_every_version];

/// Seconds that a check watches.
const WATCH: u64 = 15;
/// Frames that are shown at most.
const FRAMES_MAX: usize = 64;
/// Calls before each that connects, so that V8 optimizes the functions.
const WARM: u32 = 2000;
/// What a frame of compiled code without a name is called.
const UNNAMED: &str = "[jit]";
/// Ways in which the script connects in each version; `fetch` is not in all.
const WAYS_MIN: usize = 9;

const SCRIPT: &str = include_str!("../fixtures/node/frames.js");

/// Two programs: one whose functions are called seldom, and one whose functions are optimized. Each
/// has a server of its own, because the same leak of the same server is one finding.
struct Programs {
    servers: [Server; 2],
}

/// What one of them wrote, and the process that it was.
struct Written {
    pid: u32,
    stdout: String,
}

/// V8's frames by way, innermost first.
type Told = BTreeMap<String, Vec<Value>>;

fn frames_as_v8_sees_them() -> Result<()> {
    host::require_root()?;
    let node = host::tool("node")?;
    let programs = Programs::new()?;
    programs.seen_later(&node)
}

fn frames_in_every_version() -> Result<()> {
    host::require_root()?;
    if std::env::var_os("TRACER_TEST_FULL").is_none() {
        bail!(NotApplicable("part of the full run".to_owned()));
    }
    let mut wrong = String::new();
    for version in node::VERSIONS {
        let node = node::version(version)?;
        let seen = [
            ("later", Programs::new()?.seen_later(&node)),
            (
                "from the beginning",
                Programs::new()?.seen_from_the_beginning(&node),
            ),
        ];
        for (when, seen) in seen {
            match seen {
                Ok(()) => println!("Node.js {version}, seen {when}: as it should be"),
                Err(error) => {
                    println!("Node.js {version}, seen {when}: WRONG");
                    let _ = write!(wrong, "\nNode.js {version}, seen {when}: {error:#}");
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}

impl Programs {
    fn new() -> Result<Programs> {
        Ok(Programs {
            servers: [Server::start()?, Server::start()?],
        })
    }

    fn commands(&self, node: &Path) -> [Command; 2] {
        [0, 1].map(|number: usize| {
            let warm = if number == 0 { 0 } else { WARM };
            let mut command = Command::new(node);
            command
                .arg(source("node/frames.js"))
                .args([&self.servers[number].plain, &warm.to_string()]);
            command
        })
    }

    fn seen_later(&self, node: &Path) -> Result<()> {
        let started = self.commands(node).map(|mut command| {
            let mut program = Program::start(&mut command)?;
            program.line("READY", host::seconds(20))?;
            Ok::<_, anyhow::Error>(program)
        });
        let [seldom, often] = started;
        let (seldom, often) = (seldom?, often?);
        let report = tracer::check_all(&[seldom.pid(), often.pid()], WATCH)?.report()?;
        let written = [seldom, often].map(|program| Written {
            pid: program.pid(),
            stdout: program.stdout(),
        });
        judge(&report, &written)
    }

    fn seen_from_the_beginning(&self, node: &Path) -> Result<()> {
        // the executable is read first, and all that is opened meanwhile has no call site
        let seen = beginning::watch(&self.commands(node), WATCH + 20)?;
        let written = seen.programs.into_iter().map(|program| Written {
            pid: program.pid,
            stdout: program.stdout,
        });
        judge(&seen.report, &written.collect::<Vec<_>>())
    }
}

/// Holds what both wrote against the report.
fn judge(report: &Report, written: &[Written]) -> Result<()> {
    let (mut wrong, mut all) = (String::new(), (0, 0));
    for (program, kind) in written.iter().zip(["interpreted", "optimized"]) {
        let line = |prefix: &str| {
            let mut lines = program.stdout.lines();
            let found = lines.find_map(|line| line.strip_prefix(prefix));
            found.with_context(|| format!("no line {prefix} of {kind}: {}", program.stdout))
        };
        let told: Told = serde_json::from_str(line("TOLD ")?)?;
        let optimized: Vec<String> = serde_json::from_str(line("OPTIMIZED ")?)?;
        ensure!(told.len() >= WAYS_MIN, "{told:?}");
        let as_meant = match kind {
            // one call of this is a hundred
            "interpreted" => optimized.iter().all(|way| way == "deep"),
            _ => optimized.len() * 2 > told.len(),
        };
        ensure!(
            as_meant,
            "of {kind} functions these are optimized: {optimized:?}"
        );
        for (way, frames) in &told {
            match hold(report, program.pid, way, frames) {
                Ok((named, of)) => {
                    println!("{kind} {way:10} ok, {named} of {of} frames");
                    all = (all.0 + named, all.1 + of);
                }
                Err(error) => {
                    println!("{kind} {way:10} WRONG");
                    let _ = write!(wrong, "\n{kind} {way}: {error:#}");
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong}\n{}", report.0["coverage"]);
    ensure!(
        all.0 * 10 >= all.1 * 9,
        "only {} of {} are named",
        all.0,
        all.1
    );
    Ok(())
}

/// Compares the frames of the script with those that V8 told: how many are named, and of how many.
/// One whose function the collector had moved when it was read has no name.
fn hold(report: &Report, pid: u32, way: &str, told: &[Value]) -> Result<(usize, usize)> {
    let line = line_of(SCRIPT, way)?;
    let script = source("node/frames.js");
    let script = &*script.to_string_lossy();
    let is_it = |finding: &&Value| {
        let site = &finding["call_site"];
        finding["process"]["pid"] == pid && site["line"] == line && site["file"] == script
    };
    let mut found = report.findings().iter().filter(is_it);
    let finding = found.next().with_context(|| {
        let sites = report
            .findings()
            .iter()
            .filter(|f| f["process"]["pid"] == pid);
        let sites: Vec<String> = sites.map(|f| f["call_site"].to_string()).collect();
        format!("no finding at line {line} but {sites:?}")
    })?;
    ensure!(found.next().is_none(), "more than one finding");
    let innermost = told.first().context("V8 told no frame")?;
    ensure!(
        same_name(&finding["call_site"]["function"], &innermost["function"]),
        "{} instead of {innermost}",
        finding["call_site"]
    );
    let stack = finding["stack"].as_array().context("a stack")?;
    let cut = stack.len() >= FRAMES_MAX;
    let is_unnamed = |frame: &Value| frame["function"] == UNNAMED && frame["file"].is_null();
    let (mut expected, mut named, mut unnamed) = (told.iter(), 0, false);
    for frame in stack {
        unnamed |= is_unnamed(frame);
        if frame["file"] != script {
            continue;
        }
        let is_it = |theirs: &&Value| {
            same_name(&frame["function"], &theirs["function"]) && frame["line"] == theirs["line"]
        };
        let theirs = match unnamed {
            true => expected.find(is_it),
            false => expected.next().filter(is_it),
        };
        ensure!(
            theirs.is_some(),
            "{frame} is not V8's; told: {told:#?}\n{stack:#?}"
        );
        unnamed = false;
        named += 1;
    }
    ensure!(
        cut || unnamed || expected.next().is_none(),
        "frames are missing; told: {told:#?}\n{stack:#?}"
    );
    Ok((named, if cut { named } else { told.len() }))
}

/// A function without a name is shown with the one around it.
fn same_name(shown: &Value, theirs: &Value) -> bool {
    let shown = shown.as_str().unwrap_or_default();
    match theirs.as_str().filter(|name| !name.is_empty()) {
        Some(name) => shown == name,
        None => shown == "<anonymous>" || shown.ends_with(".<anonymous>"),
    }
}
