//! What users can do for better call sites: rules of their own, debug information kept elsewhere,
//! and names of compiled code that a JVM is asked for.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tracer_tests::{
    fixtures::{self, line_of},
    host,
    languages::Server,
    program::Program,
    runner::NotApplicable,
    tests,
    tracer::{self, Report},
};

use crate::scenes;

tests![rules_and_split_debug_information, a_jvm_is_asked_for_names];

const CLIENT: &str = include_str!("../fixtures/c/client.c");
/// Seconds that a check watches.
const WATCH: u64 = 15;

fn rules_and_split_debug_information() -> Result<()> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    let arguments = |mode| [mode, &*address, "8", "800", "leak"];
    let client = fixtures::path("client-o2")?;
    let stripped = directory.path().join("stripped");
    let debug = directory.path().join("debug");
    split(&client, &stripped, &debug)?;
    let (ruled, _) = Program::ready(client, &arguments("idle"))?;
    let (split, _) = Program::ready(stripped, &arguments("fetch"))?;
    let config = directory.path().join("tracer.toml");
    fs::write(
        &config,
        format!(
            "debug_directories = [{debug:?}]\n\
             [[rule]]\nis = \"client\"\nfunction = [\"open_ses*\"]\n"
        ),
    )?;
    let config = config.to_string_lossy();
    let report = watch(&["--config", &config], &[&ruled, &split])?;

    let finding = of(&report, &ruled)?;
    ensure!(
        finding["call_site"]["function"] == "main",
        "a rule that makes open_session a library's function is not followed: {finding:#}"
    );
    ensure!(
        finding["stack"].to_string().contains("open_session"),
        "and yet it belongs to the stack: {finding:#}"
    );
    let finding = of(&report, &split)?;
    let site = &finding["call_site"];
    ensure!(
        site["function"] == "fetch_price" && site["line"] == line_of(CLIENT, "fetch_price")?,
        "the split debug information is not used: {finding:#}"
    );
    Ok(())
}

/// Separates a program from its debug information, which goes where its build id says.
fn split(program: &Path, stripped: &Path, debug: &Path) -> Result<()> {
    let note = stripped.with_extension("note");
    let run = |command: &mut Command| -> Result<()> {
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?}: {said}");
        Ok(())
    };
    let dump = format!(".note.gnu.build-id={}", note.display());
    let scrap = stripped.with_extension("scrap");
    run(Command::new(host::tool("objcopy")?)
        .args(["--dump-section", &dump])
        .args([program, &scrap]))?;
    // Three numbers of 32 bits and the name "GNU", then the id.
    let id: String = fs::read(note)?
        .iter()
        .skip(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (first, rest) = id.split_at_checked(2).context("no build id")?;
    let place = debug.join(".build-id").join(first);
    fs::create_dir_all(&place)?;
    run(Command::new(host::tool("objcopy")?)
        .arg("--only-keep-debug")
        .arg(program)
        .arg(place.join(format!("{rest}.debug"))))?;
    run(Command::new(host::tool("strip")?)
        .arg("--strip-all")
        .arg("-o")
        .args([stripped, program]))
}

/// Nobody calls `jcmd`: the check itself asks the program.
fn a_jvm_is_asked_for_names() -> Result<()> {
    host::require_root()?;
    if std::env::var_os("TRACER_TEST_FULL").is_none() {
        bail!(NotApplicable("Java is part of the full run".to_owned()));
    }
    let server = Server::start()?;
    let java = server.java("url", true)?;
    let report = watch(&["--ask-jvms"], &[&java])?;
    // It stays behind when a program ends.
    let map = format!("/tmp/perf-{}.map", java.pid());
    ensure!(fs::remove_file(&map).is_ok(), "no {map}: {report}");
    let finding = of(&report, &java)?;
    ensure!(
        finding["call_site"]["function"]
            .as_str()
            .is_some_and(|function| function.ends_with("Clients.loadRates")),
        "the call site is not Clients.loadRates: {finding:#}\n{}",
        report.0["coverage"]
    );
    let left = format!("/tmp/.attach_pid{}", java.pid());
    ensure!(!Path::new(&left).exists(), "{left} was left behind");
    Ok(())
}

fn watch(options: &[&str], programs: &[&Program]) -> Result<Report> {
    let duration = format!("{}s", host::seconds(WATCH).as_secs());
    let pids: Vec<String> = programs.iter().map(|p| p.pid().to_string()).collect();
    let mut command = vec!["check", "-o", "json", "--duration", &duration];
    command.extend(options);
    command.extend(pids.iter().flat_map(|pid| ["--pid", pid]));
    let ended = tracer::run(&command, host::seconds(WATCH + 60))?;
    Report::parse(&ended.stdout).with_context(|| ended.stderr.clone())
}

/// The finding of which this program is an instance.
fn of<'a>(report: &'a Report, program: &Program) -> Result<&'a Value> {
    let found = report.findings().iter().find(|finding| {
        let instances = finding["instances"].as_array();
        instances.is_some_and(|all| all.iter().any(|i| i["pid"] == program.pid()))
    });
    found.with_context(|| format!("no finding: {report}"))
}
