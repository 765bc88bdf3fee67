//! What programs send may be secret: of userinfo, query values, tokens in paths, headers and bodies
//! nothing is in any output, file, log, metric or pinned map.

use std::{fs, os::unix::fs::FileExt, path::Path, process::Command, thread};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tracer_tests::{
    daemon::Daemon,
    fixtures,
    host::{self, seconds},
    languages, pinned,
    program::Program,
    tests, tracer, wait,
};

use crate::{bpffs::BpfFs, names, scenes};

tests![
    no_report_and_no_file_tells_a_secret,
    no_daemon_and_no_pin_tells_a_secret,
    without_examples_no_memory_has_a_secret,
    nor_what_was_hidden_in_tls_and_first_messages,
    only_reports_have_examples,
    no_first_message_tells_a_secret,
];

/// Bytes of a secret in a row that nobody may see.
const TELLING: usize = 8;
/// Seconds that are watched.
const WATCH: u64 = 12;

/// A program with a secret, and its server.
struct Canary {
    program: Program,
    secret: String,
    _server: Program,
}

impl Canary {
    fn start() -> Result<Canary> {
        host::require_root()?;
        let (interpreter, path) = fixtures::python("canary.py")?;
        let (server, address) = scenes::server("http", "127.0.0.1:0")?;
        let mut command = Command::new(interpreter);
        command.arg(path).args([&*address, "5", "900", "leak"]);
        let mut program = Program::start(&mut command)?;
        let secret = secret()?;
        program.write(&format!("{secret}\n"))?;
        program.line("READY", seconds(20))?;
        Ok(Canary {
            program,
            secret,
            _server: server,
        })
    }

    /// Holds that nothing of the secret is in what `what` names.
    fn unseen(&self, what: &str, bytes: &[u8]) -> Result<()> {
        unseen(&self.secret, what, bytes)
    }
}

fn unseen(secret: &str, what: &str, bytes: &[u8]) -> Result<()> {
    for part in secret.as_bytes().windows(TELLING) {
        let found = bytes.windows(TELLING).position(|window| window == part);
        if let Some(at) = found {
            let around = &bytes[at.saturating_sub(60)..(at + 60).min(bytes.len())];
            let around = String::from_utf8_lossy(around);
            anyhow::bail!("{what} has `{secret}`: …{around}…");
        }
    }
    Ok(())
}

/// 24 letters and digits that nobody can guess.
fn secret() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let letters: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    Ok(letters.get(..24).context("a UUID")?.to_owned())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn no_report_and_no_file_tells_a_secret() -> Result<()> {
    let canary = Canary::start()?;
    let pid = canary.program.pid().to_string();
    let directory = TempDir::new()?;
    let [baseline, recording] = ["base.json", "canary.rec"].map(|name| directory.path().join(name));
    let (saved, recorded) = (text(&baseline), text(&recording));
    let time = format!("{}s", seconds(WATCH).as_secs());
    // one after the other watches the same, so side by side
    let forms: [&[&str]; 4] = [
        &["check", "-o", "json", "--save", &saved],
        &["check", "--verbose"],
        &["check", "--no-examples", "-o", "json"],
        &["record", &recorded, "--all-frames", "--full-paths"],
    ];
    let mut running = Vec::new();
    for form in forms {
        let mut command = tracer::command(&[form, &["--pid", &pid, "-d", &time]].concat())?;
        running.push(Program::start(command.env("TRACER_LOG", "debug"))?);
    }
    let mut id = None;
    for (form, program) in forms.iter().zip(running) {
        let ended = program.end(seconds(WATCH + 60))?;
        ensure!(ended.code() == 0, "{form:?}: {}", ended.stderr);
        ensure!(
            ended.stdout.contains("call_with_secret"),
            "{form:?}: {}",
            ended.stdout
        );
        let what = form.join(" ");
        canary.unseen(&what, ended.stdout.as_bytes())?;
        canary.unseen(&what, ended.stderr.as_bytes())?;
        if form.contains(&"json") {
            let report = tracer::Report::parse(&ended.stdout)?;
            report.expect_verdict("leak")?;
            let finding = report.only()?.clone();
            let examples = finding["remote"]["examples"]
                .as_array()
                .context("examples")?;
            let wanted = !form.contains(&"--no-examples");
            ensure!(examples.is_empty() != wanted, "{form:?}: {finding:#}");
            let url = finding["remote"]["url"].as_str().context("a URL")?;
            ensure!(url.ends_with("/v1/keys/{}/items/{}?token=…"), "{url}");
            id = finding["id"].as_str().map(str::to_owned);
        }
    }
    canary.unseen("the baseline", &fs::read(&baseline)?)?;
    canary.unseen("the recording", &fs::read(&recording)?)?;
    let id = id.context("no finding")?;
    for arguments in [
        &["describe", &id, "--markdown", "--from", &recorded][..],
        &["describe", &id, "-o", "json", "--from", &recorded],
        &["replay", &recorded, "-o", "json"],
    ] {
        let ended = tracer::run(arguments, seconds(60))?;
        ensure!(ended.code() == 0, "{arguments:?}: {}", ended.stderr);
        canary.unseen(&arguments.join(" "), ended.stdout.as_bytes())?;
    }
    Ok(())
}

fn no_daemon_and_no_pin_tells_a_secret() -> Result<()> {
    let bpffs = BpfFs::mount()?;
    let canary = Canary::start()?;
    let daemon = bpffs.daemon_with(canary.program.pid(), &[], |command| {
        command.env("TRACER_LOG", "debug");
    })?;
    let id = wait::for_value("the leak to be found", seconds(60), || {
        let report = daemon.report()?;
        if report.verdict() != "leak" {
            return Ok(None);
        }
        Ok(report.only()?["id"].as_str().map(str::to_owned))
    })?;
    for arguments in [
        &["top"][..],
        &["top", "-o", "wide"],
        &["top", "-o", "json"],
        &["top", "-o", "jsonl"],
        &["top", "-o", "csv"],
        &["describe", &id],
        &["describe", &id, "--markdown"],
        &["describe", &id, "-o", "json"],
        &["connections"],
        &["connections", "-o", "json"],
        &["connections", "-o", "csv"],
        &["doctor", "-o", "json"],
    ] {
        let ended = tracer::run(
            &[arguments, &["--endpoint", daemon.socket()]].concat(),
            seconds(60),
        )?;
        ensure!(ended.code() == 0, "{arguments:?}: {}", ended.stderr);
        canary.unseen(&arguments.join(" "), ended.stdout.as_bytes())?;
    }
    canary.unseen("metrics", daemon.metrics()?.as_bytes())?;
    // what came last is taken in, saved, and let go of; the program asks for nothing meanwhile
    canary.program.signal(libc::SIGSTOP)?;
    thread::sleep(seconds(10));
    let maps = pinned::contents(&bpffs.outside())?;
    canary.program.signal(libc::SIGCONT)?;
    ensure!(maps.len() > 5, "{} pinned maps", maps.len());
    for (name, bytes) in &maps {
        canary.unseen(name, bytes)?;
    }
    canary.unseen("the log", daemon.program.stderr().as_bytes())
}

/// What the daemon read of requests is gone from its memory, from what it gave back and from its
/// stacks. Mapped rings are the kernel's, and no part of this.
fn without_examples_no_memory_has_a_secret() -> Result<()> {
    let canary = Canary::start()?;
    let daemon = Daemon::start(&[canary.program.pid()], &["--no-examples"])?;
    wait::until("the leak to be found", seconds(60), || {
        Ok(daemon.report()?.verdict() == "leak")
    })?;
    no_memory_has(&daemon, &canary.secret, &[&canary.program])
}

/// Holds that nothing of the secret is in the memory of a daemon, which has the route of the requests.
/// The programs ask for nothing meanwhile.
fn no_memory_has(daemon: &Daemon, secret: &str, programs: &[&Program]) -> Result<()> {
    let signal = |signal| {
        programs
            .iter()
            .try_for_each(|program| program.signal(signal))
    };
    signal(libc::SIGSTOP)?;
    thread::sleep(seconds(10));
    let memory = anonymous_memory(daemon.program.pid())?;
    signal(libc::SIGCONT)?;
    let bytes: usize = memory.iter().map(|(_, bytes)| bytes.len()).sum();
    ensure!(bytes > 1 << 20, "{bytes} bytes of memory");
    let route = b"/v1/keys/{}/items/{}";
    let known = |(_, bytes): &(String, Vec<u8>)| bytes.windows(route.len()).any(|w| w == route);
    ensure!(memory.iter().any(known), "the route is in no memory");
    memory
        .iter()
        .try_for_each(|(range, bytes)| unseen(secret, range, bytes))
}

/// The same of requests inside TLS, of fields of HTTP/2 inside TLS and in the clear, of user and
/// password of databases, and of what a DNS server tells beside addresses.
fn nor_what_was_hidden_in_tls_and_first_messages() -> Result<()> {
    host::require_root()?;
    let directory = TempDir::new()?;
    let [key, certificate] = ["key", "cert"].map(|name| directory.path().join(name));
    languages::run(
        Command::new(host::tool("openssl")?)
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args(["-subj", "/CN=shop.test", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    )?;
    let script = languages::source("python/hidden.py");
    let python = languages::python_with_packages()?;
    let (mut hidden, _) = Program::ready(&python, &[script, certificate, key])?;
    let mut databases = names::protocols()?;
    let (interpreter, path) = fixtures::python("resolves.py")?;
    let mut resolves = Program::start(Command::new(interpreter).arg(path))?;
    resolves.line("READY", seconds(20))?;
    let pids = [hidden.pid(), databases.pid(), resolves.pid()];
    let daemon = Daemon::start(&pids, &["--no-examples"])?;
    let secret = secret()?;
    for program in [&mut hidden, &mut resolves] {
        program.write(&format!("{secret}\n"))?;
    }
    names::open(&mut databases, &secret)?;
    resolves.line("OPEN", seconds(20))?;
    let ports = hidden.line("OPEN", seconds(20))?;
    let ports: Vec<&str> = ports
        .trim_start_matches("OPEN")
        .split_whitespace()
        .collect();
    let mut rows = Vec::new();
    let named = wait::until("all connections to be named", seconds(60), || {
        rows = daemon.connections(1000)?.0;
        let has_url = |port: &&str| {
            let remote = format!("127.0.0.1:{port}");
            let of = |row: &&Value| row["role"] == "client" && row["remote"] == remote;
            let url = rows.iter().find(of).and_then(|row| row["url"].as_str());
            url.is_some_and(|url| url.contains("/v1/keys/"))
        };
        let heard = rows
            .iter()
            .filter(|row| row["named_by"] == "protocol")
            .count();
        Ok(ports.iter().all(has_url) && heard > 10)
    });
    ensure!(named.is_ok() && ports.len() == 3, "{ports:?}: {rows:#?}");
    unseen(&secret, "connections", format!("{rows:?}").as_bytes())?;
    unseen(
        &secret,
        "the report",
        daemon.report()?.0.to_string().as_bytes(),
    )?;
    unseen(&secret, "metrics", daemon.metrics()?.as_bytes())?;
    no_memory_has(&daemon, &secret, &[&hidden, &databases, &resolves])
}

/// What is mapped of no file, by its range.
fn anonymous_memory(pid: u32) -> Result<Vec<(String, Vec<u8>)>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    let mut found = Vec::new();
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [range, permissions, _, _, inode, name @ ..] = &*words else {
            continue;
        };
        let special = name.first().is_some_and(|name| name.starts_with("[v"));
        if !permissions.starts_with("rw") || *inode != "0" || special {
            continue;
        }
        let (from, to) = range.split_once('-').context("a range")?;
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16));
        let (from, to) = (from?, to?);
        let mut bytes = vec![0; usize::try_from(to - from)?];
        // pages that were never touched read as zeros; what ended meanwhile is not read
        if memory.read_exact_at(&mut bytes, from).is_ok() {
            found.push((line.to_owned(), bytes));
        }
    }
    Ok(found)
}

/// The words of a path may be a secret that nobody can tell from a name: what outlives a watch has
/// none but those that all requests have.
fn only_reports_have_examples() -> Result<()> {
    let bpffs = BpfFs::mount()?;
    let scene = scenes::python("words.py", "http", 10, 900, "leak")?;
    let program = &scene.program;
    let pid = program.pid();
    let directory = TempDir::new()?;
    let saved = text(&directory.path().join("base.json"));
    let time = format!("{}s", seconds(WATCH).as_secs());
    let pid_text = pid.to_string();
    let arguments = [
        "check", "--save", &saved, "-o", "json", "-d", &time, "--pid", &pid_text,
    ];
    let check = tracer::start(&arguments)?;
    let daemon = bpffs.daemon(pid, &[])?;
    let words = ["lemon", "tulip", "amber", "cedar"];
    let has = |text: &str| words.iter().any(|word| text.contains(word));
    wait::until("the leak with its examples", seconds(60), || {
        let report = daemon.report()?;
        Ok(report.verdict() == "leak" && has(&report.0.to_string()))
    })?;
    let ended = check.end(seconds(WATCH + 60))?;
    ensure!(has(&ended.stdout), "{}", ended.stdout);
    let kept = fs::read_to_string(&saved)?;
    ensure!(kept.contains("/covers/{}") && !has(&kept), "{kept}");
    program.signal(libc::SIGSTOP)?;
    thread::sleep(seconds(10));
    let maps = pinned::contents(&bpffs.outside())?;
    program.signal(libc::SIGCONT)?;
    for (name, bytes) in &maps {
        let text = String::from_utf8_lossy(bytes);
        let at = words.iter().find_map(|word| text.find(word));
        let around = at.map(|at| text[at.saturating_sub(200)..].chars().take(300).collect());
        let around: String = around.unwrap_or_default();
        ensure!(!has(&text), "{name} has words of paths: {around}");
    }
    Ok(())
}

/// Who logs in to a database, and with what, is nowhere; which database, is.
fn no_first_message_tells_a_secret() -> Result<()> {
    let bpffs = BpfFs::mount()?;
    let mut program = names::protocols()?;
    let secret = secret()?;
    let daemon = bpffs.daemon_with(program.pid(), &[], |command| {
        command.env("TRACER_LOG", "debug");
    })?;
    let opened = names::open(&mut program, &secret)?;
    let mut rows = Vec::new();
    wait::until("all connections to be named", seconds(20), || {
        rows = daemon.connections(1000)?.0;
        Ok(names::misnamed(&rows, &opened).is_none())
    })?;
    for row in &rows {
        unseen(&secret, "connections", row.to_string().as_bytes())?;
    }
    let report = daemon.report()?;
    unseen(&secret, "the report", report.0.to_string().as_bytes())?;
    unseen(&secret, "metrics", daemon.metrics()?.as_bytes())?;
    thread::sleep(seconds(10));
    let maps = pinned::contents(&bpffs.outside())?;
    ensure!(maps.len() > 5, "{} pinned maps", maps.len());
    for (name, bytes) in &maps {
        unseen(&secret, name, bytes)?;
    }
    unseen(&secret, "the log", daemon.program.stderr().as_bytes())
}
