//! Java programs as they run in production: no flag, no agent, no perf map. Each call site has its
//! method, file and line, and the stack is the one that the virtual machine shows there.
//!
//! `TRACER_TEST_FULL=1` adds other versions, interpreted and compiled code, and programs that are
//! started by the check itself.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};
use tracer_tests::{
    beginning,
    fixtures::line_of,
    host, java,
    languages::Server,
    runner::NotApplicable,
    tests,
    tracer::{self, Report},
};

tests![call_sites_without_flags, other_versions_and_tiers];

const SITES: &str = include_str!("../fixtures/java/Sites.java");
/// Seconds that a check watches.
const WATCH: u64 = 18;
/// The ways that every version has.
const WAYS: [&str; 9] = [
    "socket", "url", "client", "channel", "pool", "future", "stream", "inner", "hot",
];
/// What the virtual machine leaves out of the stacks it shows, or shows in some versions only. What a
/// virtual thread that has slept goes back to is not on its carrier's stack.
const HIDDEN: [&str; 7] = [
    "$$Lambda",
    "LambdaForm",
    "$Holder.",
    "java.lang.invoke.",
    "java.lang.Thread.runWith",
    "java.lang.VirtualThread.run",
    "jdk.internal.vm.Continuation",
];

fn call_sites_without_flags() -> Result<()> {
    host::require_root()?;
    let server = Server::start()?;
    let classes = java::classes("Sites")?;
    let machine = host::tool("java")?;
    // Called often enough for the first compiler, so that code changes while it is watched.
    let command = java::sites(&machine, &[], &classes, &server.plain, 40, &WAYS)?;
    let program = java::started(command, &WAYS)?;
    let report = tracer::check(program.pid(), WATCH)?.report()?;
    agrees(&report, &program.stdout(), &WAYS)
}

fn other_versions_and_tiers() -> Result<()> {
    host::require_root()?;
    if std::env::var_os("TRACER_TEST_FULL").is_none() {
        bail!(NotApplicable("part of the full run".to_owned()));
    }
    let server = Server::start()?;
    let classes = java::classes("Sites")?;
    let mut wrong = Vec::new();
    for (name, version) in java::OTHERS {
        let machine = java::runtime(version)?;
        let mut ways = WAYS.to_vec();
        if name != "11" {
            ways.push("virtual");
        }
        for (options, warm, before) in [
            (&["-Xint"][..], 0, true),
            (&[][..], 400, true),
            (&["-Xcomp"][..], 1, true),
            (&[][..], 40, false),
        ] {
            let command = java::sites(&machine, options, &classes, &server.plain, warm, &ways)?;
            let result = if before {
                let program = java::started(command, &ways)?;
                let report = tracer::check(program.pid(), WATCH)?.report()?;
                agrees(&report, &program.stdout(), &ways)
            } else {
                by_check(command).and_then(|(report, out)| agrees(&report, &out, &ways))
            };
            if let Err(error) = result {
                wrong.push(format!(
                    "{name} {options:?}, started before: {before}: {error:#}"
                ));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The report of a check that starts the program itself, and what the program printed.
fn by_check(command: std::process::Command) -> Result<(Report, String)> {
    let seen = beginning::watch(&[command], WATCH)?;
    let program = seen.programs.into_iter().next().context("a program")?;
    Ok((seen.report, program.stdout))
}

/// The way whose client connects on a thread of its own: who asked is found by the only code that
/// calls the client, and stands where that thread begins.
const FOUND_BY_CODE: &str = "client";

/// Each way's finding is at its line, and its stack is the one that the program printed.
fn agrees(report: &Report, printed: &str, ways: &[&str]) -> Result<()> {
    let stacks: HashMap<&str, Vec<(&str, i64)>> = printed
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("STACK ")?.split(' ');
            Some((words.next()?, words.filter_map(frame).collect()))
        })
        .collect();
    let mut wrong = Vec::new();
    for way in ways {
        let line = i64::from(line_of(SITES, way)?);
        let stack = stacks
            .get(way)
            .with_context(|| format!("no stack of {way}"))?;
        if let Err(error) = agrees_on(report, line, stack, *way == FOUND_BY_CODE) {
            wrong.push(format!("{way}: {error:#}"));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{}\n{}",
        wrong.join("\n"),
        report.0["coverage"]
    );
    Ok(())
}

/// `function|line`.
fn frame(text: &str) -> Option<(&str, i64)> {
    let (function, line) = text.split_once('|')?;
    Some((function, line.parse().ok()?))
}

fn agrees_on(report: &Report, line: i64, printed: &[(&str, i64)], by_code: bool) -> Result<()> {
    let (function, _) = printed.first().context("an empty stack")?;
    let finding = report
        .findings()
        .iter()
        .find(|finding| finding["call_site"]["line"] == line)
        .with_context(|| {
            let sites = report.findings().iter().map(|f| f["call_site"].to_string());
            format!(
                "no finding at line {line} but {:?}",
                sites.collect::<Vec<_>>()
            )
        })?;
    let site = &finding["call_site"];
    ensure!(
        site["function"] == *function && site["file"] == "Sites.java",
        "the call site is {site}, not {function}"
    );
    // Outwards from the call site; what is in the runtime's own library is not Java's.
    let stack = finding["stack"].as_array().context("a stack")?;
    let shown: Vec<(&str, i64)> = stack
        .iter()
        .skip_while(|frame| frame["line"] != line || frame["function"] != *function)
        .filter(|frame| frame["module"].is_null())
        .map(|frame| {
            let line = frame["line"].as_i64().unwrap_or(-1);
            (frame["function"].as_str().unwrap_or_default(), line)
        })
        .filter(|(function, _)| !is_hidden(function))
        .collect();
    let mut expected: Vec<(&str, i64)> = printed
        .iter()
        .copied()
        .filter(|(function, _)| !is_hidden(function))
        // A native method has no line.
        .map(|(function, line)| (function, if line < 0 { -1 } else { line }))
        .collect();
    // It printed a line before it called.
    if let Some(innermost) = expected.first_mut() {
        innermost.1 = line;
    }
    if by_code {
        // nobody's stack has the callers
        expected.truncate(1);
    }
    // A virtual thread's own frames end where those of its carrier begin.
    let shown = &shown[..shown.len().min(expected.len())];
    ensure!(
        shown == expected,
        "the stack is {shown:?}, and the virtual machine's {expected:?}"
    );
    Ok(())
}

fn is_hidden(function: &str) -> bool {
    HIDDEN.iter().any(|part| function.contains(part))
}
