//! The capabilities that `deploy/daemonset-capabilities.yaml` lists are enough, and each of them is
//! needed: without it what docs/security.md says is lost, and the daemon names what it lacks.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{fs::PermissionsExt as _, fs::chown, process::CommandExt as _},
    path::Path,
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tracer_tests::{
    daemon::Daemon,
    fixtures,
    host::{self, seconds},
    program::Program,
    tests,
    tracer::{self, Report},
    wait,
};

use crate::{bpffs::BpfFs, go_views, scenes};

tests![
    each_listed_capability_is_needed,
    probes_of_programs_functions_or_the_reason,
];

const MANIFEST: &str = include_str!("../../deploy/daemonset-capabilities.yaml");
const DOCUMENTED: &str = include_str!("../../docs/security.md");

/// What is lost without a capability.
#[derive(Debug, Clone, Copy)]
enum Lost {
    /// It does not start: exit status 3.
    Everything,
    /// The call sites of these programs.
    CallSites(&'static [Kind]),
    Nothing,
}

/// Programs of another user than the daemon's, as far as privileges tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Everybody may read its executable.
    Plain,
    /// Only its owner may.
    Private,
    /// Its code is in a file that was deleted, and is not what the kernel was told to execute.
    Deleted,
}

/// A capability of the manifest.
struct Listed {
    /// As the manifest writes it.
    name: &'static str,
    /// Its bit of include/uapi/linux/capability.h.
    number: u32,
    /// As docs/security.md says it.
    without: &'static str,
    lost: Lost,
    /// On kernels before this version it is something else.
    before: Option<((u32, u32), Lost)>,
}

const fn listed(name: &'static str, number: u32, without: &'static str, lost: Lost) -> Listed {
    Listed {
        name,
        number,
        without,
        lost,
        before: None,
    }
}

/// All of them.
const LISTED: &[Listed] = &[
    listed(
        "BPF",
        39,
        "it does not start (exit status 3)",
        Lost::Everything,
    ),
    listed("PERFMON", 38, "it does not start", Lost::Everything),
    listed(
        "SYS_PTRACE",
        19,
        "no call sites of them",
        Lost::CallSites(&[Kind::Plain, Kind::Private, Kind::Deleted]),
    ),
    listed(
        "DAC_READ_SEARCH",
        2,
        "no frames in executables that were deleted or that only their owner may read, and none of \
         interpreters",
        Lost::CallSites(&[Kind::Private, Kind::Deleted]),
    ),
    listed(
        "CHECKPOINT_RESTORE",
        40,
        "no frames in them",
        Lost::CallSites(&[Kind::Deleted]),
    ),
    Listed {
        before: Some(((5, 11), Lost::Everything)),
        ..listed("SYS_RESOURCE", 24, "it does not start there", Lost::Nothing)
    },
];

impl Listed {
    fn lost(&self, kernel: (u32, u32)) -> Lost {
        match self.before {
            Some((version, lost)) if kernel < version => lost,
            _ => self.lost,
        }
    }

    fn full_name(&self) -> String {
        format!("CAP_{}", self.name)
    }
}

/// What the manifest adds.
fn in_manifest() -> BTreeSet<&'static str> {
    MANIFEST
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != "add:")
        .skip(1)
        .filter(|line| !line.starts_with('#'))
        .map_while(|line| line.strip_prefix("- "))
        .collect()
}

/// The manifest, the documentation and the list here say the same.
fn agreed() -> Result<()> {
    let here: BTreeSet<&str> = LISTED.iter().map(|listed| listed.name).collect();
    ensure!(
        here == in_manifest(),
        "{here:?}, but the manifest adds {:?}",
        in_manifest()
    );
    for listed in LISTED {
        let first = format!("| `{}` |", listed.full_name());
        let row = DOCUMENTED.lines().find(|line| line.starts_with(&first));
        let row = row.with_context(|| format!("no row {first} in docs/security.md"))?;
        let said = row.split('|').nth(3).unwrap_or_default().trim();
        ensure!(said == listed.without, "{}: {said:?}", listed.name);
    }
    Ok(())
}

/// A leaking program of another user.
struct Subject {
    kind: Kind,
    function: &'static str,
    program: Program,
    _server: Program,
}

/// Users other than root run these.
const NOBODY: u32 = 65_534;
/// The program interpreter, which can be told what to run (`ld.so(8)`).
const INTERPRETER: &str = "/lib64/ld-linux-x86-64.so.2";

fn subject(directory: &Path, kind: Kind) -> Result<Subject> {
    let (fixture, mode, function) = match kind {
        Kind::Plain => ("client", "fetch", "fetch_price"),
        Kind::Private => ("client", "reuse", "watch_orders"),
        Kind::Deleted => ("fixture-client", "rates", "fetch_exchange_rate"),
    };
    let path = directory.join(format!("{kind:?}").to_lowercase());
    fs::copy(fixtures::path(fixture)?, &path)?;
    chown(&path, Some(NOBODY), Some(NOBODY))?;
    let may = if kind == Kind::Private { 0o500 } else { 0o755 };
    fs::set_permissions(&path, fs::Permissions::from_mode(may))?;
    let (server, address) = scenes::server("http", "127.0.0.1:0")?;
    let mut command = match kind {
        Kind::Deleted => {
            let mut command = Command::new(INTERPRETER);
            command.arg(&path);
            command
        }
        _ => Command::new(&path),
    };
    command.args([mode, &address, "4", "2000", "leak"]);
    command.uid(NOBODY).gid(NOBODY);
    let mut program = Program::start(&mut command)?;
    program.line("READY", seconds(20))?;
    if kind == Kind::Deleted {
        fs::remove_file(&path)?;
    }
    Ok(Subject {
        kind,
        function,
        program,
        _server: server,
    })
}

/// A place where every user can run programs.
fn public_directory() -> Result<TempDir> {
    let directory = tempfile::Builder::new()
        .prefix("tracer-test-")
        .tempdir_in("/tmp")?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    Ok(directory)
}

/// The capabilities of the manifest, without one of them.
fn without(removed: Option<&Listed>) -> Vec<u32> {
    let kept = LISTED.iter().map(|listed| listed.number);
    kept.filter(|number| removed.is_none_or(|listed| listed.number != *number))
        .collect()
}

/// Gives a command what a container of the manifest has, but for one capability.
fn as_in_container(command: &mut Command, removed: Option<&Listed>) {
    host::with_capabilities(command, without(removed));
    host::without_new_privileges(command);
}

fn each_listed_capability_is_needed() -> Result<()> {
    host::require_root()?;
    agreed()?;
    let kernel = host::kernel()?;
    let directory = public_directory()?;
    let subjects = [Kind::Plain, Kind::Private, Kind::Deleted]
        .into_iter()
        .map(|kind| subject(directory.path(), kind))
        .collect::<Result<Vec<_>>>()?;
    let bpffs = BpfFs::mount()?;
    let mut runs = vec![None];
    runs.extend(LISTED.iter().map(Some));
    // the one emulated processor of a guest does nothing faster side by side
    let at_once = if host::is_guest() { 1 } else { 4 };
    for some in runs.chunks(at_once) {
        let held = |removed: &Option<&'static Listed>| {
            let lost = removed.map_or(Lost::Nothing, |listed| listed.lost(kernel));
            let name = removed.map_or("nothing", |listed| listed.name);
            hold(&bpffs, &subjects, *removed, lost)
                .inspect(|()| println!("without {name}: {lost:?} is lost, as is said"))
                .with_context(|| format!("without {name}"))
        };
        thread::scope(|scope| {
            let begun: Vec<_> = some.iter().map(|run| scope.spawn(|| held(run))).collect();
            let ended = begun.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(_) => Err(anyhow::anyhow!("it panicked")),
            });
            ended.collect::<Result<Vec<()>>>()
        })?;
    }
    Ok(())
}

/// Starts a daemon without a capability and sees that this is lost, nothing else, and that it says so.
fn hold(bpffs: &BpfFs, subjects: &[Subject], removed: Option<&Listed>, lost: Lost) -> Result<()> {
    let pids: Vec<u32> = subjects.iter().map(|s| s.program.pid()).collect();
    let pins = format!("{}-{}", bpffs.pins(), removed.map_or("all", |r| r.name));
    let more = ["--pin", &pins, "--max-sockets", "5000"];
    let gone: &[Kind] = match lost {
        Lost::Everything => return refused(bpffs, &pids, &more, removed),
        Lost::CallSites(gone) => gone,
        Lost::Nothing => &[],
    };
    let daemon = Daemon::start_as(&pids, &more, |command| {
        as_in_container(command, removed);
        bpffs.enter(command);
    })?;
    let mut seen = String::new();
    let settled = wait::until("what is expected of each program", seconds(60), || {
        let report = daemon.report()?;
        for subject in subjects {
            let expected = (!gone.contains(&subject.kind)).then_some(subject.function);
            match call_site(&report, subject)? {
                Some(site) if site.as_deref().map(short) == expected => {}
                other => {
                    seen = format!("{:?} has {other:?}: {report}", subject.kind);
                    return Ok(false);
                }
            }
        }
        seen = report.to_string();
        let said = report.0["coverage"]["degraded"].to_string();
        Ok(match removed.filter(|_| !gone.is_empty()) {
            Some(listed) => said.contains(&listed.full_name()),
            None => !said.contains("lacks CAP_"),
        })
    });
    settled.with_context(|| seen.clone())?;
    diagnosed(&daemon.ask(&["doctor"])?, removed)
}

/// A function's name without its path and signature.
fn short(function: &str) -> &str {
    let name = function.split('(').next().unwrap_or(function);
    name.rsplit("::").next().unwrap_or(name)
}

/// The function of the finding of a program, if there is one, and if it has a call site.
fn call_site(report: &Report, subject: &Subject) -> Result<Option<Option<String>>> {
    let pid = subject.program.pid();
    let mut site = None;
    for finding in report.findings() {
        let instances = finding["instances"].as_array().context("no instances")?;
        if !instances.iter().any(|instance| instance["pid"] == pid) {
            continue;
        }
        // a place in a file that could not be read is no name
        let function = finding["call_site"]["function"].as_str();
        let function = function.filter(|function| !function.contains("+0x"));
        ensure!(
            function.is_none_or(|function| short(function) == subject.function),
            "a wrong name: {finding:#}"
        );
        // what is named counts, though older connections are not
        if site.is_none() || function.is_some() {
            site = Some(function.map(str::to_owned));
        }
    }
    Ok(site)
}

/// It must not start, with exit status 3 and the name of what is missing.
fn refused(bpffs: &BpfFs, pids: &[u32], more: &[&str], removed: Option<&Listed>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("tracer.sock");
    let pid = pids.first().context("no program")?.to_string();
    let arguments = [
        "daemon",
        "--pid",
        &pid,
        "--socket",
        &socket.to_string_lossy(),
    ];
    let mut command = tracer::command(&[&arguments[..], more].concat())?;
    as_in_container(&mut command, removed);
    bpffs.enter(&mut command);
    let ended = Program::start(&mut command)?.end(seconds(60))?;
    let name = removed.context("nothing is removed")?.full_name();
    ensure!(
        ended.code() == 3 && ended.stderr.contains(&name),
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    ensure!(
        !fs::exists(&socket)?,
        "a socket is left behind by a daemon that did not start"
    );
    Ok(())
}

/// `doctor` says of each capability of the list that it is held, but not of the one removed.
fn diagnosed(doctor: &Value, removed: Option<&Listed>) -> Result<()> {
    let rows = doctor["capabilities"].as_array().context("no list")?;
    for row in rows {
        let name = row["name"].as_str().unwrap_or_default();
        let held = removed.is_none_or(|listed| listed.full_name() != name);
        let may = host_has(name)?;
        ensure!(row["held"] == (held && may), "{row:#}");
    }
    Ok(())
}

/// Whether this machine's root has a capability at all: a virtual machine's may lack some.
fn host_has(name: &str) -> Result<bool> {
    let listed = LISTED.iter().find(|listed| listed.full_name() == name);
    let Some(listed) = listed else {
        return Ok(true);
    };
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = u64::from_str_radix(line.context("no CapEff")?.trim(), 16)?;
    Ok(held >> listed.number & 1 == 1)
}

/// Kernels differ in whether the list is enough for probes of a program's own functions; where it is
/// not, that is said with the capability that is lacking.
fn probes_of_programs_functions_or_the_reason() -> Result<()> {
    host::require_root()?;
    let bpffs = BpfFs::mount()?;
    let running = go_views::running("body-http", "400")?;
    let daemon = bpffs.daemon_with(running.client.pid(), &[], |command| {
        as_in_container(command, None);
    })?;
    let mut report = daemon.report()?;
    let settled = wait::until("the line at fault, or a reason", seconds(60), || {
        report = daemon.report()?;
        for finding in report.findings() {
            if finding["kind"] == go_views::BODY && go_views::at_mark(finding, "LEAK body-http")? {
                println!("the list is enough for probes of Go programs on this kernel");
                return Ok(true);
            }
        }
        let said = report.0["coverage"]["degraded"].to_string();
        let named = said.contains("only the kernel's view") && said.contains("CAP_SYS_ADMIN");
        if named {
            println!("this kernel asks for CAP_SYS_ADMIN, which is said");
        }
        Ok(named)
    });
    settled.with_context(|| report.to_string())
}
