//! The frames of scripts are those that the interpreter itself sees at the same call, frame for
//! frame, with the flags that everybody runs them with. One `tracer check` watches all programs.
//!
//! `TRACER_TEST_FULL=1` adds compiled code, and the versions of other releases of Debian where
//! `cargo xtask setup` unpacked them.

use std::{fmt::Write as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tracer_tests::{
    fixtures::line_of,
    host,
    languages::{Server, source},
    program::Program,
    runner::Skip,
    tests,
    tracer::{self, Report},
};

tests![scripts_as_their_interpreters_see_them];

/// Seconds that the check watches.
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

/// An interpreter.
struct Interpreter {
    name: String,
    command: Vec<String>,
    script: PathBuf,
    text: &'static str,
    ways: &'static [Way],
}

fn scripts_as_their_interpreters_see_them() -> Result<()> {
    host::require_root()?;
    let server = Server::start()?;
    let mut programs = Vec::new();
    for (number, interpreter) in interpreters()?.iter().enumerate() {
        for (way, mark) in interpreter.ways {
            let name = format!("{} {way}", interpreter.name);
            let (program, first) =
                start(interpreter, way, number, &server).with_context(|| name.clone())?;
            let told: Vec<Value> = serde_json::from_str(&first).with_context(|| name.clone())?;
            let line = line_of(interpreter.text, mark)?;
            programs.push((name, program, told, line, interpreter.script.clone()));
        }
    }
    let duration = format!("{}s", host::seconds(WATCH).as_secs());
    let mut arguments: Vec<String> = ["check", "-o", "json", "--duration", &duration]
        .map(str::to_owned)
        .to_vec();
    for (_, program, ..) in &programs {
        arguments.extend(["--pid".to_owned(), program.pid().to_string()]);
    }
    let mut check = tracer::start(&arguments)?;
    tracer::attached(&mut check)?;
    let ended = check.end(host::seconds(WATCH + 60))?;
    let report = Report::parse(&ended.stdout).with_context(|| ended.stderr.clone())?;
    let mut wrong = String::new();
    for (name, program, told, line, script) in &programs {
        let file = script.to_string_lossy();
        match hold(&report, program, told, *line, &file) {
            Ok(frames) => println!("{name:34} ok, {frames} frames"),
            Err(error) => {
                println!("{name:34} WRONG");
                let _ = write!(wrong, "\n{name}: {error:#}");
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong}\n{}", report.0["coverage"]);
    Ok(())
}

/// Compares the frames that are the script's own with those that it told; their number.
fn hold(
    report: &Report,
    program: &Program,
    told: &[Value],
    line: u32,
    script: &str,
) -> Result<usize> {
    let pid = program.pid();
    let of_process = |finding: &&Value| {
        let instances = finding["instances"].as_array();
        instances.is_some_and(|all| all.iter().any(|i| i["pid"] == pid))
    };
    let finding = report.findings().iter().find(of_process);
    let finding = finding.with_context(|| format!("no finding; {}", program.stderr()))?;
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

fn start(
    interpreter: &Interpreter,
    way: &str,
    number: usize,
    server: &Server,
) -> Result<(Program, String)> {
    let (program, arguments) = interpreter.command.split_first().context("a command")?;
    let mut all: Vec<String> = arguments.to_vec();
    all.push(interpreter.script.to_string_lossy().into_owned());
    let host = format!("{way}-{number}.tides.test");
    all.extend([way.to_owned(), server.plain.clone(), host]);
    Program::ready(PathBuf::from(program), &all)
}

/// Those that are installed; all that are asked for.
fn interpreters() -> Result<Vec<Interpreter>> {
    let full = std::env::var_os("TRACER_TEST_FULL").is_some();
    let mut all = Vec::new();
    if let Ok(ruby) = host::tool("ruby") {
        all.push(in_ruby(&[&ruby.to_string_lossy()]));
        if full {
            all.push(in_ruby(&[&ruby.to_string_lossy(), "--yjit"]));
        }
    }
    if let Ok(php) = host::tool("php") {
        all.push(in_php(&[&php.to_string_lossy()]));
        if full {
            let compiled = [
                &*php.to_string_lossy(),
                "-dopcache.enable_cli=1",
                "-dopcache.jit=1255",
                "-dopcache.jit_buffer_size=16M",
            ];
            all.push(in_php(&compiled));
        }
    }
    if all.is_empty() {
        bail!(Skip("neither ruby nor php is installed".to_owned()));
    }
    Ok(all)
}

fn in_ruby(command: &[&str]) -> Interpreter {
    interpreter("Ruby", command, "ruby/keeper.rb", RUBY, IN_RUBY)
}

fn in_php(command: &[&str]) -> Interpreter {
    let has_curl = Command::new(command[0])
        .args(["-r", "exit(extension_loaded('curl') ? 0 : 1);"])
        .status()
        .is_ok_and(|status| status.success());
    let mut made = interpreter("PHP", command, "php/keeper.php", PHP, IN_PHP);
    if !has_curl {
        println!("PHP curl is not tested: no curl in this PHP");
        made.ways = &IN_PHP[1..];
    }
    made
}

fn interpreter(
    language: &str,
    command: &[&str],
    script: &str,
    text: &'static str,
    ways: &'static [Way],
) -> Interpreter {
    let flags = command.get(1..).unwrap_or_default().join(" ");
    Interpreter {
        name: format!("{language} {flags}").trim_end().to_owned(),
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        script: source(script),
        text,
        ways,
    }
}
