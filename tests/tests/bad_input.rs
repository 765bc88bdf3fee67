//! Bad input gets an error that names what is wrong, the right exit status, and leaves nothing attached.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tracer_tests::{
    host::{self, seconds, tcp_states},
    program::{Ended, Program},
    tests,
    tracer::{self, Report},
    wait,
};

use crate::scenes;

tests![
    usage_errors,
    pid_that_does_not_exist,
    pid_that_ends_while_watched,
    cgroup_that_is_not_there,
    container_that_is_not_there,
    no_privilege,
    root_without_capabilities,
    command_without_privilege,
    kernel_without_btf,
    second_daemon_on_the_same_socket,
    damaged_configuration,
    unwritable_paths,
    interrupt_prints_what_was_seen,
    killed_check_leaves_nothing_attached,
    no_daemon_to_ask,
];

/// It ended with `status`, said nothing on standard output, and its message has all `words`.
fn refused(ended: &Ended, status: i32, words: &[&str]) -> Result<()> {
    ensure!(
        ended.code() == status,
        "status {}, not {status}: {}",
        ended.code(),
        ended.stderr
    );
    ensure!(ended.stdout.is_empty(), "stdout: {}", ended.stdout);
    for word in words {
        ensure!(
            ended.stderr.contains(word),
            "no {word:?} in: {}",
            ended.stderr
        );
    }
    ensure!(
        !ended.stderr.contains("panicked"),
        "a panic: {}",
        ended.stderr
    );
    Ok(())
}

fn usage_errors() -> Result<()> {
    for (arguments, word) in [
        (&["nonsense"][..], "nonsense"),
        (&["check", "--duration", "banana"], "banana"),
        (&["check", "--pid", "minus"], "minus"),
        (&["check", "-o", "xml"], "xml"),
        (&["check", "--user", "nobody"], "--user"),
        (&["check", "--pid", "1", "--", "true"], "--pid"),
        (&["top", "--sort-by", "colour"], "colour"),
    ] {
        refused(&tracer::run(arguments, seconds(30))?, 2, &[word])
            .with_context(|| format!("{arguments:?}"))?;
    }
    Ok(())
}

fn pid_that_does_not_exist() -> Result<()> {
    host::require_root()?;
    // Above the largest pid that any kernel gives.
    let ended = tracer::run(&["check", "--pid", "4194305", "-d", "5s"], seconds(60))?;
    refused(&ended, 2, &["4194305"])
}

fn pid_that_ends_while_watched() -> Result<()> {
    host::require_root()?;
    let scene = scenes::client("client", "fetch", 10, 1000, "leak")?;
    let pid = scene.pid().to_string();
    let mut check = tracer::start(&["check", "--pid", &pid, "-d", "1h", "-o", "json"])?;
    let programs = tracer::attached(&mut check)?;
    let held = tcp_states(scene.pid())?
        .get("ESTABLISHED")
        .copied()
        .unwrap_or(0);
    wait::until("twenty more leaked connections", seconds(20), || {
        let now = tcp_states(scene.pid())?
            .get("ESTABLISHED")
            .copied()
            .unwrap_or(0);
        Ok(now >= held + 20)
    })?;
    scene.program.signal(libc::SIGKILL)?;
    drop(scene);
    let ended = check.end(seconds(60))?;
    ensure!(
        ended.code() == 0,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    let report = Report::parse(&ended.stdout)?;
    ensure!(
        report.0["duration_seconds"]
            .as_f64()
            .is_some_and(|s| s < 3600.0),
        "{report}"
    );
    ensure!(
        ["leak", "inconclusive"].contains(&report.verdict()),
        "what was seen is lost: {report}"
    );
    tracer::detached(&programs)
}

fn cgroup_that_is_not_there() -> Result<()> {
    host::require_root()?;
    let path = "/sys/fs/cgroup/no-such-group";
    refused(
        &tracer::run(&["check", "--cgroup", path, "-d", "5s"], seconds(60))?,
        2,
        &[path],
    )
}

fn container_that_is_not_there() -> Result<()> {
    host::require_root()?;
    let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    refused(
        &tracer::run(&["check", "--container", id, "-d", "5s"], seconds(60))?,
        2,
        &[&id[..12]],
    )
}

/// A place where everybody can run the binary from.
fn public_binary() -> Result<(tempfile::TempDir, std::path::PathBuf)> {
    let directory = tempfile::Builder::new()
        .prefix("tracer-test-")
        .tempdir_in("/tmp")?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let path = directory.path().join("tracer");
    host::copy_program(tracer::binary()?, &path)?;
    Ok((directory, path))
}

fn no_privilege() -> Result<()> {
    host::require_root()?;
    let (_directory, binary) = public_binary()?;
    let mut target = Program::start(&mut Command::new("cat"))?;
    let mut command = Command::new(&binary);
    command
        .args(["check", "--pid", &target.pid().to_string(), "-d", "5s"])
        .uid(65534)
        .gid(65534);
    let ended = Program::start(&mut command)?.end(seconds(60))?;
    refused(&ended, 3, &["CAP_BPF"])?;
    ensure!(target.runs()?, "the target ended");
    Ok(())
}

fn root_without_capabilities() -> Result<()> {
    /// CAP_SYS_ADMIN and CAP_BPF (linux/capability.h).
    const BPF: &[u32] = &[21, 39];
    host::require_root()?;
    let target = Program::start(&mut Command::new("cat"))?;
    for dropped in [&[], BPF] {
        let pid = target.pid().to_string();
        let mut command = tracer::command(&["check", "--pid", &pid, "-d", "5s"])?;
        host::without_capabilities(&mut command, dropped);
        let ended = Program::start(&mut command)?.end(seconds(60))?;
        refused(&ended, 3, &["CAP_BPF"]).with_context(|| format!("without {dropped:?}"))?;
    }
    Ok(())
}

fn command_without_privilege() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let trace = directory.path().join("it-ran");
    let mut command = tracer::command(&["check", "--", "touch", &trace.to_string_lossy()])?;
    host::without_capabilities(&mut command, &[]);
    let ended = Program::start(&mut command)?.end(seconds(60))?;
    refused(&ended, 3, &["CAP_BPF"])?;
    ensure!(
        !trace.exists(),
        "the command ran, though it could not be watched"
    );
    Ok(())
}

fn kernel_without_btf() -> Result<()> {
    host::require_root()?;
    let target = Program::start(&mut Command::new("cat"))?;
    let pid = target.pid().to_string();
    let mut command = tracer::command(&["check", "--pid", &pid, "-d", "5s"])?;
    host::without_btf(&mut command);
    let ended = Program::start(&mut command)?.end(seconds(60))?;
    refused(&ended, 3, &["BTF", "--btf"])
}

fn second_daemon_on_the_same_socket() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let socket = directory
        .path()
        .join("tracer.sock")
        .to_string_lossy()
        .into_owned();
    let target = Program::start(&mut Command::new("cat"))?;
    let pid = target.pid().to_string();
    let arguments = ["daemon", "--pid", &pid, "--socket", &socket];
    let mut first = tracer::start(&arguments)?;
    wait::until("the first daemon", seconds(60), || {
        ensure!(first.runs()?, "it ended: {}", first.stderr());
        Ok(tracer_tests::http::get(&socket, "/readyz").is_ok_and(|answer| answer.status == 200))
    })?;
    let second = tracer::run(&arguments, seconds(60))?;
    refused(&second, 2, &[&socket])?;
    let answer = tracer_tests::http::get(&socket, "/healthz")?;
    ensure!(
        answer.status == 200,
        "the first daemon suffered: {}",
        answer.status
    );
    // A socket file that a killed daemon left behind is no obstacle.
    first.signal(libc::SIGKILL)?;
    first.end(seconds(20))?;
    let mut third = tracer::start(&arguments)?;
    wait::until("a daemon after a killed one", seconds(60), || {
        ensure!(third.runs()?, "it ended: {}", third.stderr());
        Ok(tracer_tests::http::get(&socket, "/readyz").is_ok_and(|answer| answer.status == 200))
    })
}

fn damaged_configuration() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("tracer.toml");
    let path = file.to_string_lossy();
    for (text, words) in [
        ("# fine so far\nlisten = \n", &["2"][..]),
        ("# fine so far\n\nlisten = 17.5\n", &["3", "listen"]),
        ("\n\n\nlissten = \"127.0.0.1:0\"\n", &["4", "lissten"]),
    ] {
        fs::write(&file, text)?;
        let ended = tracer::run(&["daemon", "--config", &path], seconds(30))?;
        refused(&ended, 2, &[&[&*path], words].concat()).with_context(|| text.to_owned())?;
    }
    let ended = tracer::run(&["daemon", "--config", "/no/such/file.toml"], seconds(30))?;
    refused(&ended, 2, &["/no/such/file.toml"])
}

fn unwritable_paths() -> Result<()> {
    host::require_root()?;
    let target = Program::start(&mut Command::new("cat"))?;
    let pid = target.pid().to_string();
    // Refused before the watch of an hour begins, not after it.
    for option in ["--report", "--save"] {
        let path = "/dev/null/report.json";
        let ended = tracer::run(
            &["check", "--pid", &pid, "-d", "1h", option, path],
            seconds(60),
        )?;
        refused(&ended, 2, &[path]).context(option)?;
    }
    let ended = tracer::run(
        &[
            "check",
            "--pid",
            &pid,
            "-d",
            "1h",
            "--baseline",
            "/no/such/baseline.json",
        ],
        seconds(60),
    )?;
    refused(&ended, 2, &["/no/such/baseline.json"])?;
    let socket = "/dev/null/tracer.sock";
    let ended = tracer::run(&["daemon", "--pid", &pid, "--socket", socket], seconds(60))?;
    refused(&ended, 2, &["/dev/null", "--socket"])
}

fn interrupt_prints_what_was_seen() -> Result<()> {
    host::require_root()?;
    let mut scene = scenes::client("client", "fetch", 10, 1000, "leak")?;
    let pid = scene.pid().to_string();
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut check = tracer::start(&["check", "--pid", &pid, "-d", "1h", "-o", "json"])?;
        let programs = tracer::attached(&mut check)?;
        let held = tcp_states(scene.pid())?
            .get("ESTABLISHED")
            .copied()
            .unwrap_or(0);
        wait::until("ten more leaked connections", seconds(20), || {
            let now = tcp_states(scene.pid())?
                .get("ESTABLISHED")
                .copied()
                .unwrap_or(0);
            Ok(now >= held + 10)
        })?;
        check.signal(signal)?;
        let ended = check.end(seconds(60))?;
        ensure!(
            ended.code() == 0,
            "signal {signal}: status {}: {}",
            ended.code(),
            ended.stderr
        );
        let report = Report::parse(&ended.stdout)?;
        ensure!(
            report.0["coverage"]["sockets_tracked"]
                .as_u64()
                .is_some_and(|n| n >= 10),
            "signal {signal}: what was seen is lost: {report}"
        );
        tracer::detached(&programs)?;
    }
    ensure!(
        scene.program.runs()?,
        "the watched program got the signal too"
    );
    Ok(())
}

fn killed_check_leaves_nothing_attached() -> Result<()> {
    host::require_root()?;
    let mut scene = scenes::client("client", "fetch", 10, 1000, "leak")?;
    let pid = scene.pid().to_string();
    let mut check = tracer::start(&["check", "--pid", &pid, "-d", "1h"])?;
    let programs = tracer::attached(&mut check)?;
    check.signal(libc::SIGKILL)?;
    ensure!(
        check.end(seconds(20))?.code() == 128 + libc::SIGKILL,
        "it was not killed"
    );
    tracer::detached(&programs)?;
    ensure!(scene.program.runs()?, "the watched program ended");
    Ok(())
}

fn no_daemon_to_ask() -> Result<()> {
    let endpoint = "/no/such/tracer.sock";
    for command in [&["top"][..], &["connections"], &["describe", "abcd"]] {
        let ended = tracer::run(&[command, &["--endpoint", endpoint]].concat(), seconds(30))?;
        refused(&ended, 1, &[endpoint]).with_context(|| format!("{command:?}"))?;
    }
    Ok(())
}
