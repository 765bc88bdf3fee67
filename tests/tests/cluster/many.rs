//! Pods that come and go: no wrong name is said, and nothing grows.
//!
//! `TRACER_PODS` says how many (500, in ten minutes, of the full run).

use std::{
    collections::{BTreeMap, VecDeque},
    env, fs, process,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use tracer_tests::{
    cluster::ApiServer,
    daemon::Daemon,
    fixtures,
    host::{self, resident_bytes},
    program::Program,
    runc::{Cgroups, Container, Runc},
    runner::NotApplicable,
};

use super::{daemon, pod::Pod, real::full};
use crate::scenes;

/// Pods of a full run.
const PODS: u32 = 500;
/// One in so many is a real container.
const REAL_EVERY: u32 = 16;
/// From one pod to the next: 500 in ten minutes.
const EVERY: Duration = Duration::from_millis(1_200);
/// Pods there are at one time.
const AT_ONCE: usize = 8;
/// How much a daemon's memory may grow over the later half.
const GROWTH_MAX: u64 = 12 << 20;

enum Running<'a> {
    Process(Program),
    Container(Container<'a>),
}

impl Running<'_> {
    fn pid(&self) -> u32 {
        match self {
            Running::Process(program) => program.pid(),
            Running::Container(container) => container.pid,
        }
    }
}

pub fn pods_coming_and_going() -> Result<()> {
    host::require_root()?;
    let asked = env::var("TRACER_PODS")
        .ok()
        .and_then(|text| text.parse().ok());
    if asked.is_none() && !full() {
        bail!(NotApplicable("part of the full run".to_owned()));
    }
    let pods: u32 = asked.unwrap_or(PODS);
    let runc = Runc::unpacked()?;
    let mut api = ApiServer::start()?;
    let root = tempfile::tempdir()?;
    let groups = Cgroups::named(format!("tracer-test-pods-{}", process::id()));
    let target = groups.unified()?;
    let (_server, address) = scenes::server("http", "127.0.0.1:0")?;
    let client = fixtures::path("client")?;
    let arguments = ["fetch", &address, "4", "40", "leak"];
    let daemon = daemon(
        &api,
        root.path(),
        &[],
        &["--cgroup", &target.to_string_lossy()],
    )?;

    let mut names: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut running: VecDeque<(Pod, Running<'_>)> = VecDeque::new();
    let (mut named, mut settled, mut containers) = (0, 0, 0);
    for number in 0..pods {
        let next = Instant::now() + EVERY;
        let pod = Pod::new(0x100 + number);
        let name = format!("job-{number}");
        let metadata = pod.metadata(
            &name,
            &json!({ "labels": { "number": number.to_string() } }),
        );
        // the watch may tell of it before or after its process comes
        if number % 2 == 0 {
            api.put(&metadata);
        }
        let path = format!("kubepods/burstable/pod{}/{}", pod.uid, pod.id);
        let one = if number % REAL_EVERY == 0 {
            containers += 1;
            let path = format!("{}/{path}", groups.path());
            Running::Container(runc.run(&pod.id, &path, &client, &arguments)?)
        } else {
            let group = target.join(&path);
            fs::create_dir_all(&group)?;
            let mut program = Program::start(process::Command::new(&client).args(arguments))?;
            fs::write(group.join("cgroup.procs"), program.pid().to_string())?;
            ensure!(program.runs()?, "{}", program.stderr());
            Running::Process(program)
        };
        names.entry(one.pid()).or_default().push(name);
        if number % 2 == 1 {
            api.put(&metadata);
        }
        running.push_back((pod, one));
        if running.len() > AT_ONCE
            && let Some((pod, one)) = running.pop_front()
        {
            drop(one);
            api.remove(&pod.uid);
            remove_group(&target, &pod);
        }
        // now and then it is away for some pods, or has lost its history
        match number % 60 {
            20 => api.kill()?,
            24 => api.start_again()?,
            40 => api.forget(),
            _ => {}
        }
        named += right(&daemon, &names)?;
        if number == pods / 2 {
            settled = resident_bytes(daemon.program.pid())?;
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let now = resident_bytes(daemon.program.pid())?;
    println!(
        "{pods} pods, {containers} of them containers: {named} connections named rightly, none wrongly; \
         {} KiB after half of them, {} at the end; {} requests",
        settled >> 10,
        now >> 10,
        api.asked().len()
    );
    ensure!(
        named > u64::from(pods),
        "only {named} connections had a name"
    );
    ensure!(now < settled + GROWTH_MAX, "{settled} bytes grew to {now}");
    drop(running);
    Ok(())
}

/// Holds the pods that connections and findings are said to be of; how many of them had a name.
fn right(daemon: &Daemon, names: &BTreeMap<u32, Vec<String>>) -> Result<u64> {
    let mut named = 0;
    let mut hold = |pid: &Value, pod: &Value| {
        let Some(said) = pod.as_str() else {
            return Ok(());
        };
        let pid = pid
            .as_u64()
            .and_then(|pid| u32::try_from(pid).ok())
            .unwrap_or(0);
        let right = names
            .get(&pid)
            .is_some_and(|names| names.iter().any(|name| name == said));
        ensure!(
            right,
            "process {pid} is said to be of {said}, it is of {:?}",
            names.get(&pid)
        );
        named += 1;
        Ok(())
    };
    let (rows, _) = daemon.connections(10_000)?;
    for row in &rows {
        hold(&row["pid"], &row["pod"])?;
    }
    for finding in daemon.report()?.findings() {
        hold(&finding["process"]["pid"], &finding["process"]["pod"])?;
    }
    Ok(named)
}

/// Removes the group of a pod that ended.
fn remove_group(target: &std::path::Path, pod: &Pod) {
    let pod_group = target.join(format!("kubepods/burstable/pod{}", pod.uid));
    let _ = fs::remove_dir(pod_group.join(&pod.id));
    let _ = fs::remove_dir(pod_group);
}
