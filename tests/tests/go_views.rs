//! Go programs that are not seen in the usual way: leaked before tracing, of an unknown or too old
//! version, with another HTTP/2 than the standard library's, or as a server.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tracer_tests::{
    go::{self, Variant},
    host,
    program::Program,
    tests, tracer, wait,
};

use crate::go::{Built, full, watch};

tests![
    leaked_before_tracing,
    leaked_before_and_during_tracing,
    unknown_and_too_old_versions,
    streams_of_the_x_net_module,
    in_another_mount_namespace,
    hijacked_and_forgotten_by_a_server,
    restarted_program_against_a_baseline,
];

pub const BODY: &str = "response_body_not_closed";

/// A client that runs by itself, and its server.
pub struct Running {
    pub client: Program,
    server: Program,
    _directory: tempfile::TempDir,
}

pub fn running(scenario: &str, n: &str) -> Result<Running> {
    host::require_root()?;
    // Before the program runs, which does so for a limited time.
    tracer::binary()?;
    let program = go::build("1.27.3", Variant::Stripped)?;
    let directory = tempfile::tempdir()?;
    let (server, addresses) = served(&program, directory.path())?;
    let (client, _) = Program::ready(
        &program,
        &[scenario, "-servers", &addresses, "-n", n, "-every", "250ms"],
    )?;
    Ok(Running {
        client,
        server,
        _directory: directory,
    })
}

fn served(program: &Path, directory: &Path) -> Result<(Program, String)> {
    Program::ready(program, &["serve", "-dir", &directory.to_string_lossy()])
}

/// Whether the call site is the line marked so.
pub fn at_mark(finding: &Value, mark: &str) -> Result<bool> {
    let site = &finding["call_site"];
    Ok(go::marked(mark)?
        .iter()
        .any(|(file, line)| site["file"].as_str() == file.to_str() && site["line"] == *line))
}

fn url(finding: &Value) -> &str {
    finding["remote"]["url"].as_str().unwrap_or("")
}

fn leaked_before_tracing() -> Result<()> {
    let mut running = running("body-http", "12")?;
    running.client.line("DONE", Duration::from_secs(20))?;
    // The kernel keeps no date of birth for sockets, so only patience proves a standing stock.
    let report = tracer::check(running.client.pid(), 40)?.report()?;
    let finding = report.only()?;
    ensure!(finding["kind"] == BODY, "{report}");
    ensure!(finding["connections"]["open"] == 12, "{report}");
    ensure!(finding["call_site"].is_null(), "{report}");
    ensure!(finding["stack_quality"] == "none", "{report}");
    ensure!(
        url(finding).ends_with("/v2/app/tags/list?token=…"),
        "{report}"
    );
    Ok(())
}

fn leaked_before_and_during_tracing() -> Result<()> {
    let running = running("body-http", "200")?;
    let pid = running.client.pid();
    wait::until("ten connections", Duration::from_secs(20), || {
        Ok(host::socket_inodes(pid)?.len() >= 10)
    })?;
    let report = tracer::check(pid, 20)?.report()?;
    let finding = report.only()?;
    ensure!(finding["kind"] == BODY, "{report}");
    ensure!(at_mark(finding, "LEAK body-http")?, "{report}");
    // Four a second while it was watched, and those from before.
    ensure!(
        finding["connections"]["open"].as_u64() >= Some(60),
        "{report}"
    );
    Ok(())
}

/// A version that nobody has seen yet is read by its DWARF or as the newest; one that is too old
/// is left to the kernel's view. Each finding says so.
fn unknown_and_too_old_versions() -> Result<()> {
    let program = |title: &str, version: &str, path| Built {
        title: title.to_owned(),
        version: version.to_owned(),
        path,
    };
    let mut programs = vec![
        program(
            "unknown, stripped",
            "1.99.3",
            go::build_as_if("1.27.3", Variant::Stripped, "1.99.3")?,
        ),
        program(
            "unknown, with DWARF",
            "1.99.3",
            go::build_as_if("1.27.3", Variant::Plain, "1.99.3")?,
        ),
        program(
            "said to be too old",
            "1.20.3",
            go::build_as_if("1.27.3", Variant::Pie, "1.20.3")?,
        ),
    ];
    if full() {
        programs.push(program(
            "Debian's 1.19",
            "1.19.8",
            go::build(go::TOO_OLD, Variant::Stripped)?,
        ));
    }
    let scenarios = ["body-http", "body-https", "raw-dial", "h2-stream", "pool"];
    let (report, findings) = watch(&programs, &scenarios)?;
    let mut wrong = Vec::new();
    for (number, (program, found)) in programs.iter().zip(&findings).enumerate() {
        for (scenario, found) in found {
            let fits = match number {
                0 => as_known(scenario, found, "newest")?,
                1 => as_known(scenario, found, "dwarf")?,
                _ => by_the_kernel(scenario, found)?,
            };
            let what: Vec<&str> = found.iter().filter_map(|f| f["kind"].as_str()).collect();
            println!(
                "{:20} {scenario:12} {:5} {what:?}",
                program.title,
                if fits { "ok" } else { "WRONG" }
            );
            if !fits {
                println!("{found:#?}");
                wrong.push(format!("{} {scenario}", program.title));
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong:?}");
    let degraded = report.0["coverage"]["degraded"].to_string();
    ensure!(
        degraded.contains("go1.20.3 is older than Go 1.21"),
        "{degraded}"
    );
    Ok(())
}

/// As for a version that is known, and the finding says where the offsets came from.
fn as_known(scenario: &str, found: &[Value], from: &str) -> Result<bool> {
    let (kind, end) = match scenario {
        "body-http" => (BODY, "/v2/app/tags/list?token=…"),
        "body-https" => (BODY, "/v2/app/manifests/latest"),
        "h2-stream" => (BODY, "/v2/watch"),
        "raw-dial" => ("never_closed", ""),
        _ => return Ok(found.is_empty()),
    };
    let [finding] = found else {
        return Ok(false);
    };
    let go = &finding["go"];
    let said = go["offsets_from"] == from
        && go["view"] == "pools"
        && go["notes"].to_string().contains("is not known");
    Ok(finding["kind"] == kind
        && at_mark(finding, &format!("LEAK {scenario}"))?
        && url(finding).ends_with(end)
        && (said || (scenario == "raw-dial" && go.is_null())))
}

/// What the kernel alone can tell: never a URL that it has not seen itself.
fn by_the_kernel(scenario: &str, found: &[Value]) -> Result<bool> {
    if matches!(scenario, "pool" | "h2-stream") {
        // One connection, which is in use all the time.
        return Ok(found.is_empty());
    }
    let [finding] = found else {
        return Ok(false);
    };
    let go = &finding["go"];
    let said = go["view"] == "kernel" && go["notes"].to_string().contains("were not asked");
    let right = match scenario {
        "raw-dial" => finding["kind"] == "never_closed" && at_mark(finding, "LEAK raw-dial")?,
        // Go dials on a goroutine of its own, so no line of the program is on the stack.
        "body-http" => {
            finding["kind"] == "response_not_read"
                && url(finding).ends_with("/v2/app/tags/list?token=…")
        }
        _ => url(finding).is_empty() && finding["kind"] != BODY,
    };
    Ok(right && said)
}

/// `golang.org/x/net/http2` has streams of its own, in functions of other names.
fn streams_of_the_x_net_module() -> Result<()> {
    host::require_root()?;
    let program = go::build_with_x_net("1.27.3")?;
    let directory = tempfile::tempdir()?;
    let (_server, addresses) = served(&go::build("1.27.3", Variant::Stripped)?, directory.path())?;
    let addresses: Value = serde_json::from_str(&addresses)?;
    let h2 = addresses["h2"].as_str().context("no address")?;
    let mut clients = Vec::new();
    for (mode, path) in [("leak", "/v2/watch"), ("close", "/small")] {
        let (client, _) = Program::ready(&program, &[mode, &format!("https://{h2}{path}")])?;
        clients.push(client);
    }
    let pids: Vec<String> = clients.iter().map(|c| c.pid().to_string()).collect();
    let [leaky, healthy] = &pids[..] else {
        bail!("two clients");
    };
    let arguments = [
        "check",
        "-o",
        "json",
        "--duration",
        "20s",
        "--pid",
        leaky,
        "--pid",
        healthy,
    ];
    let mut check = tracer::start(&arguments)?;
    tracer::attached(&mut check)?;
    for client in &mut clients {
        client.write("go\n")?;
    }
    let ended = check.end(Duration::from_secs(80))?;
    let report = tracer::Report::parse(&ended.stdout).with_context(|| ended.stderr.clone())?;
    let finding = report.only()?;
    ensure!(finding["process"]["pid"] == clients[0].pid(), "{report}");
    ensure!(finding["kind"] == BODY, "{report}");
    ensure!(at_mark(finding, "LEAK x-net")?, "{report}");
    ensure!(url(finding) == format!("https://{h2}/v2/watch"), "{report}");
    Ok(())
}

/// As in a container: no path of the host leads to the executable.
fn in_another_mount_namespace() -> Result<()> {
    host::require_root()?;
    tracer::binary()?;
    let program = go::build("1.27.3", Variant::Stripped)?;
    let directory = tempfile::tempdir()?;
    let (_server, addresses) = served(&program, directory.path())?;
    let hidden = directory.path().join("hidden");
    std::fs::create_dir(&hidden)?;
    let place = hidden.display();
    let script = format!(
        "mount -t tmpfs none {place} && cp {} {place}/client && \
         exec {place}/client body-http -wait -n 200 -every 250ms -servers '{addresses}'",
        program.display()
    );
    let mut client = Program::start(
        std::process::Command::new("unshare").args(["--mount", "sh", "-c", &script]),
    )?;
    client.line("READY", Duration::from_secs(20))?;
    ensure!(!hidden.join("client").exists(), "it is not hidden");
    let pid = client.pid().to_string();
    let mut check = tracer::start(&["check", "-o", "json", "--duration", "20s", "--pid", &pid])?;
    tracer::attached(&mut check)?;
    client.write("go\n")?;
    let ended = check.end(Duration::from_secs(80))?;
    let report = tracer::Report::parse(&ended.stdout).with_context(|| ended.stderr.clone())?;
    let finding = report.only()?;
    ensure!(finding["kind"] == BODY, "{report}");
    ensure!(at_mark(finding, "LEAK body-http")?, "{report}");
    ensure!(finding["go"]["view"] == "pools", "{report}");
    ensure!(
        url(finding).ends_with("/v2/app/tags/list?token=…"),
        "{report}"
    );
    Ok(())
}

/// The server's own states: what a handler hijacked is its own to close.
fn hijacked_and_forgotten_by_a_server() -> Result<()> {
    let running = running("hijacked", "200")?;
    let report = tracer::check(running.server.pid(), 25)?.report()?;
    let finding = report.only()?;
    ensure!(finding["kind"] == "accepted_never_closed", "{report}");
    ensure!(finding["role"] == "server", "{report}");
    ensure!(
        finding["go"]["states"]["hijacked"].as_u64() > Some(20),
        "{report}"
    );
    ensure!(
        finding["go"]["notes"]
            .to_string()
            .contains("handler's to close"),
        "{report}"
    );
    Ok(())
}

/// A leak has the same id in another process of the program, whose addresses are others; one that
/// was not there before is new.
fn restarted_program_against_a_baseline() -> Result<()> {
    host::require_root()?;
    tracer::binary()?;
    let program = go::build("1.27.3", Variant::Pie)?;
    let directory = tempfile::tempdir()?;
    let (_server, addresses) = served(&program, directory.path())?;
    let saved = directory.path().join("saved.json");
    let saved = saved.to_string_lossy();
    let watch = |scenarios: &[&str], option: &str| -> Result<tracer::Report> {
        let mut clients = Vec::new();
        let mut arguments: Vec<String> = ["check", "-o", "json", "-d", "16s", option, &saved]
            .map(str::to_owned)
            .to_vec();
        for scenario in scenarios {
            let line = [scenario, "-wait", "-servers", &addresses, "-n", "200"];
            let (client, _) =
                Program::ready(&program, &[&line[..], &["-every", "250ms"]].concat())?;
            arguments.extend(["--pid".to_owned(), client.pid().to_string()]);
            clients.push(client);
        }
        let mut check = tracer::start(&arguments)?;
        tracer::attached(&mut check)?;
        for client in &mut clients {
            client.write("go\n")?;
        }
        let ended = check.end(Duration::from_secs(80))?;
        tracer::Report::parse(&ended.stdout).with_context(|| ended.stderr.clone())
    };
    let first = watch(&["body-http"], "--save")?;
    let id = first.only()?["id"].clone();
    let second = watch(&["body-http", "helper"], "--baseline")?;
    let compared = &second.0["baseline"];
    let new = second.findings().iter().find(|f| f["id"] != id);
    let new = new.with_context(|| format!("nothing new: {second}"))?;
    ensure!(at_mark(new, "LEAK helper")?, "{second}");
    ensure!(
        compared["new"] == serde_json::json!([new["id"]]),
        "{second}"
    );
    ensure!(compared["gone"] == serde_json::json!([]), "{second}");
    ensure!(second.findings().len() == 2, "{second}");
    Ok(())
}
