//! `cargo xtask test`: builds and runs every test, and counts what ran, failed and was skipped.

pub mod manifests;
mod outcome;
mod table;

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

pub use self::{
    outcome::Outcome,
    table::{Suite, report},
};
use crate::{
    build::{self, Executable},
    release,
    setup::{self, Ready},
    sh, vm,
};

/// A suite that says nothing for longer than this hangs; each test says that it has ended.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Whoever starts us in the background may have had these ignored, and tests send them.
const DEFAULT_SIGNALS: &str = "--default-signal=HUP,INT,QUIT";
/// The one guest that every run boots: a kernel with fentry and kprobes, which this machine's own
/// may lack.
const GUEST_KERNEL: &str = "6.12";
/// What is tested in it.
const GUEST_TESTS: &[&str] = &[
    "backends::",
    "doctor::each_event_has_its_backend",
    "scenarios::",
    "verdicts::every_leak_at_once",
];
/// What the full run tests in each guest: all that depends on the kernel. What the command line,
/// the output and Go executables are like does not.
const FULL_GUEST_TESTS: &[&str] = &[
    "programs_stay_far_from_the_verifiers_limit",
    "prototypes_are_those_of_this_kernel",
    "backends::",
    "scenarios::",
    "verdicts::every_leak_at_once",
    "@",
    "verdicts::the_demo",
    "verdicts::later_request_is_at_fault",
    "targets::",
    "doctor::",
    "restart::",
    "faults::",
    "bad_input::kernel_without_btf",
    "bad_input::killed_check_leaves_nothing_attached",
    "bad_input::root_without_capabilities",
    "daemon::sigterm_detaches_everything",
];
/// The guest in which Go programs are tested, too, and what of them.
const GO_GUEST: (&str, &[&str]) = ("7", &["go_views::leaked_before"]);
/// Time for the guests of a full run, which `--within` replaces by what is left of it.
const GUESTS: Duration = Duration::from_secs(45 * 60);

/// Unit tests and behaviour tests on this machine's kernel, a few in one guest
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only tests with one of these in their name
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// Without behaviour tests, which need root
    #[arg(long)]
    unit: bool,
    /// All versions of Go, and what depends on the kernel in every guest with each backend
    #[arg(long)]
    full: bool,
    /// What has not begun in guests after so many minutes is skipped and said to be
    #[arg(long, value_name = "MINUTES")]
    within: Option<u32>,
}

/// `cargo xtask test`.
pub fn main(arguments: Arguments, options: setup::Options) -> Result<ExitCode> {
    let started = Instant::now();
    let Arguments {
        filter,
        unit: unit_only,
        full,
        within,
    } = arguments;
    let within = within.map(|minutes| started + Duration::from_mins(minutes.into()));
    let mut ready = setup::to_build(options)?;
    if !unit_only {
        ready = setup::to_test(&ready, options, full)?;
    }
    let programs = build::with_tests(&ready)?;
    let tracer = build::find(&programs, "tracer")?;

    let (behaviour, unit): (Vec<_>, Vec<_>) = programs
        .iter()
        .filter(|program| program.is_test)
        .partition(|program| program.kind == "test");
    let mut suites = Vec::new();
    // the tests marked as ignored need these, and say so when they are skipped
    let runtimes = ["gdb", "node", "javac"].into_iter().all(sh::has_program);
    for program in unit {
        let mut command = sh::command("env");
        command.arg(DEFAULT_SIGNALS).arg(&program.path);
        command.args(runtimes.then_some("--include-ignored"));
        suites.push(run_one(program, false, command, &filter)?);
    }
    if filter.is_empty() {
        suites.push(run_doc_tests(&ready)?);
    }
    if !unit_only {
        for program in behaviour {
            let mut command = sh::as_root("env");
            command
                .arg(DEFAULT_SIGNALS)
                .arg(assignment("TRACER_BIN", &tracer))
                .arg(assignment("PATH", Path::new(&sh::path_with(&ready.path))))
                .args(full.then_some("TRACER_TEST_FULL=1"))
                .arg(&program.path)
                .current_dir(sh::root().join(&program.package));
            suites.push(run_one(program, true, command, &filter)?);
        }
    }
    if !unit_only && filter.is_empty() {
        suites.push(manifests::run(&programs)?);
    }
    if full && filter.is_empty() {
        suites.push(release::run(options));
    }
    if full || (!unit_only && filter.is_empty()) {
        let time = if full { GUESTS } else { vm::LIMIT };
        let until = within.unwrap_or_else(|| Instant::now() + time);
        suites.extend(in_guests(options, &programs, full, &filter, until));
    }
    Ok(report(&suites))
}

/// Tests in guests, what has begun by `until`. Where none can be booted, that is one skip, with
/// the reason.
fn in_guests(
    options: setup::Options,
    programs: &[Executable],
    full: bool,
    filter: &[String],
    until: Instant,
) -> Vec<Suite> {
    let jobs = if full {
        full_jobs(filter)
    } else {
        let lines = vm::all();
        let line = lines.into_iter().filter(|line| line.name == GUEST_KERNEL);
        line.map(|line| (line, owned(GUEST_TESTS))).collect()
    };
    let tested = setup::to_boot_guests(options)
        .and_then(|emulator| vm::test(&emulator, programs, jobs, until));
    tested.unwrap_or_else(|error| {
        let mut outcome = Outcome::default();
        outcome.skip(format!("no guest was booted: {error:#}"));
        vec![Suite {
            name: "in guests".to_owned(),
            outcome,
            seconds: 0.0,
        }]
    })
}

/// What the full run tests in which guest.
fn full_jobs(filter: &[String]) -> Vec<(vm::Line, Vec<String>)> {
    vm::all()
        .into_iter()
        .map(|line| {
            let mut tests = owned(FULL_GUEST_TESTS);
            if line.name == GO_GUEST.0 {
                tests.extend(owned(GO_GUEST.1));
            }
            let tests = if filter.is_empty() {
                tests
            } else {
                filter.to_vec()
            };
            (line, tests)
        })
        .collect()
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn assignment(name: &str, value: &Path) -> std::ffi::OsString {
    let mut word = std::ffi::OsString::from(format!("{name}="));
    word.push(value);
    word
}

fn run_one(
    program: &Executable,
    each: bool,
    mut command: Command,
    filter: &[String],
) -> Result<Suite> {
    let name = format!("{}: {} ({})", program.package, program.target, program.kind);
    command.args(filter);
    run(&name, each, command, LIMIT)
}

fn run_doc_tests(ready: &Ready) -> Result<Suite> {
    let mut cargo = sh::cargo();
    cargo.args([
        "test",
        "--quiet",
        "--workspace",
        "--doc",
        "--",
        "--format=pretty",
    ]);
    if let Some(toolchain) = &ready.ebpf_toolchain {
        cargo.env("TRACER_EBPF_TOOLCHAIN", toolchain);
    }
    run("examples in the documentation", false, cargo, LIMIT)
}

/// Runs one test program and reads its results; it is ended when it says nothing for `limit`.
///
/// Unless `each` test is worth a line, only what is out of the ordinary is shown.
fn run(name: &str, each: bool, mut command: Command, limit: Duration) -> Result<Suite> {
    eprintln!("xtask: {name}");
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // so that what it started can be ended with it
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start the tests of {name}"))?;
    let stdout = child.stdout.take().context("the tests have no stdout")?;
    let (line_sent, lines) = mpsc::channel();
    // reads on while this thread watches the time
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if line_sent
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
    let mut outcome = Outcome::default();
    let mut hung = false;
    loop {
        match lines.recv_timeout(limit) {
            Ok(line) => {
                if each || !is_dull(&line) {
                    show(&line, &line);
                }
                outcome.read(&line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                hung = true;
                let group = format!("-{}", child.id());
                sh::quiet(sh::as_root("kill").args(["-9", "--", &group]))?;
                break;
            }
        }
    }
    let status = child.wait()?;
    if hung {
        outcome.fail(format!("not a word for {} s", limit.as_secs()));
    } else {
        outcome.close(status.success(), status);
    }
    Ok(Suite {
        name: name.to_owned(),
        outcome,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Prints `text` for a line that a test program `said`, unless it was its closing line: ours comes
/// last, and is the only one.
pub fn show(text: &str, said: &str) {
    if outcome::closing_line(said).is_none() {
        println!("{text}");
    }
}

/// Whether a line of a test program says no more than that all is well.
fn is_dull(line: &str) -> bool {
    let line = line.trim();
    line.is_empty()
        || line.starts_with("running ")
        || (line.starts_with("test ") && line.ends_with(" ... ok"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use std::{process::Command, time::Duration};

    use super::run;

    fn shell(script: &str, limit: Duration) -> super::Suite {
        let mut sh = Command::new("sh");
        sh.args(["-c", script]);
        run("made up", false, sh, limit).unwrap()
    }

    #[test]
    fn a_test_program_that_dies_has_failed() {
        let suite = shell("echo 'test a ... ok'; exit 101", Duration::from_secs(300));
        assert_eq!(suite.outcome.failed(), 1);
    }

    #[test]
    fn a_test_program_that_hangs_is_ended_and_has_failed() {
        let suite = shell("sleep 600", Duration::from_millis(50));
        assert_eq!(suite.outcome.failed(), 1);
        assert!(suite.seconds < 300.0);
    }
}
