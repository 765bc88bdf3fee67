//! The frames of scripts are those that the interpreter itself sees at the same call, frame for
//! frame, with the flags that everybody runs them with. One `tracer check` watches all programs.
//!
//! `TRACER_TEST_FULL=1` adds compiled code, programs that are seen from their beginning, and the
//! versions of other releases of Debian where `cargo xtask setup --tests` unpacked them.

use std::{fmt::Write as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tracer_tests::{
    beginning,
    fixtures::line_of,
    host,
    languages::{Server, source},
    program::Program,
    runner::NotApplicable,
    scripts::{self, Interpreter},
    tests,
    tracer::{self, Report},
};

tests![
    scripts_as_their_interpreters_see_them,
    scripts_in_every_version,
    versions_that_are_not_understood,
];

/// Seconds that a check watches.
const WATCH: u64 = 12;
/// Frames that are shown at most.
const FRAMES_MAX: usize = 64;

const RUBY: &str = include_str!("../fixtures/ruby/keeper.rb");
const PHP: &str = include_str!("../fixtures/php/keeper.php");

/// A way to make a connection: what the script is told, and the mark of the line that makes it.
type Way = (&'static str, &'static str);

const IN_RUBY: &[Way] = &[
    ("raw", "raw"),
    ("started", "started"),
    ("nested", "nested"),
    ("fiber", "raw"),
    ("thread", "raw"),
    ("evaluated", "raw"),
    ("deep", "raw"),
];
const IN_PHP: &[Way] = &[
    ("curl", "curl"),
    ("socket", "socket"),
    ("stream", "stream"),
    ("nested", "socket"),
    ("generated", "socket"),
    ("fiber", "socket"),
    ("evaluated", "socket"),
    ("deep", "socket"),
];

/// A program: one interpreter that makes connections in one way.
struct Keeper {
    name: String,
    command: Command,
    script: PathBuf,
    line: u32,
}

/// What a keeper told, and the process that it was.
struct Told {
    pid: u32,
    stack: String,
    stderr: String,
}

fn scripts_as_their_interpreters_see_them() -> Result<()> {
    host::require_root()?;
    seen_later(&scripts::installed()?)
}

fn scripts_in_every_version() -> Result<()> {
    host::require_root()?;
    if std::env::var_os("TRACER_TEST_FULL").is_none() {
        bail!(NotApplicable("part of the full run".to_owned()));
    }
    let mut all = scripts::installed()?;
    all.extend(scripts::unpacked(true)?);
    let mut wrong = String::new();
    let mut hold = |when: &str, name: &str, seen: Result<()>| match seen {
        Ok(()) => println!("{name}, seen {when}: as it should be"),
        Err(error) => drop(write!(wrong, "\n{name}, seen {when}: {error:#}")),
    };
    for interpreter in &all {
        let compiled = interpreter.compiled();
        if compiled.is_none() {
            println!("{} does not compile: that is skipped", interpreter.name);
        }
        let both: Vec<Interpreter> = [Some(interpreter.clone()), compiled]
            .into_iter()
            .flatten()
            .collect();
        let name = &interpreter.name;
        hold("later", name, seen_later(&both));
        hold("from the beginning", name, seen_from_the_beginning(&both));
    }
    ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}

/// A version that is not known is said to be, and nothing of its scripts is named by guessing.
fn versions_that_are_not_understood() -> Result<()> {
    host::require_root()?;
    if std::env::var_os("TRACER_TEST_FULL").is_none() {
        bail!(NotApplicable("part of the full run".to_owned()));
    }
    let server = Server::start()?;
    for interpreter in scripts::unpacked(false)? {
        let (host, port) = server.plain.rsplit_once(':').context("a port")?;
        let text = if interpreter.is_ruby {
            format!(
                "require 'socket'; puts 'READY'; $stdout.flush; \
                 all = []; loop {{ all << TCPSocket.new('{host}', {port}); sleep 0.25 }}"
            )
        } else {
            format!(
                "echo \"READY\\n\"; for (;;) {{ $all[] = \
                 stream_socket_client('tcp://{host}:{port}'); usleep(250000); }}"
            )
        };
        let name = &interpreter.name;
        let mut program = Program::start(&mut interpreter.evaluates(&text)?)?;
        program.line("READY", host::seconds(20))?;
        let report = tracer::check(program.pid(), WATCH)?.report()?;
        let finding = report.only().with_context(|| name.clone())?;
        let stack = finding["stack"].as_array().context("a stack")?;
        let of_script = stack.iter().find(|frame| frame["module"].is_null());
        ensure!(of_script.is_none(), "{name}: {of_script:?}");
        let said = report.0["coverage"]["degraded"].to_string();
        let minor: String = name.rsplit_once('.').context("a version")?.0.to_owned();
        ensure!(
            said.contains(&format!("{minor} is not understood")),
            "{name}: {said}"
        );
        println!("{name}: said to be not understood");
    }
    Ok(())
}

fn seen_later(interpreters: &[Interpreter]) -> Result<()> {
    let server = Server::start()?;
    let keepers = keepers(interpreters, &server)?;
    let mut programs = Vec::new();
    for keeper in &keepers {
        let mut program = Program::start(&mut again(&keeper.command))?;
        let stack = program.line("READY", host::seconds(20));
        let stack = stack.with_context(|| keeper.name.clone())?;
        programs.push((program, stack));
    }
    let pids: Vec<u32> = programs.iter().map(|(program, _)| program.pid()).collect();
    let report = tracer::check_all(&pids, WATCH)?.report()?;
    let told: Vec<Told> = programs
        .into_iter()
        .map(|(program, stack)| Told {
            pid: program.pid(),
            stack,
            stderr: program.stderr(),
        })
        .collect();
    judge(&report, &keepers, &told)
}

fn seen_from_the_beginning(interpreters: &[Interpreter]) -> Result<()> {
    let server = Server::start()?;
    let keepers = keepers(interpreters, &server)?;
    let commands: Vec<Command> = keepers
        .iter()
        .map(|keeper| again(&keeper.command))
        .collect();
    // dozens of interpreters start at once
    let seen = beginning::watch(&commands, WATCH + 8)?;
    let told = seen.programs.into_iter().map(|program| {
        let line = program.stdout.lines().next().unwrap_or_default();
        Told {
            pid: program.pid,
            stack: line.trim_start_matches("READY ").to_owned(),
            stderr: program.stderr,
        }
    });
    judge(&seen.report, &keepers, &told.collect::<Vec<_>>())
}

/// The same command once more.
fn again(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args());
    copy
}

fn judge(report: &Report, keepers: &[Keeper], told: &[Told]) -> Result<()> {
    let mut wrong = String::new();
    for (keeper, told) in keepers.iter().zip(told) {
        match hold(report, keeper, told) {
            Ok(frames) => println!("{:42} ok, {frames} frames", keeper.name),
            Err(error) => {
                println!("{:42} WRONG", keeper.name);
                let _ = write!(wrong, "\n{}: {error:#}", keeper.name);
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong}\n{}", report.0["coverage"]);
    Ok(())
}

/// Compares the frames that are the script's own with those that it told; their number.
fn hold(report: &Report, keeper: &Keeper, told: &Told) -> Result<usize> {
    let pid = told.pid;
    let script = &*keeper.script.to_string_lossy();
    let of_process = |finding: &&Value| {
        let instances = finding["instances"].as_array();
        instances.is_some_and(|all| all.iter().any(|i| i["pid"] == pid))
    };
    let finding = report.findings().iter().find(of_process);
    let finding = finding.with_context(|| format!("no finding; {}", told.stderr))?;
    let told: Vec<Value> = serde_json::from_str(&told.stack).context(told.stack.clone())?;
    let line = keeper.line;
    let site = &finding["call_site"];
    ensure!(
        site["line"] == line && site["file"].as_str() == Some(script),
        "the call site is not line {line}: {site}"
    );
    ensure!(
        finding["process"]["pid"] == pid,
        "each asks for a host of its own, and yet two are one finding: {finding:#}"
    );
    ensure!(
        finding["stack_quality"] == "complete" || told.len() >= FRAMES_MAX,
        "the stack is not complete: {finding:#}"
    );
    let stack = finding["stack"].as_array().context("a stack")?;
    let mut own: Vec<&Value> = stack.iter().filter(|f| f["module"].is_null()).collect();
    let begins = own.iter().position(|frame| frame["file"] == script);
    own.drain(..begins.context("no frame of the script")?);
    let cut = own.len() + begins.unwrap_or_default() >= FRAMES_MAX;
    let mut expected = told.iter();
    for frame in &own {
        // A function of the interpreter's own has no line; PHP's are not told.
        let in_script = !frame["line"].is_null();
        if !in_script && frame["file"] == "[internal function]" {
            continue;
        }
        // Nor are Ruby's that are written in Ruby.
        let file = frame["file"].as_str().unwrap_or_default();
        if in_script && file.starts_with("<internal:") {
            continue;
        }
        let theirs = expected
            .next()
            .with_context(|| format!("{frame} was not told; told: {told:?}"))?;
        let same_line = !in_script || frame["line"] == theirs["line"];
        ensure!(
            frame["function"] == theirs["function"] && same_line,
            "{frame} instead of {theirs}; told: {told:#?}\n{stack:#?}"
        );
    }
    ensure!(
        cut || expected.next().is_none(),
        "frames are missing: {told:#?}\n{stack:#?}"
    );
    Ok(own.len())
}

/// Each interpreter in each way.
fn keepers(interpreters: &[Interpreter], server: &Server) -> Result<Vec<Keeper>> {
    let mut all = Vec::new();
    for (number, interpreter) in interpreters.iter().enumerate() {
        let (script, text, ways) = match interpreter.is_ruby {
            true => ("ruby/keeper.rb", RUBY, IN_RUBY),
            false => ("php/keeper.php", PHP, IN_PHP),
        };
        let script = source(script);
        let has_curl = interpreter.has_extension("curl");
        for (way, mark) in ways {
            let name = format!("{} {way}", interpreter.name);
            if *way == "curl" && !has_curl {
                println!("{name:42} skipped: no curl in this PHP");
                continue;
            }
            // each asks for a host of its own, so that no two are one finding
            let host = format!("{way}-{number}.tides.test");
            all.push(Keeper {
                command: interpreter.runs(&script, &[way, &server.plain, &host])?,
                line: line_of(text, mark)?,
                script: script.clone(),
                name,
            });
        }
    }
    Ok(all)
}
