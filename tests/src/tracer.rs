//! The `tracer` binary as a user has it, and its answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsStr,
    fs, io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    host,
    objects::{self, Kind},
    program::{Ended, Program},
    runner::{self, NotApplicable},
    wait,
};

/// What `--backend` takes.
pub const BACKENDS: [&str; 5] = [
    "tracepoint",
    "raw_tracepoint",
    "fentry",
    "kprobe",
    "syscalls",
];

/// The binary under test: `TRACER_BIN`, else the one of this build, brought up to date by cargo.
///
/// # Errors
/// When it can't be built.
pub fn binary() -> Result<PathBuf> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BINARY
        .get_or_init(|| find().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

/// Finds or builds the binary.
fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os("TRACER_BIN") {
        return Ok(path.into());
    }
    let directory = host::build_directory()?;
    // Set by cargo for the tests that it runs; a test of a stale binary would prove nothing.
    if let Some(cargo) = env::var_os("CARGO") {
        let mut command = Command::new(cargo);
        command
            .args(["build", "--quiet", "--package", "tracer"])
            .stdout(Stdio::null());
        if directory.ends_with("release") {
            command.arg("--release");
        }
        let status = command.status().context("running cargo")?;
        ensure!(status.success(), "building tracer failed");
    }
    let path = directory.join("tracer");
    ensure!(
        path.exists(),
        "{} is missing: build tracer, or set TRACER_BIN",
        path.display()
    );
    Ok(path)
}

/// A command line of tracer, without what the surroundings could add to it, but with the backend
/// that the running test is about.
///
/// # Errors
/// As [`binary`].
pub fn command<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    let (name, rest) = arguments.split_at(arguments.len().min(1));
    let attaches = name
        .iter()
        .any(|name| ["check", "daemon"].iter().any(|n| name.as_ref() == *n));
    command.args(name);
    if let Some(backend) = runner::backend().filter(|_| attaches) {
        command.args(["--backend", backend]);
    }
    command
        .args(rest)
        .env_remove("TRACER_ENDPOINT")
        .env_remove("NO_COLOR");
    if host::is_guest() {
        go_first(&mut command);
    }
    Ok(command)
}

/// Lets a command run before others: the one emulated processor of a guest is too slow for dozens
/// of programs, and who watches them must not be the one who falls behind.
fn go_first(command: &mut Command) {
    let highest = || {
        // SAFETY: it takes numbers only.
        match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes a system call only and allocates nothing.
    unsafe { command.pre_exec(highest) };
}

/// How each event is observed: `backend` of each, by name.
pub type Hooks = BTreeMap<String, String>;

/// What `tracer doctor` says of a backend, or of tracer's own choice.
#[derive(Debug, Clone)]
pub struct Diagnosis {
    /// All of it.
    pub doctor: Value,
    /// How each event is observed.
    pub hooks: Hooks,
    /// Why the kernel refused a hook of this backend.
    pub refusal: Option<String>,
}

/// How this kernel observes each event with the backend of the running test.
///
/// # Errors
/// When `tracer doctor` fails.
pub fn hooks() -> Result<Hooks> {
    Ok(diagnosis(runner::backend())?.hooks)
}

/// Goes on only where a backend is there and differs from what tracer chooses by itself.
///
/// # Errors
/// [`NotApplicable`] with what the kernel says; an error when `tracer doctor` fails.
pub fn need_backend(backend: &'static str) -> Result<()> {
    let forced = with_backend(backend)?;
    if forced.hooks == diagnosis(None)?.hooks {
        bail!(NotApplicable("it is what tracer chooses here".to_owned()));
    }
    Ok(())
}

/// What `tracer doctor` says with this backend forced.
///
/// # Errors
/// [`NotApplicable`] where the kernel has it not, with what the kernel says; an error when
/// `tracer doctor` fails.
pub fn with_backend(backend: &'static str) -> Result<Diagnosis> {
    host::require_root()?;
    let forced = diagnosis(Some(backend))?;
    if !forced.hooks.values().any(|used| used == backend) {
        let refusal = forced.refusal.as_deref().unwrap_or("nothing to attach to");
        bail!(NotApplicable(refusal.to_owned()));
    }
    Ok(forced)
}

/// What `tracer doctor` says: asked once for each backend, because it attaches all there is.
///
/// # Errors
/// When it fails.
pub fn diagnosis(backend: Option<&'static str>) -> Result<Diagnosis> {
    static KNOWN: Mutex<BTreeMap<Option<&'static str>, Diagnosis>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(diagnosis) = known.get(&backend) {
        return Ok(diagnosis.clone());
    }
    let mut command = Command::new(binary()?);
    command.args(["doctor", "-o", "json"]);
    command.args(backend.map(|backend| format!("--backend={backend}")));
    let ended = Program::start(&mut command)?.end(host::seconds(60))?;
    let doctor: Value = serde_json::from_str(&ended.stdout)
        .with_context(|| format!("doctor with {backend:?}: {}", ended.stderr))?;
    let events = doctor["events"].as_array().context("no events")?;
    ensure!(!events.is_empty(), "doctor with {backend:?}: {doctor:#}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let refusals = events
        .iter()
        .filter_map(|event| event["refused"].as_array());
    let diagnosis = Diagnosis {
        hooks: events
            .iter()
            .map(|event| (text(&event["event"]), text(&event["backend"])))
            .collect(),
        refusal: refusals
            .flatten()
            .find(|refusal| backend.is_some_and(|backend| refusal["backend"] == backend))
            .map(|refusal| format!("{}: {}", text(&refusal["hook"]), text(&refusal["error"]))),
        doctor,
    };
    known.insert(backend, diagnosis.clone());
    Ok(diagnosis)
}

/// Starts tracer.
///
/// # Errors
/// When it can't be started.
pub fn start<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Program> {
    Program::start(&mut command(arguments)?)
}

/// Runs tracer to its end, which comes within `limit`.
///
/// # Errors
/// When it can't be started or does not end.
pub fn run<S: AsRef<OsStr>>(arguments: &[S], limit: Duration) -> Result<Ended> {
    start(arguments)?.end(limit)
}

/// Starts `tracer check` on a process for `seconds`, with JSON on standard output.
///
/// # Errors
/// When it can't be started.
pub fn check(pid: u32, seconds: u64) -> Result<Check> {
    check_all(&[pid], seconds)
}

/// The same of several processes.
///
/// # Errors
/// When it can't be started.
pub fn check_all(pids: &[u32], seconds: u64) -> Result<Check> {
    host::require_root()?;
    let time = host::seconds(seconds);
    let duration = format!("{}s", time.as_secs());
    let mut arguments: Vec<String> = ["check", "--duration", &duration, "-o", "json"]
        .map(str::to_owned)
        .into();
    for pid in pids {
        arguments.extend(["--pid".to_owned(), pid.to_string()]);
    }
    let program = start(&arguments)?;
    Ok(Check { program, time })
}

/// Waits until `tracer check` says that it watches, and returns the ids of its programs.
///
/// # Errors
/// When it ends before, or takes too long.
pub fn attached(check: &mut Program) -> Result<BTreeSet<u32>> {
    wait::until("`tracer check` to watch", host::seconds(60), || {
        ensure!(check.runs()?, "tracer ended: {}", check.stderr());
        Ok(check.stderr().contains("tracer: watching"))
    })?;
    programs(check)
}

/// Ids of the BPF programs of a tracer that watches.
///
/// # Errors
/// When it has none, or one of them is not loaded.
pub fn programs(tracer: &Program) -> Result<BTreeSet<u32>> {
    let ids = host::bpf_programs_of(tracer.pid())?;
    ensure!(!ids.is_empty(), "it has no BPF program");
    for id in &ids {
        ensure!(
            objects::exists(Kind::Program, *id)?,
            "program {id} is held but not loaded"
        );
    }
    Ok(ids)
}

/// Waits until none of these BPF programs is loaded any more.
///
/// # Errors
/// When one stays.
pub fn detached(ids: &BTreeSet<u32>) -> Result<()> {
    wait::until("all BPF programs to be gone", host::seconds(20), || {
        for id in ids {
            if objects::exists(Kind::Program, *id)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// A `tracer check` on its way.
#[derive(Debug)]
pub struct Check {
    /// The process.
    pub program: Program,
    time: Duration,
}

impl Check {
    /// Waits for the report.
    ///
    /// # Errors
    /// When it fails or prints no report.
    pub fn report(self) -> Result<Report> {
        let ended = self.program.end(self.time + host::seconds(30))?;
        ensure!(
            ended.code() == 0,
            "status {}: {}",
            ended.code(),
            ended.stderr
        );
        Report::parse(&ended.stdout).with_context(|| format!("stderr: {}", ended.stderr))
    }
}

/// The JSON that `check` and `top` print.
#[derive(Debug, Clone)]
pub struct Report(pub Value);

impl Report {
    /// Reads it.
    ///
    /// # Errors
    /// When it is not a JSON object of schema 1.
    pub fn parse(text: &str) -> Result<Report> {
        let value: Value =
            serde_json::from_str(text).with_context(|| format!("not JSON: {text:?}"))?;
        ensure!(value["schema"] == 1, "schema is {}", value["schema"]);
        Ok(Report(value))
    }

    /// Reads it from a file.
    ///
    /// # Errors
    /// As [`Report::parse`].
    pub fn read(path: &std::path::Path) -> Result<Report> {
        Report::parse(&fs::read_to_string(path).with_context(|| path.display().to_string())?)
    }

    /// `leak`, `clean` or `inconclusive`.
    #[must_use]
    pub fn verdict(&self) -> &str {
        self.0["verdict"].as_str().unwrap_or_default()
    }

    /// The findings.
    #[must_use]
    pub fn findings(&self) -> &[Value] {
        self.0["findings"].as_array().map_or(&[], Vec::as_slice)
    }

    /// Holds the verdict.
    ///
    /// # Errors
    /// When it is another; the message has the whole report.
    pub fn expect_verdict(&self, verdict: &str) -> Result<()> {
        ensure!(
            self.verdict() == verdict,
            "verdict is not {verdict}: {self}"
        );
        Ok(())
    }

    /// The only finding.
    ///
    /// # Errors
    /// When there is none, or there are more.
    pub fn only(&self) -> Result<&Value> {
        match self.findings() {
            [finding] => Ok(finding),
            findings => bail!("{} findings: {self}", findings.len()),
        }
    }

    /// The finding whose call site is in a function that contains `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn at(&self, name: &str) -> Result<&Value> {
        self.findings()
            .iter()
            .find(|finding| {
                finding["call_site"]["function"]
                    .as_str()
                    .is_some_and(|f| f.contains(name))
            })
            .with_context(|| format!("no finding at {name}: {self}"))
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}
