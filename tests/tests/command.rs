//! `tracer check -- COMMAND` behaves like strace: the command's input, output and exit status stay its own.

use std::{fs, io, os::unix::fs::PermissionsExt, process::Command};

use anyhow::{Result, ensure};
use tracer_tests::{
    fixtures,
    host::{self, seconds},
    program::{Ended, Program},
    tests,
    tracer::{self, Report},
};

use crate::scenes;

tests![
    streams_are_undisturbed,
    surroundings_are_as_usual,
    report_goes_to_standard_error,
    exit_status_is_the_commands,
    another_user_runs_the_command,
    exit_code_tells_of_a_leak,
    exit_code_of_a_clean_command_is_its_own,
    interrupt_reaches_the_command,
    broken_pipe_is_no_error,
    until_found_ends_when_it_is_certain,
    kinds_are_explained,
];

/// Runs `tracer check OPTIONS -- sh -c SCRIPT` with `input`.
fn shell(options: &[&str], script: &str, input: &str) -> Result<Ended> {
    host::require_root()?;
    let arguments = [&["check"], options, &["--", "sh", "-c", script]].concat();
    let mut program = tracer::start(&arguments)?;
    program.write(input)?;
    program.close_stdin();
    program.end(seconds(60))
}

fn streams_are_undisturbed() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let report = directory.path().join("report");
    let options = ["--report", &report.to_string_lossy()];
    let ended = shell(&options, "cat; echo problem >&2; exit 7", "some\ninput")?;
    ensure!(ended.stdout == "some\ninput", "stdout: {:?}", ended.stdout);
    ensure!(ended.stderr == "problem\n", "stderr: {:?}", ended.stderr);
    ensure!(ended.code() == 7, "status {}", ended.code());
    ensure!(
        !fs::read_to_string(&report)?.is_empty(),
        "the report is empty"
    );
    Ok(())
}

/// Signals, descriptors, environment, limits, directory and umask are what they are without tracer.
fn surroundings_are_as_usual() -> Result<()> {
    host::require_root()?;
    let script = "grep -E '^(Sig(Pnd|Blk|Ign|Cgt)|Shd|Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups|Umask)' /proc/self/status; \
                  ls /proc/self/fd; env | sort; ulimit -a; pwd";
    let run = |mut command: Command| -> Result<String> {
        command.env_clear().env("PATH", host::search_path());
        let mut program = Program::start(&mut command)?;
        program.close_stdin();
        Ok(program.end(seconds(60))?.stdout)
    };
    let mut alone = Command::new("sh");
    alone.args(["-c", script]);
    let watched = tracer::command(&["check", "--report", "/dev/null", "--", "sh", "-c", script])?;
    let (alone, watched) = (run(alone)?, run(watched)?);
    ensure!(alone == watched, "alone:\n{alone}\nwatched:\n{watched}");
    ensure!(alone.contains("SigBlk"), "nothing was compared: {alone}");
    Ok(())
}

fn report_goes_to_standard_error() -> Result<()> {
    let ended = shell(&[], "echo output; echo problem >&2", "")?;
    ensure!(ended.stdout == "output\n", "stdout: {:?}", ended.stdout);
    ensure!(
        ended.stderr.starts_with("problem\n"),
        "stderr: {:?}",
        ended.stderr
    );
    ensure!(
        ended.stderr.len() > "problem\n".len(),
        "no report: {:?}",
        ended.stderr
    );
    ensure!(ended.code() == 0, "status {}", ended.code());
    Ok(())
}

fn exit_status_is_the_commands() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let plain = directory.path().join("plain");
    fs::write(&plain, "no program\n")?;
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644))?;
    let plain = plain.to_string_lossy();
    for (command, expected) in [
        (&["true"][..], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["/no/such/program"], 127),
        (&["no-such-program-in-the-path"], 127),
        (&[&*plain], 126),
    ] {
        let ended = tracer::run(&[&["check", "--"], command].concat(), seconds(60))?;
        ensure!(
            ended.code() == expected,
            "{command:?}: status {}, not {expected}: {}",
            ended.code(),
            ended.stderr
        );
        if expected == 126 || expected == 127 {
            ensure!(
                ended.stderr.contains(command[0]),
                "{command:?} is not named: {}",
                ended.stderr
            );
        }
    }
    Ok(())
}

fn another_user_runs_the_command() -> Result<()> {
    let ended = shell(&["--user", "65534"], "id -u; id -G", "")?;
    ensure!(
        ended.stdout == "65534\n65534\n",
        "ids: {:?} {}",
        ended.stdout,
        ended.stderr
    );
    let ended = shell(&["--user", "no-such-user"], "id -u", "")?;
    ensure!(
        ended.code() == 2,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    ensure!(
        ended.stderr.contains("no-such-user"),
        "not named: {}",
        ended.stderr
    );
    Ok(())
}

fn exit_code_tells_of_a_leak() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("report.json");
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    let client = fixtures::path("client")?;
    let mut program = tracer::start(&[
        "check",
        "--exit-code",
        "-o",
        "json",
        "--report",
        &file.to_string_lossy(),
        "--",
        &client.to_string_lossy(),
        "fetch",
        &address,
        "8",
        "100",
        "leak",
    ])?;
    program.line("DONE", seconds(60))?;
    program.close_stdin();
    let ended = program.end(seconds(60))?;
    let report = Report::read(&file)?;
    report.expect_verdict("leak")?;
    report.at("fetch_price")?;
    ensure!(
        ended.code() == 4,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    ensure!(
        ended.stdout == "READY\nDONE\n",
        "stdout: {:?}",
        ended.stdout
    );
    Ok(())
}

fn exit_code_of_a_clean_command_is_its_own() -> Result<()> {
    host::require_root()?;
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    let client = fixtures::path("client")?;
    let mut program = tracer::start(&[
        "check",
        "--exit-code",
        "--",
        "sh",
        "-c",
        "\"$0\" \"$@\"; exit 6",
        &client.to_string_lossy(),
        "fetch",
        &address,
        "10",
        "100",
        "close",
    ])?;
    program.line("DONE", seconds(60))?;
    program.close_stdin();
    let ended = program.end(seconds(60))?;
    ensure!(
        ended.code() == 6,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    Ok(())
}

fn interrupt_reaches_the_command() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("report.json");
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    let client = fixtures::path("client")?;
    let mut program = tracer::start(&[
        "check",
        "-o",
        "json",
        "--report",
        &file.to_string_lossy(),
        "--",
        &client.to_string_lossy(),
        "fetch",
        &address,
        "10",
        "1000",
        "leak",
    ])?;
    program.line("READY", seconds(60))?;
    program.signal(libc::SIGINT)?;
    let ended = program.end(seconds(60))?;
    ensure!(
        ended.code() == 130,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    Report::read(&file)?;
    Ok(())
}

fn broken_pipe_is_no_error() -> Result<()> {
    for arguments in [&["--help"][..], &["man"], &["completions", "bash"]] {
        let (reader, writer) = io::pipe()?;
        drop(reader);
        let ended = tracer::command(arguments)?.stdout(writer).output()?;
        let stderr = String::from_utf8_lossy(&ended.stderr);
        ensure!(
            ended.status.success(),
            "{arguments:?}: {} {stderr}",
            ended.status
        );
        ensure!(stderr.is_empty(), "{arguments:?}: {stderr}");
    }
    Ok(())
}

fn until_found_ends_when_it_is_certain() -> Result<()> {
    host::require_root()?;
    // built before the program begins to leak, or there is nothing left to see
    tracer::binary()?;
    let scene = scenes::client("client", "fetch", 8, 900, "leak")?;
    let pid = scene.pid().to_string();
    let words = [
        "check",
        "--pid",
        &pid,
        "-d",
        "20m",
        "--until-found",
        "-o",
        "json",
    ];
    let ended = tracer::run(&words, seconds(120))?;
    let report = Report::parse(&ended.stdout)?;
    ensure!(report.verdict() == "leak", "{report}");
    ensure!(report.only()?["confidence"] == "high", "{report}");
    Ok(())
}

/// Without privileges, and for every kind by the name that findings have.
fn kinds_are_explained() -> Result<()> {
    let list = tracer::run(&["explain"], seconds(10))?;
    ensure!(
        list.code() == 0 && list.stdout.lines().count() >= 9,
        "{}",
        list.stdout
    );
    for name in ["close_wait", "client_per_request"] {
        ensure!(list.stdout.contains(name), "{}", list.stdout);
        let one = tracer::run(&["explain", name], seconds(10))?;
        ensure!(one.code() == 0, "{}", one.stderr);
        ensure!(one.stdout.contains("Healthy"), "{}", one.stdout);
    }
    let unknown = tracer::run(&["explain", "nosuch"], seconds(10))?;
    ensure!(
        unknown.code() == 2 && unknown.stderr.contains("close_wait"),
        "{}",
        unknown.stderr
    );
    Ok(())
}
