//! The programs, the daemon that watches them, and what must be true of them at any time.

use std::{collections::BTreeMap, fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tracer_tests::{
    daemon::Daemon,
    fixtures,
    host::{seconds, socket_inodes},
    objects::{Kind, Objects},
    program::Program,
    wait,
};

use crate::{
    bpffs::BpfFs,
    scenes::{self, Scene},
    targets::Group,
};

/// Sockets that the daemon has room for.
pub const ROOM: u64 = 8_000;
/// What the daemon may grow by, KiB: populations of programs that ended within the hour are
/// remembered, up to 25 kB each, and here some twenty programs end in each turn of the faults. A
/// quarter of what the manifests allow.
const GROWTH_KIB: u64 = 192 << 10;
/// How long each fault's consequences may take.
const PATIENCE: u64 = 60;

/// A program that leaks, and what is to be said of it.
struct Leak {
    scene: Scene,
    function: &'static str,
    /// What was said at first.
    said: Option<Value>,
}

/// What a daemon takes.
#[derive(Debug)]
struct Footprint {
    resident_kib: u64,
    descriptors: usize,
    objects: BTreeMap<&'static str, usize>,
}

impl Footprint {
    fn of(pid: u32) -> Result<Footprint> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        let objects = Objects::of(pid);
        let kinds = [
            ("programs", Kind::Program),
            ("maps", Kind::Map),
            ("links", Kind::Link),
        ];
        Ok(Footprint {
            resident_kib: kib.context("no VmRSS")?.parse()?,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            objects: kinds.map(|(name, kind)| (name, objects.count(kind))).into(),
        })
    }

    /// What is larger than it may be, compared with an earlier one. Files of programs that came later
    /// are kept open, and their libraries may be probed.
    fn grown(&self, first: &Footprint) -> Option<String> {
        let objects = self.objects.iter().any(|(name, count)| {
            let more = if *name == "maps" { 4 } else { 32 };
            *count > first.objects.get(name).copied().unwrap_or(0) + more
        });
        let grown = objects
            || self.descriptors > first.descriptors + 128
            || self.resident_kib > first.resident_kib + GROWTH_KIB;
        grown.then(|| format!("it was {first:?}, it is {self:?}"))
    }
}

/// The programs, and the daemon that watches them.
pub struct World {
    daemon: Option<Daemon>,
    leaks: Vec<Leak>,
    healthy: Vec<Scene>,
    first: Option<Footprint>,
    pins: usize,
    /// For files.
    pub directory: TempDir,
    // the programs must have ended before the group is removed
    pub group: Group,
    bpffs: BpfFs,
}

impl World {
    /// Starts the programs, `rate` calls a second each, and a daemon.
    pub fn begin(rate: u32) -> Result<World> {
        let name = format!("tracer-test-chaos-{}", std::process::id());
        let group = Group::make("cgroup2", "", &name)?;
        let leaky = |scene: Result<Scene>, function| -> Result<Leak> {
            Ok(Leak {
                scene: scene?,
                function,
                said: None,
            })
        };
        let client = |mode, how| scenes::client("client", mode, rate, 100_000, how);
        // what lingers for sixteen calls has gone before anybody can call it a leak
        let brisk = rate.max(4);
        let healthy = |mode, how| scenes::client("client", mode, brisk, 100_000, how);
        let leaks = vec![
            leaky(client("fetch", "leak"), "fetch_price")?,
            leaky(client("reuse", "leak"), "watch_orders")?,
            leaky(
                scenes::rust("rates", "http", rate, 100_000, "leak"),
                "fetch_exchange_rate",
            )?,
        ];
        let healthy = vec![
            healthy("pool", "leak")?,
            healthy("linger", "leak")?,
            healthy("fetch", "close")?,
            scenes::store(brisk, 100_000, "close")?,
        ];
        let mut scenes = leaks.iter().map(|leak| &leak.scene).chain(&healthy);
        scenes.try_for_each(|scene| group.take(scene.pid()))?;
        let mut world = World {
            daemon: None,
            leaks,
            healthy,
            first: None,
            pins: 0,
            directory: tempfile::tempdir()?,
            group,
            bpffs: BpfFs::mount()?,
        };
        world.daemon = Some(world.start()?);
        world.settle("the beginning")?;
        for leak in &mut world.leaks {
            let report = world.daemon.as_ref().context("no daemon")?.report()?;
            leak.said = of(report.findings(), leak.scene.pid())
                .find(|finding| is_at(finding, leak.function))
                .map(lasting);
        }
        world.first = Some(Footprint::of(world.daemon()?.program.pid())?);
        world.pins = entries(&world.bpffs.outside())?;
        Ok(world)
    }

    fn start(&self) -> Result<Daemon> {
        let (pins, room) = (self.bpffs.pins(), ROOM.to_string());
        let cgroup = self.group.0.to_string_lossy();
        let more = ["--cgroup", &cgroup, "--pin", &pins, "--max-sockets", &room];
        Daemon::start_as(&[], &more, |command| self.bpffs.enter(command))
    }

    /// The daemon of this moment.
    pub fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("no daemon")
    }

    /// Ends the daemon by a signal, and starts its successor.
    pub fn restart(&mut self, signal: i32) -> Result<()> {
        let daemon = self.daemon.take().context("no daemon")?;
        daemon.program.signal(signal)?;
        daemon.program.end(seconds(30))?;
        self.daemon = Some(self.start()?);
        Ok(())
    }

    /// Starts another program, to be watched as well.
    pub fn program(&self, name: &str, arguments: &[&str]) -> Result<Program> {
        let (program, _) = Program::ready(fixtures::path(name)?, arguments)?;
        self.group.take(program.pid())?;
        Ok(program)
    }

    /// Opens and closes as fast as can be.
    pub fn churn(&mut self, what: &str) -> Result<()> {
        let mut load = self.program("load", &["churn", what, "1000"])?;
        load.write("\n")?;
        thread::sleep(Duration::from_secs(3));
        load.write("\n")?;
        load.line("DONE", seconds(60)).map(drop)
    }

    /// What became of the daemon.
    pub fn summary(&self) -> Result<String> {
        let last = Footprint::of(self.daemon()?.program.pid())?;
        let counts = self.daemon()?.accounting()?;
        let first = &self.first;
        Ok(format!("{first:?} became {last:?}; {counts:?}"))
    }

    /// Waits until all is as it should be: what is found while the programs run, and the counts while
    /// they are stopped, because what was opened since the daemon looked last is not counted as live.
    pub fn settle(&mut self, after: &str) -> Result<()> {
        let daemon = self.daemon.as_mut().context("no daemon")?;
        ensure!(
            daemon.program.runs()?,
            "after {after} the daemon ended: {}",
            daemon.program.stderr()
        );
        self.right(after, World::wrong)?;
        self.signal(libc::SIGSTOP)?;
        let settled = self.right(after, World::miscounted);
        self.signal(libc::SIGCONT)?;
        settled
    }

    fn right(&self, after: &str, look: impl Fn(&World) -> Result<Option<String>>) -> Result<()> {
        let mut wrong = String::new();
        let settled = wait::until("all to be right", seconds(PATIENCE), || {
            wrong = look(self)?.unwrap_or_default();
            Ok(wrong.is_empty())
        });
        settled.with_context(|| format!("after {after}: {wrong}"))
    }

    fn scenes(&self) -> impl Iterator<Item = &Scene> {
        let leaking = self.leaks.iter().map(|leak| &leak.scene);
        leaking.chain(&self.healthy)
    }

    fn signal(&self, signal: i32) -> Result<()> {
        self.scenes()
            .try_for_each(|scene| scene.program.signal(signal))
    }

    /// What is not right yet; an error is never right.
    fn wrong(&self) -> Result<Option<String>> {
        let daemon = self.daemon()?;
        let report = match daemon.report() {
            Ok(report) => report,
            Err(error) => return Ok(Some(format!("{error:#}"))),
        };
        for healthy in &self.healthy {
            // a suspicion while its first connections come and none has gone yet has to pass
            let mut findings = of(report.findings(), healthy.pid());
            if let Some(finding) = findings.next() {
                let suspected = finding["confidence"] == "low";
                ensure!(suspected, "{}: {finding:#}", healthy.name);
                return Ok(Some(format!("{}: {finding:#}", healthy.name)));
            }
        }
        for leak in &self.leaks {
            let findings: Vec<&Value> = of(report.findings(), leak.scene.pid()).collect();
            for finding in &findings {
                let function = finding["call_site"]["function"].as_str();
                ensure!(
                    function.is_none_or(|f| f.contains("+0x")) || is_at(finding, leak.function),
                    "a wrong name: {finding:#}"
                );
            }
            let found = findings.iter().find(|f| is_at(f, leak.function));
            let found = found.map(|finding| lasting(finding));
            if found.is_none() || leak.said.is_some() && found != leak.said {
                let (name, said) = (&leak.scene.name, &leak.said);
                return Ok(Some(format!(
                    "{name}: it was {said:?}, it is {found:?} of {}",
                    findings.len()
                )));
            }
        }
        let pins = entries(&self.bpffs.outside())?;
        if self.pins > 0 && pins > self.pins {
            return Ok(Some(format!("{} pins have become {pins}", self.pins)));
        }
        let footprint = Footprint::of(daemon.program.pid())?;
        Ok(self.first.as_ref().and_then(|first| footprint.grown(first)))
    }

    /// Whether the counts do not agree, or other connections are listed than the programs have, which
    /// are stopped.
    fn miscounted(&self) -> Result<Option<String>> {
        let daemon = self.daemon()?;
        let (counts, (rows, omitted)) = match (daemon.accounting(), daemon.connections(1)) {
            (Ok(counts), Ok(list)) => (counts, list),
            (Err(error), _) | (_, Err(error)) => return Ok(Some(format!("{error:#}"))),
        };
        if !counts.balances() {
            return Ok(Some(format!("the counts do not agree: {counts:?}")));
        }
        let mut open = 0;
        for scene in self.scenes() {
            open += socket_inodes(scene.pid())?.len() as u64;
        }
        let listed = rows.len() as u64 + omitted;
        // one of each program may have been on its way
        let fits = listed.abs_diff(open) <= 8;
        Ok((!fits).then(|| format!("{listed} are listed of {open}; {counts:?}")))
    }
}

/// Findings about a process.
pub fn of(findings: &[Value], pid: u32) -> impl Iterator<Item = &Value> {
    findings.iter().filter(move |finding| {
        let instances = finding["instances"].as_array();
        instances.is_some_and(|all| all.iter().any(|instance| instance["pid"] == pid))
    })
}

/// Whether a finding's call site is this function.
pub fn is_at(finding: &Value, function: &str) -> bool {
    let name = finding["call_site"]["function"].as_str();
    name.is_some_and(|name| name.rsplit("::").next() == Some(function))
}

/// What of a finding must not change.
pub fn lasting(finding: &Value) -> Value {
    serde_json::json!({
        "id": finding["id"],
        "kind": finding["kind"],
        "call_site": finding["call_site"],
        "url": finding["remote"]["url"],
    })
}

/// Files below a directory.
pub fn entries(directory: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry?.path();
        count += if path.is_dir() { entries(&path)? } else { 1 };
    }
    Ok(count)
}
