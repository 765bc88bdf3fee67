//! The whole corpus (`tests/src/hostile`) before one daemon, with programs beside that do nobody any
//! harm and leak: it lives, stays within its memory, answers, is right about them, and counts what
//! it refused.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tracer_tests::{
    daemon::Daemon,
    fixtures,
    host::{self, seconds},
    hostile::{self, Door, Entry, Kept, Made, Shows},
    http,
    program::Program,
    runner::NotApplicable,
    tracer::{self, Report},
    wait,
};

use crate::scenes;

/// How long the programs go on, at least.
const STORM: u64 = 90;
/// An answer that takes longer is none. The session waits 20 seconds for readers at most.
const PATIENCE: u64 = 120;
/// What is refused late, and what is found late, may take this long.
const SETTLED: u64 = 180;
/// Connections that the other end keeps.
const KEPT_MAX: usize = 4_000;
/// Lines of metrics: they must not grow with what programs say.
const METRICS_MAX: usize = 2_000;
/// What every program sends that must be seen nowhere.
const SECRET: &str = "hunter2";

/// A program of the corpus, and what was made for it.
struct Running {
    entry: &'static Entry,
    program: Program,
    perf_map: PathBuf,
    kept: Option<Kept>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // what writes it goes first
        self.kept = None;
        let _ = fs::remove_file(&self.perf_map);
    }
}

/// Entries with one of the words in `TRACER_HOSTILE` in their name; all of them in the full run.
fn chosen() -> Result<Vec<&'static Entry>> {
    let words = env::var("TRACER_HOSTILE").unwrap_or_default();
    if words.is_empty() && env::var_os("TRACER_TEST_FULL").is_none() {
        bail!(NotApplicable("part of the full run".to_owned()));
    }
    let wanted = |name: &str| {
        let mut words = words.split(',');
        words.any(|word| word == "all" || name.contains(word))
    };
    let all = hostile::all();
    Ok(all.filter(|e| words.is_empty() || wanted(e.name)).collect())
}

pub fn the_daemon_lives_and_is_right_about_others() -> Result<()> {
    host::require_root()?;
    let entries = chosen()?;
    let folder = tempfile::tempdir()?;
    let port = sink()?;
    let good = scenes::client("client", "fetch", 4, 15_000, "leak")?;
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    let mut late = begins_later(&address)?;
    let mut running = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        let place = folder.path().join(number.to_string());
        fs::create_dir(&place)?;
        let started = start(entry, port, &place).with_context(|| entry.name)?;
        running.extend(started);
    }
    let mut pids: Vec<u32> = running.iter().map(|r| r.program.pid()).collect();
    pids.extend([good.pid(), late.pid()]);
    let (mut daemon, door) = open(&folder, &pids)?;
    for one in &mut running {
        one.program.write("\n")?;
    }

    let leaks = [
        Leak {
            pid: good.pid(),
            function: "fetch_price",
            kind: "client_per_request",
        },
        Leak {
            pid: late.pid(),
            function: "subscribe_prices",
            kind: "response_not_read",
        },
    ];
    let watching = Instant::now();
    let clients = clients(&entries, door);
    let mut seen = Seen::default();
    let mut late_began = false;
    while !clients.is_finished() || watching.elapsed() < seconds(STORM) {
        seen.look(&mut daemon)?;
        if !late_began && watching.elapsed() > seconds(STORM / 2) {
            late.write("\n")?;
            late_began = true;
        }
        thread::sleep(Duration::from_secs(1));
    }
    let mut wrong = clients
        .join()
        .unwrap_or_else(|_| vec!["a client panicked".to_owned()]);
    println!("hostile: {} entries, {seen:?}", entries.len());

    let mut last = seen.look(&mut daemon)?;
    // what is missing then is said below
    let _ = wait::until("all to be refused and found", seconds(SETTLED), || {
        last = seen.look(&mut daemon)?;
        let missing = missing(&entries, &last);
        Ok(missing.is_empty() && leaks.iter().all(|leak| leak.is_found(&last)))
    });
    wrong.extend(missing(&entries, &last));
    let unknown = leaks.iter().filter(|leak| !leak.is_found(&last));
    wrong.extend(unknown.map(|leak| format!("not found: {leak:?} in {last}")));
    wrong.extend(shown(&daemon)?);
    wrong.extend(seen.too_much()?);
    println!(
        "hostile: {seen:?}, refused {}",
        last.0["coverage"]["refused"]
    );
    for one in &mut running {
        let because = one.program.stderr();
        if !one.program.runs()? && !because.is_empty() {
            wrong.push(format!(
                "the program of {:?} ended: {because}",
                one.entry.name
            ));
        }
    }
    drop(running);
    daemon.program.signal(libc::SIGTERM)?;
    let ended = daemon.program.end(seconds(60))?;
    if ended.code() != 0 {
        wrong.push(format!("its end is {}: {}", ended.code(), ended.stderr));
    }
    for entry in &entries {
        if let Made::Command(made) = entry.made {
            let refused = command(made, folder.path());
            wrong.extend(
                refused
                    .err()
                    .map(|error| format!("{}: {error:#}", entry.name)),
            );
        }
    }
    ensure!(
        wrong.is_empty(),
        "{}\n{:#}",
        wrong.join("\n"),
        last.0["coverage"]
    );
    Ok(())
}

/// The other end of all connections, which says nothing and lets go of the oldest.
fn sink() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        let mut kept = VecDeque::new();
        for stream in listener.incoming() {
            kept.extend(stream);
            if kept.len() > KEPT_MAX {
                kept.pop_front();
            }
        }
    });
    Ok(port)
}

/// A program that leaks from its first line of input on.
fn begins_later(address: &str) -> Result<Program> {
    let mut command = Command::new(host::tool("sh")?);
    command.args(["-c", "read line; exec \"$@\"", "sh"]);
    command.arg(fixtures::path("client")?);
    command.args(["unread", address, "4", "15000", "leak"]);
    Program::start(&mut command)
}

/// Starts what belongs to an entry; it does nothing before its first line of input.
fn start(entry: &'static Entry, port: u16, place: &Path) -> Result<Option<Running>> {
    let to = format!("127.0.0.1:{port}");
    let mut command = match entry.made {
        Made::Files(made) => {
            let mut command = Command::new(fixtures::path("through")?);
            command.arg(&to).args(made(place)?);
            command
        }
        Made::PerfMap(_) => {
            let mut command = Command::new(fixtures::path("through")?);
            // many places, so that there are names to look for again and again
            command.arg(&to).args(["[jit]"; 40]);
            command
        }
        Made::Program(name) => {
            let (python, script) = fixtures::python("hostile.py")?;
            let mut command = Command::new(python);
            command
                .arg(script)
                .args([name, &port.to_string()])
                .arg(place);
            command
        }
        Made::Client(_) | Made::Command(_) | Made::Elsewhere => return Ok(None),
    };
    let program = Program::start(&mut command)?;
    let perf_map = PathBuf::from(format!("/tmp/perf-{}.map", program.pid()));
    let kept = match entry.made {
        Made::PerfMap(made) => Some(made(&perf_map, place)?),
        _ => None,
    };
    Ok(Some(Running {
        entry,
        program,
        perf_map,
        kept,
    }))
}

/// A daemon that watches these processes, and where it listens.
fn open(folder: &TempDir, pids: &[u32]) -> Result<(Daemon, Door)> {
    let address = format!("127.0.0.1:{}", host::free_port()?);
    let token = "a-token-of-the-hostile-corpus".to_owned();
    let file = folder.path().join("token");
    fs::write(&file, &token)?;
    let file = file.to_string_lossy();
    let daemon = Daemon::start(pids, &["--listen", &address, "--token-file", &file])?;
    let door = Door {
        socket: daemon.socket().to_owned(),
        address,
        token,
    };
    Ok((daemon, door))
}

/// Has all clients do what they do, one after the other; what went wrong.
fn clients(entries: &[&'static Entry], door: Door) -> thread::JoinHandle<Vec<String>> {
    let entries = entries.to_vec();
    thread::spawn(move || {
        let mut wrong = Vec::new();
        for entry in entries {
            if let Made::Client(made) = entry.made {
                let said = made(&door).with_context(|| entry.name);
                wrong.extend(said.err().map(|error| format!("{error:#}")));
            }
        }
        wrong
    })
}

/// What was seen of a daemon while it was put upon.
#[derive(Debug, Default)]
struct Seen {
    pid: u32,
    looks: u32,
    slowest: Duration,
    peak_bytes: u64,
    /// With the readers, as of each look.
    together_bytes: u64,
}

impl Seen {
    /// Looks whether it lives and answers.
    fn look(&mut self, daemon: &mut Daemon) -> Result<Report> {
        let pid = daemon.program.pid();
        let begun = Instant::now();
        let answer = wait::for_value("an answer", seconds(PATIENCE), || {
            ensure!(
                daemon.program.runs()?,
                "the daemon ended: {}",
                daemon.program.stderr()
            );
            // clients may have taken all the places
            let alive = http::get(daemon.socket(), "/healthz");
            if let Ok(alive) = &alive {
                ensure!(alive.status == 200, "/healthz: {}", alive.body);
            }
            Ok(alive.ok().and_then(|_| daemon.report().ok()))
        })?;
        self.slowest = self.slowest.max(begun.elapsed());
        self.looks += 1;
        ensure!(self.pid == 0 || self.pid == pid, "another process");
        self.pid = pid;
        self.peak_bytes = host::resident_bytes(pid)?;
        let together =
            host::resident_now(pid) + host::children(pid).map(host::resident_now).sum::<u64>();
        self.together_bytes = self.together_bytes.max(together);
        Ok(answer)
    }

    /// Whether it took more memory than the manifests give it.
    fn too_much(&self) -> Result<Option<String>> {
        let limit = limit()?;
        let most = self.peak_bytes.max(self.together_bytes);
        Ok((most > limit).then(|| format!("{most} bytes of memory, the limit is {limit}")))
    }
}

/// The memory limit of the manifests, bytes.
fn limit() -> Result<u64> {
    let path = host::repository("deploy/kustomize/base/daemonset.yaml");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let limits = text.lines().filter_map(|line| {
        let value = line.trim().strip_prefix("memory:")?.trim();
        value.strip_suffix("Mi")?.parse::<u64>().ok()
    });
    let most = limits.max().context("no memory limit in the manifest")?;
    Ok(most << 20)
}

/// What entries want to be refused or lost and was not: counted at least once for each.
fn missing(entries: &[&'static Entry], report: &Report) -> Vec<String> {
    let coverage = &report.0["coverage"];
    let mut wanted: BTreeMap<(&str, &str), (u64, &str)> = BTreeMap::new();
    for entry in entries {
        let of = match entry.shows {
            Shows::Refused(what, reason) => (what, reason),
            Shows::Lost(cause) => ("", cause),
            Shows::Nothing => continue,
        };
        let place = wanted.entry(of).or_insert((0, entry.name));
        place.0 += 1;
    }
    let refused = |what: &str, reason: &str| {
        let all = coverage["refused"].as_array();
        let found = all.and_then(|all| {
            all.iter()
                .find(|one| one["what"] == what && one["reason"] == reason)
        });
        found.and_then(|one| one["count"].as_u64()).unwrap_or(0)
    };
    wanted
        .into_iter()
        .filter_map(|((what, reason), (least, name))| {
            let count = match what.is_empty() {
                true => coverage["losses"][reason].as_u64().unwrap_or(0),
                false => refused(what, reason),
            };
            (count < least).then(|| {
                format!("{what} {reason}: {count} times, and not {least} ({name} and its like)")
            })
        })
        .collect()
}

/// A leak that is to be told of.
#[derive(Debug)]
struct Leak {
    pid: u32,
    function: &'static str,
    kind: &'static str,
}

impl Leak {
    fn is_found(&self, report: &Report) -> bool {
        report.findings().iter().any(|finding| {
            let instances = finding["instances"].as_array();
            finding["call_site"]["function"] == self.function
                && finding["kind"] == self.kind
                && instances.is_some_and(|all| all.iter().any(|one| one["pid"] == self.pid))
        })
    }
}

/// What must not be shown, and is.
fn shown(daemon: &Daemon) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let metrics = daemon.metrics()?;
    let shown = |what: &'static str, form: &str| -> Result<(&'static str, String)> {
        let arguments = [what, "-o", form, "--endpoint", daemon.socket()];
        Ok((what, tracer::run(&arguments, seconds(60))?.stdout))
    };
    let csv = shown("top", "csv")?;
    let texts = [
        csv.clone(),
        shown("top", "json")?,
        shown("top", "wide")?,
        shown("connections", "json")?,
        shown("connections", "csv")?,
        ("/v1/report", http::get(daemon.socket(), "/v1/report")?.body),
        ("/metrics", metrics.clone()),
    ];
    for (what, text) in &texts {
        let evil = |line: &&str| line.chars().any(is_evil) || line.contains(SECRET);
        if let Some(line) = text.lines().find(evil) {
            let at = line
                .find(SECRET)
                .or_else(|| line.find(is_evil))
                .unwrap_or(0);
            let around: String = line
                .chars()
                .skip(at.saturating_sub(200))
                .take(400)
                .collect();
            wrong.push(format!("{what} shows what it must not: {around:?}"));
        }
    }
    let cells = csv.1.lines().flat_map(|line| line.split(','));
    let formula = cells
        .map(|cell| cell.trim_matches('"'))
        .find(|cell| cell.starts_with(['=', '@']));
    wrong.extend(formula.map(|cell| format!("a formula in CSV: {cell:?}")));
    let mut series = BTreeSet::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let name = line.rsplit_once(' ').map_or(line, |(name, _)| name);
        if !series.insert(name) {
            wrong.push(format!("twice in the metrics: {name}"));
        }
    }
    if series.len() > METRICS_MAX {
        wrong.push(format!("{} series", series.len()));
    }
    Ok(wrong)
}

/// A sign that does things to terminals, or turns text around.
fn is_evil(sign: char) -> bool {
    (sign.is_control() && sign != '\n' && sign != '\t')
        || matches!(sign, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Runs a command that has to end by itself, and to say why.
fn command(made: fn(&Path) -> Result<Vec<String>>, folder: &Path) -> Result<()> {
    let arguments = made(folder)?;
    let ended = tracer::run(&arguments, seconds(60))?;
    let code = ended.code();
    ensure!(
        (1..128).contains(&code),
        "its status is {code}: {}",
        ended.stderr
    );
    ensure!(!ended.stderr.trim().is_empty(), "it does not say why");
    ensure!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    Ok(())
}
