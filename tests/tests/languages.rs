//! In every language the call site is the program's own line, and the native stack is what gdb
//! sees at the same call. One `tracer check` watches all programs at the same time.
//!
//! `TRACER_TEST_FULL=1` adds the programs whose runtimes take long to install or to start.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    fixtures, gdb, go, host,
    languages::{self, Gdb, MEMBERS, Member, Server, Site},
    program::Program,
    tests,
    tracer::{self, Report},
};

tests![call_sites_and_native_stacks];

/// Seconds that the check watches.
const WATCH: u64 = 20;

fn call_sites_and_native_stacks() -> Result<()> {
    host::require_root()?;
    host::tool("gdb")?;
    let full = std::env::var_os("TRACER_TEST_FULL").is_some();
    let members: Vec<&Member> = MEMBERS.iter().filter(|m| full || m.cheap).collect();
    let server = Server::start()?;
    let mut programs = Vec::new();
    for member in &members {
        programs.push(member.start(&server)?);
    }
    let duration = format!("{}s", host::seconds(WATCH).as_secs());
    let mut arguments: Vec<String> = ["check", "-o", "json", "--duration", &duration]
        .map(str::to_owned)
        .to_vec();
    for program in &programs {
        arguments.extend(["--pid".to_owned(), program.pid().to_string()]);
    }
    let mut check = tracer::start(&arguments)?;
    tracer::attached(&mut check)?;
    for (member, program) in members.iter().zip(&programs) {
        member.name_compiled_code(program)?;
    }
    let ended = check.end(host::seconds(WATCH + 60))?;
    let report = Report::parse(&ended.stdout).with_context(|| ended.stderr.clone())?;
    let mut wrong = String::new();
    println!("Native frames equal to gdb's: of the opener's stack + of the request's.");
    println!(
        "{:34} {:6} {:22} call site",
        "program", "site", "frames as gdb"
    );
    for (member, program) in members.iter().zip(&mut programs).rev() {
        let row = row(member, program, &report);
        println!("{:34} {}", member.name, row.text);
        for problem in row.problems {
            let _ = write!(wrong, "\n{}: {problem}", member.name);
        }
    }
    for member in &members {
        if let Gdb::EqualTo(why) | Gdb::Beyond(_, why) = member.gdb {
            println!("{}: {why}.", member.name);
        }
    }
    ensure!(wrong.is_empty(), "{wrong}\n{}", report.0["coverage"]);
    Ok(())
}

/// What is printed of a program, and what is wrong.
struct Row {
    text: String,
    problems: Vec<String>,
}

fn row(member: &Member, program: &mut Program, report: &Report) -> Row {
    let mut problems = Vec::new();
    let pid = program.pid();
    // Several programs may have one finding, when they have the same executable and no call site.
    let finding = report.findings().iter().find(|finding| {
        let instances = finding["instances"].as_array();
        instances.is_some_and(|all| all.iter().any(|i| i["pid"] == pid))
    });
    let Some(finding) = finding else {
        problems.push(format!("no finding; stderr: {}", program.stderr()));
        return Row {
            text: "no finding".to_owned(),
            problems,
        };
    };
    let site = &finding["call_site"];
    let held = hold(member, finding);
    let compared = match finding["process"]["pid"] == pid {
        false => Ok("shown of another process".to_owned()),
        true => compare_until_equal(member.gdb, pid, finding),
    };
    let text = format!(
        "{:6} {:22} {} {}:{}",
        if held.is_ok() { "ok" } else { "WRONG" },
        compared.as_deref().unwrap_or("WRONG"),
        site["function"].as_str().unwrap_or("-"),
        site["file"].as_str().unwrap_or("-"),
        site["line"],
    );
    for result in [held, compared.map(|_| ())] {
        if let Err(error) = result {
            problems.push(format!("{error:#}"));
        }
    }
    Row { text, problems }
}

/// Holds the call site.
fn hold(member: &Member, finding: &Value) -> Result<()> {
    let site = &finding["call_site"];
    let function = site["function"].as_str().unwrap_or_default();
    let right = match member.site {
        Site::Line {
            file,
            mark,
            function: name,
        } => {
            let lines: Vec<u32> = if file.starts_with("go/") {
                go::marked(mark)?
                    .into_iter()
                    .map(|(_, line)| line)
                    .collect()
            } else {
                let source = std::fs::read_to_string(languages::source(file))?;
                vec![fixtures::line_of(&source, mark)?]
            };
            let path = site["file"].as_str().unwrap_or_default();
            path.ends_with(file.rsplit('/').next().unwrap_or(file))
                && lines.iter().any(|line| site["line"] == *line)
                && function.ends_with(name)
        }
        Site::Function(name) => function.ends_with(name),
        Site::Executable => site["module"] == finding["process"]["exe"],
        Site::None(words) => {
            let evidence = finding["evidence"].to_string();
            site.is_null() && evidence.contains(words)
        }
    };
    ensure!(right, "call site is not {:?}: {finding:#}", member.site);
    Ok(())
}

/// How often gdb is asked: it sees a few calls at a time, and an executor's tasks may come to run in more
/// than one way.
const ASKED: usize = 4;

/// Where libuv makes a handle, and where Node.js parses a URL: connections and requests that the event
/// loop makes later have their stack from there. gdb is asked at `connect` and at sends only.
const EARLIER: [&str; 2] = ["uv_tcp_init", "ada::parse"];

/// Compares the stacks of a finding with gdb's until they are equal.
fn compare_until_equal(expected: Gdb, pid: u32, finding: &Value) -> Result<String> {
    let mut last = compare(expected, pid, finding);
    for _ in 1..ASKED {
        if last.is_ok() {
            break;
        }
        last = compare(expected, pid, finding);
    }
    last
}

/// Compares the stacks of a finding with gdb's: the opener's with those at `connect`, that of the
/// request with those at a send.
fn compare(expected: Gdb, pid: u32, finding: &Value) -> Result<String> {
    let opinion = gdb::ask(pid)?;
    let opener = match finding["stack_of"].as_str() {
        Some("request") => &finding["opener_stack"],
        _ => &finding["stack"],
    };
    let mut answer = String::new();
    let mut compared = 0;
    let requests = (finding["stack_of"] == "request").then_some((&finding["stack"], &opinion.send));
    for (stack, theirs) in [Some((opener, &opinion.connect)), requests]
        .into_iter()
        .flatten()
    {
        let innermost = stack[0]["function"].as_str().unwrap_or_default();
        if EARLIER.iter().any(|name| innermost.contains(name)) {
            compared += 1;
            answer.push_str("earlier + ");
            continue;
        }
        let (ours, told) = gdb::native(stack)?;
        if ours.is_empty() || theirs.is_empty() {
            continue;
        }
        compared += 1;
        let len = match expected {
            Gdb::EqualTo(_) => told,
            _ => ours.len(),
        };
        let equal = theirs.iter().any(|their| match expected {
            Gdb::EqualTo(_) => their.starts_with(&ours[..len]),
            Gdb::Beyond(more, _) => their.starts_with(&ours) && their.len() <= len + more,
            Gdb::Equal => *their == ours,
        });
        let list = |places: &[gdb::Place]| {
            places
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        };
        ensure!(
            equal,
            "the native stack is\n  {}\ngdb's are\n  {}",
            list(&ours),
            theirs
                .iter()
                .map(|their| list(their))
                .collect::<Vec<_>>()
                .join("\n  ")
        );
        let _ = match len == ours.len() {
            true => write!(answer, "{len} + "),
            false => write!(answer, "{len} of {} + ", ours.len()),
        };
    }
    ensure!(compared > 0, "nothing to compare with gdb's");
    Ok(answer.trim_end_matches([' ', '+']).to_owned())
}
