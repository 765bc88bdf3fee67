//! What can happen to a socket, one by one: each ends up in `tracer connections` as it truly is, with its
//! opener, its holder, its descriptor and its state, or not at all.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tracer_tests::{
    fixtures,
    host::{self, seconds, socket_inodes},
    http,
    program::Program,
    tests,
    tracer::{self, Hooks},
    wait,
};

use crate::scenes;

tests![
    scenarios_are_what_they_say,
    closed_in_every_way,
    held_by_its_opener,
    held_by_somebody_else,
    states_of_tcp,
    families_and_roles,
    namespaces,
    reused_numbers,
    mptcp_is_not_misreported,
    refused_connects_are_counted,
    timed_out_connects_are_counted,
    exhausted_ports_are_counted,
];

// Held with each backend: all at once, because attaching is what takes its time.
tests![BY_BACKEND: everything_that_happens];

fn everything_that_happens() -> Result<()> {
    hold(&[CLOSED, OWN, PASSED, STATES, FAMILIES, NAMESPACES, REUSED])
}

/// A scenario and what is expected of it.
struct Case {
    /// Its name in the fixture.
    name: &'static str,
    /// Mode of the server and where it listens.
    server: (&'static str, &'static str),
    /// States of the rows that belong to it, in the order of their names.
    states: &'static [&'static str],
}

/// A case with one established connection to the HTTP server.
const fn held(name: &'static str) -> Case {
    Case {
        name,
        server: ("http", "127.0.0.1:0"),
        states: &["ESTABLISHED"],
    }
}

/// A case that leaves nothing open.
const fn gone(name: &'static str) -> Case {
    Case {
        states: &[],
        ..held(name)
    }
}

const CLOSED: &[Case] = &[
    gone("closed"),
    gone("dup_both_closed"),
    gone("exec_closes"),
    gone("reset_by_us"),
    gone("killed_holder"),
];

const OWN: &[Case] = &[
    held("plain"),
    held("earlier"),
    held("dup_one_closed"),
    held("moved_by_dup2"),
    held("fork_child_exits"),
    held("exec_keeps"),
    held("nonblocking"),
    held("thread_that_ends"),
    held("uring"),
];

const PASSED: &[Case] = &[
    held("fork_child_holds"),
    held("vfork_child_holds"),
    held("passed_to_child"),
    held("passed_on_its_way"),
];

const STATES: &[Case] = &[
    Case {
        server: ("keep", "127.0.0.1:0"),
        states: &["FIN_WAIT2"],
        ..held("shutdown_only")
    },
    Case {
        server: ("keep", "127.0.0.1:0"),
        states: &["FIN_WAIT2"],
        ..held("shutdown_both")
    },
    Case {
        states: &["CLOSE_WAIT", "FIN_WAIT2"],
        ..held("half_closed")
    },
    Case {
        server: ("once", "127.0.0.1:0"),
        states: &["CLOSE_WAIT"],
        ..held("peer_closed")
    },
    Case {
        server: ("reset", "127.0.0.1:0"),
        states: &["CLOSE"],
        ..held("peer_reset")
    },
    Case {
        states: &["ESTABLISHED", "SYN_SENT"],
        ..held("pending")
    },
];

const FAMILIES: &[Case] = &[
    Case {
        server: ("http", "[::1]:0"),
        ..held("plain")
    },
    Case {
        server: ("http", "unix:PATH"),
        states: &["connected"],
        ..held("plain")
    },
    Case {
        server: ("http", "unix:@NAME"),
        states: &["connected"],
        ..held("plain")
    },
    Case {
        states: &["connected", "connected"],
        ..held("pair")
    },
    Case {
        states: &["ESTABLISHED", "ESTABLISHED"],
        ..held("accepts")
    },
];

const NAMESPACES: &[Case] = &[
    held("pid_namespace"),
    Case {
        states: &["ESTABLISHED", "ESTABLISHED"],
        ..held("net_namespace")
    },
    Case {
        states: &["ESTABLISHED", "ESTABLISHED"],
        ..held("earlier_net_namespace")
    },
];

const REUSED: &[Case] = &[
    held("reused"),
    Case {
        server: ("http", "unix:PATH"),
        states: &["connected"],
        ..held("reused")
    },
    Case {
        states: &["ESTABLISHED", "ESTABLISHED"],
        ..held("pid_reused")
    },
];

/// What carries it is the kernel's own and not shown beside it.
const MPTCP: &[Case] = &[held("mptcp")];

/// A scenario on its way.
struct Running {
    case: &'static Case,
    program: Program,
    address: String,
    /// Descriptor and process in the end.
    outcome: (i64, u32),
    _server: Program,
    _directory: tempfile::TempDir,
}

/// Starts a scenario; it waits for [`go`].
fn begin(case: &'static Case) -> Result<Running> {
    let directory = tempfile::tempdir()?;
    let listen = case
        .server
        .1
        .replace("PATH", &directory.path().join("s.sock").to_string_lossy())
        .replace("NAME", &directory.path().to_string_lossy());
    let (server, address) = scenes::server(case.server.0, &listen)?;
    let (program, _) = Program::ready(fixtures::path("scenarios")?, &[case.name, &address])?;
    let outcome = (0, 0);
    Ok(Running {
        case,
        program,
        address,
        outcome,
        _server: server,
        _directory: directory,
    })
}

/// Lets it happen.
fn go(running: &mut Running) -> Result<()> {
    running.program.write("\n")?;
    let done = running.program.line("DONE fd=", seconds(20))?;
    let (fd, holder) = done.split_once(" holder=").context("no holder")?;
    running.outcome = (fd.parse()?, holder.parse()?);
    Ok(())
}

/// A process and all its descendants.
fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        all.extend(
            children
                .unwrap_or_default()
                .split_whitespace()
                .filter_map(|p| p.parse::<u32>().ok()),
        );
        next += 1;
    }
    all
}

/// By the kernel's own account, before tracer is asked.
fn scenarios_are_what_they_say() -> Result<()> {
    for case in [CLOSED, OWN, PASSED, STATES, FAMILIES, NAMESPACES, REUSED]
        .into_iter()
        .flatten()
    {
        let mut running = begin(case)?;
        go(&mut running)?;
        let (fd, holder) = running.outcome;
        if holder != 0 {
            // A child may still be on its way to exec.
            wait::until(
                &format!("{}: a socket at {fd} of {holder}", case.name),
                seconds(5),
                || {
                    let link = fs::read_link(format!("/proc/{holder}/fd/{fd}"));
                    Ok(link.is_ok_and(|link| link.to_string_lossy().starts_with("socket:")))
                },
            )?;
        } else if case.states.is_empty() {
            for pid in family(running.program.pid()) {
                ensure!(
                    socket_inodes(pid)?.is_empty(),
                    "{}: {pid} holds a socket",
                    case.name
                );
            }
        }
    }
    Ok(())
}

/// Lets the scenarios happen under one daemon and holds its list against what is expected.
fn hold(groups: &[&'static [Case]]) -> Result<()> {
    host::require_root()?;
    let mut all = groups
        .iter()
        .copied()
        .flatten()
        .map(begin)
        .collect::<Result<Vec<_>>>()?;
    let directory = tempfile::tempdir()?;
    let socket = directory
        .path()
        .join("tracer.sock")
        .to_string_lossy()
        .into_owned();
    let pids: Vec<String> = all
        .iter()
        .map(|one| one.program.pid().to_string())
        .collect();
    let mut arguments = vec!["daemon", "--socket", &socket];
    for pid in &pids {
        arguments.extend(["--pid", pid]);
    }
    let mut daemon = tracer::start(&arguments)?;
    wait::until("a ready daemon", seconds(60), || {
        ensure!(daemon.runs()?, "the daemon ended: {}", daemon.stderr());
        Ok(http::get(&socket, "/readyz").is_ok_and(|answer| answer.status == 200))
    })?;
    all.iter_mut().try_for_each(go)?;
    let hooks = tracer::hooks()?;

    // The daemon's list may be a moment old: what counts is that it gets there.
    let mut problems = Vec::new();
    let settled = wait::until("the list to be right", seconds(15), || {
        let ask = [
            "connections",
            "--endpoint",
            &socket,
            "--limit",
            "1000",
            "-o",
            "json",
        ];
        let ended = tracer::run(&ask, seconds(30))?;
        ensure!(ended.code() == 0, "connections: {}", ended.stderr);
        let list: Value = serde_json::from_str(&ended.stdout)?;
        let rows = list["connections"].as_array().context("no connections")?;
        problems = wrong(&all, rows, &hooks);
        Ok(problems.is_empty())
    });
    if settled.is_err() && !problems.is_empty() {
        let report: Value = serde_json::from_str(&http::get(&socket, "/v1/report")?.body)?;
        let losses = &report["coverage"]["losses"];
        bail!("lost: {losses}\n{}", problems.join("\n"));
    }
    settled
}

/// What is wrong with the list, as sentences.
fn wrong(all: &[Running], rows: &[Value], hooks: &Hooks) -> Vec<String> {
    let mut problems = Vec::new();
    let mut accounted = 0;
    for running in all {
        let pids = family(running.program.pid());
        let mine: Vec<&Value> = rows
            .iter()
            .filter(|row| {
                pids.iter()
                    .any(|pid| row["pid"] == *pid || row["holder_pid"] == *pid)
            })
            .collect();
        accounted += mine.len();
        let name = format!("{} to {}", running.case.name, running.address);
        let mut states: Vec<&str> = mine
            .iter()
            .filter_map(|row| row["state"].as_str())
            .collect();
        states.sort_unstable();
        let right = running.case.states.iter();
        if !right
            .map(|state| state.to_ascii_lowercase())
            .eq(states.iter().map(|state| state.to_ascii_lowercase()))
        {
            problems.push(format!(
                "{name}: not {:?}, but {mine:?}",
                running.case.states
            ));
            continue;
        }
        if running.case.states.len() == 1 {
            let opener = match running.case.name {
                "pid_namespace" => running.outcome.1,
                _ => running.program.pid(),
            };
            problems.extend(
                wrong_row(running, opener, mine[0], hooks)
                    .into_iter()
                    .map(|what| format!("{name}: {what}")),
            );
        }
        if running.case.name == "pid_reused" {
            // Both openers had one number; one's connection is with the helper, the other's is its own.
            let helper = running.outcome.1;
            let (left, own): (Vec<&Value>, Vec<&Value>) =
                mine.iter().partition(|row| row["holder_pid"] == helper);
            if left.len() != 1 || own.len() != 1 || left[0]["pid"] != own[0]["pid"] {
                problems.push(format!("{name}: the helper is {helper}: {mine:?}"));
            }
        }
        if ["accepts", "net_namespace"].contains(&running.case.name)
            && !(mine.iter().any(|row| row["role"] == "server")
                && mine.iter().any(|row| row["role"] == "client"))
        {
            problems.push(format!("{name}: roles of {mine:?}"));
        }
    }
    if accounted < rows.len() {
        problems.push(format!(
            "{} rows belong to nobody: {rows:?}",
            rows.len() - accounted
        ));
    }
    problems
}

/// What is wrong with the only row of a scenario.
fn wrong_row(running: &Running, opener: u32, row: &Value, hooks: &Hooks) -> Vec<String> {
    let mut problems = Vec::new();
    let mut expect = |right: bool, what: &str| {
        if !right {
            problems.push(format!("{what} in {row}"));
        }
    };
    let (fd, holder) = running.outcome;
    let seen = |event: &str| hooks.get(event).is_some_and(|backend| backend != "none");
    expect(row["pid"] == opener, "opener");
    expect(row["role"] == "client", "role");
    if holder != 0 {
        expect(row["fd"] == fd, &format!("descriptor is {fd}, not as"));
        if holder == opener {
            expect(
                row["holder_pid"].is_null() || row["holder_pid"] == opener,
                "holder",
            );
        } else {
            expect(
                row["holder_pid"] == holder,
                &format!("holder is {holder}, not as"),
            );
        }
    }
    // A UNIX socket's path is the authority of its URLs.
    let authority = match running.address.strip_prefix("unix:") {
        Some(path) => format!(
            "http+unix://{}",
            path.replace('@', "%40").replace('/', "%2F")
        ),
        None => "http://scenario.test".to_owned(),
    };
    let url = format!("GET {authority}/v1/scenario");
    let remote = running
        .address
        .strip_prefix("unix:")
        .unwrap_or(&running.address);
    expect(row["remote"] == remote, "remote");
    let (mode, asked) = (
        running.case.server.0,
        !["nonblocking", "earlier"].contains(&running.case.name),
    );
    // It becomes another program at once: what it was can't be read any more.
    let lost = running.case.name == "exec_keeps" && row["call_site"].is_null();
    if asked && seen("send") {
        expect(row["requests"] == 1, "one request");
        expect(row["url"] == url, "url");
        // who has both opened it and asked, where both were seen; else who asked
        let places = ["ask", "asked", running.case.name];
        let function = row["call_site"]["function"].as_str().unwrap_or_default();
        expect(lost || places.contains(&function), "call site");
    } else if asked {
        expect(row["requests"] == 0, "no request that anybody saw");
        expect(row["url"].is_null(), "no url");
        // The opener's stack is left, where opening is seen.
        let opened = !running.address.starts_with("unix:") || seen("unix_open");
        expect(
            lost || row["call_site"].is_object() == opened,
            "opener's call site",
        );
    }
    if asked {
        expect(mode != "http" || row["unread"] == 0, "nothing unread");
    }
    // None of them can be older than its process, which the test has just started.
    expect(
        row["age_seconds"].as_f64().is_some_and(|age| age < 600.0),
        "age",
    );
    if running.case.name == "earlier" {
        expect(row["call_site"].is_null(), "no call site before tracing");
    }
    problems
}

fn closed_in_every_way() -> Result<()> {
    hold(&[CLOSED])
}

fn held_by_its_opener() -> Result<()> {
    hold(&[OWN])
}

fn held_by_somebody_else() -> Result<()> {
    hold(&[PASSED])
}

fn states_of_tcp() -> Result<()> {
    hold(&[STATES])
}

fn mptcp_is_not_misreported() -> Result<()> {
    hold(&[MPTCP])
}

fn namespaces() -> Result<()> {
    hold(&[NAMESPACES])
}

fn reused_numbers() -> Result<()> {
    hold(&[REUSED])
}

fn families_and_roles() -> Result<()> {
    hold(&[FAMILIES])
}

/// Lets a scenario happen under `check` and returns the report and what it printed.
fn checked(program: &mut Program) -> Result<tracer::Report> {
    let pid = program.pid().to_string();
    let mut check = tracer::start(&["check", "--pid", &pid, "-d", "1h", "-o", "json"])?;
    tracer::attached(&mut check)?;
    program.write("\n")?;
    program.line("DONE", seconds(20))?;
    check.signal(libc::SIGINT)?;
    let ended = check.end(seconds(60))?;
    tracer::Report::parse(&ended.stdout).with_context(|| ended.stderr.clone())
}

fn refused_connects_are_counted() -> Result<()> {
    const REFUSED: Case = gone("refused");
    host::require_root()?;
    let mut running = begin(&REFUSED)?;
    let report = checked(&mut running.program)?;
    let errors = &report.0["resources"][0]["connect_errors"];
    ensure!(errors["ECONNREFUSED"] == 3, "connect_errors: {report}");
    ensure!(report.findings().is_empty(), "a finding: {report}");
    Ok(())
}

fn timed_out_connects_are_counted() -> Result<()> {
    const TIMED_OUT: Case = gone("timed_out");
    host::require_root()?;
    let mut running = begin(&TIMED_OUT)?;
    let report = checked(&mut running.program)?;
    let errors = &report.0["resources"][0]["connect_errors"];
    ensure!(errors["ETIMEDOUT"] == 1, "connect_errors: {report}");
    Ok(())
}

/// In a network namespace of its own, which has four ephemeral ports.
fn exhausted_ports_are_counted() -> Result<()> {
    host::require_root()?;
    let (unshare, nsenter) = (host::tool("unshare")?, host::tool("nsenter")?);
    host::tool("ip")?;
    let script = "ip link set lo up && echo 51000 51003 >/proc/sys/net/ipv4/ip_local_port_range && \
                  exec \"$0\" http 127.0.0.1:7000";
    let mut server = Command::new(unshare);
    server
        .args(["-n", "sh", "-c", script])
        .arg(fixtures::path("fixture-server")?);
    let mut server = Program::start(&mut server)?;
    let address = server.line("READY", seconds(20))?;
    let mut scenario = Command::new(nsenter);
    scenario
        .args(["-t", &server.pid().to_string(), "-n"])
        .arg(fixtures::path("scenarios")?);
    let mut program = Program::start(scenario.args(["exhausted", &address]))?;
    program.line("READY", seconds(20))?;
    let report = checked(&mut program)?;
    let resources = &report.0["resources"][0];
    ensure!(
        resources["connect_errors"]["EADDRNOTAVAIL"] == 3,
        "connect_errors: {report}"
    );
    let ports = &resources["ephemeral_ports"][0];
    ensure!(ports["destination"] == address, "destination: {report}");
    ensure!(
        ports["used"] == 4 && ports["available"] == 4,
        "ports: {report}"
    );
    Ok(())
}
