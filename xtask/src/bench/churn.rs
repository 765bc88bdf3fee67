//! Connections that come and go, as fast as two CPUs can make them.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{
    Bar, Bench, Row, Section,
    load::Load,
    peers::PEERS,
    profile,
    traced::{Daemon, Process},
};

/// Total CPU under churn.
pub const SECTION: Section = Section {
    name: "churn",
    title: "Short connections",
    about: "Loopback, a client and a server thread on each CPU, both ends traced: connect, one HTTP request and \
            response, close, without a pause. The ratio is CPU time per connection, of the load (with the \
            kernel's work for it) and of the tracer's own process, to that of the same load without a tracer \
            just before and after. Where neighbours share a machine's cores that is noisy: see what it makes of \
            nothing. By profile: samples of the load (perf, cpu-clock) taken while it is traced, all of them to \
            those outside of tracer's programs and of the tracepoints' calls. That is steady, and tells on which \
            side of a bar the cost lies where the ratio is too noisy to; it does not see what the programs push \
            out of the load's caches. The bars are those of a prototype that kept neither stack nor URL of a \
            request. The daemon's own time is that of its sweeps, one in two seconds while \
            no connection lasts, whatever the number of connections; more than half of it is the kernel's walk \
            over the buckets of the socket table, nearly all of them empty. A smaller `--max-sockets` shrinks it.",
    run,
};

/// For the life of a connection with the stack of its opener, over nothing.
const STACK_BAR: Bar = Bar::AtMost(1.08);
/// For that with activity and the number of requests.
const ACTIVITY_BAR: Bar = Bar::AtMost(1.10);
/// Measured after each change of tracer.
const WINDOW: Duration = Duration::from_millis(1500);
/// Before it, so that call paths are known and everything is warm.
const WARM_UP: Duration = Duration::from_millis(700);

/// Who watches.
#[derive(Clone, Copy)]
pub enum Watcher {
    /// Nobody: what the way of measuring makes of nothing.
    Nobody,
    /// `tracer daemon` with these further arguments.
    Tracer(&'static [&'static str]),
    /// The same of the other build that is measured beside.
    Against(&'static [&'static str]),
    /// Another tool.
    Peer(super::peers::Peer),
}

/// What it cost, round by round.
#[derive(Debug, Default, Clone)]
pub struct Cost {
    /// CPU time per unit of load, over that without it.
    pub ratios: Vec<f64>,
    /// CPU time of the load per unit, nanoseconds.
    pub load_ns: Vec<f64>,
    /// CPU time of its own process per unit of load, nanoseconds.
    pub own_ns: Vec<f64>,
    /// CPU time per unit of load without it, nanoseconds.
    pub plain_ns: Vec<f64>,
    /// Units of load per second without it.
    pub plain_rate: Vec<f64>,
    /// Why it could not be measured.
    pub failed: Option<String>,
}

/// Tracer with everything that is on by default.
pub const ALL: Watcher = Watcher::Tracer(&[]);
/// Tracer without what it keeps of each request but their number and times.
pub const COUNTING: Watcher =
    Watcher::Tracer(&["--without", "request-stacks", "--without", "heads"]);
/// Tracer with the stacks of requests, but not their first bytes.
pub const STACKS: Watcher = Watcher::Tracer(&["--without", "heads"]);
/// Tracer without the events of transfers: no activity, requests and heads.
const LIFECYCLE: Watcher = Watcher::Tracer(&["--without", "send", "--without", "receive"]);
/// The same without stacks.
const BARE: Watcher = Watcher::Tracer(&[
    "--without",
    "send",
    "--without",
    "receive",
    "--without",
    "stacks",
]);

impl Cost {
    /// The rounds of both.
    fn and(&self, other: &Self) -> Self {
        let both = |a: &[f64], b: &[f64]| [a, b].concat();
        Self {
            ratios: both(&self.ratios, &other.ratios),
            load_ns: both(&self.load_ns, &other.load_ns),
            own_ns: both(&self.own_ns, &other.own_ns),
            plain_ns: both(&self.plain_ns, &other.plain_ns),
            plain_rate: both(&self.plain_rate, &other.plain_rate),
            failed: self.failed.clone().or_else(|| other.failed.clone()),
        }
    }

    /// CPU time of the load per unit beyond that without a watcher, nanoseconds.
    pub fn added_ns(&self) -> Vec<f64> {
        let load_ns = self.load_ns.iter();
        load_ns
            .zip(&self.plain_ns)
            .map(|(with, without)| with - without)
            .collect()
    }
}

fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut load = Load::start(bench, &["churn"])?;
    let watchers = [BARE, LIFECYCLE, COUNTING, STACKS, ALL, Watcher::Nobody];
    // those with a bar, in most rounds alone
    let barred = [LIFECYCLE, COUNTING];
    let own = compare(bench, &mut load, &watchers, bench.rounds(8))?;
    let more = compare(bench, &mut load, &barred, bench.rounds(16))?;
    let [bare, lifecycle, counting, stacks, all, nobody] = own.as_slice() else {
        return Ok(Vec::new());
    };
    let [more_lifecycle, more_counting] = more.as_slice() else {
        return Ok(Vec::new());
    };
    let (lifecycle, counting) = (lifecycle.and(more_lifecycle), counting.and(more_counting));
    let ratio = |name: &str, cost: &Cost| Row::new(name, "ratio", cost.ratios.clone());
    let mut rows = vec![
        Row::new("untraced", "connections/s", all.plain_rate.clone()),
        Row::new(
            "untraced, per connection",
            "ns of CPU",
            all.plain_ns.clone(),
        ),
        ratio("nothing", nobody).note("the noise of the ratios below"),
        ratio("lifecycle", bare),
        ratio("+ the opener's stack", &lifecycle)
            .bar(STACK_BAR)
            .note("of both ends"),
        ratio("+ activity and number of requests", &counting).bar(ACTIVITY_BAR),
        ratio("+ the stack of each request", stacks).note("beyond what the bar was set for"),
        ratio("everything: + the URL of each request", all).note("beyond what the bar was set for"),
        Row::new("everything, per connection", "ns more", all.added_ns())
            .note("of the load's CPU time"),
        Row::new("daemon, per connection", "ns", all.own_ns.clone())
            .bar(Bar::AtMost(50.0))
            .note("its own CPU time, everything on; a connection has two traced ends"),
    ];
    let opener = profile::ratio(bench, &mut load, "with the opener's stack", &LIFECYCLE)?;
    rows.push(opener.bar(STACK_BAR));
    let activity = "+ activity and number of requests";
    let (activity, shares) = profile::ratio_and_shares(bench, &mut load, activity, &COUNTING)?;
    rows.push(activity.bar(ACTIVITY_BAR));
    rows.extend(shares);
    rows.push(profile::ratio(bench, &mut load, "everything", &ALL)?);
    rows.extend(against(bench, &mut load)?);
    let peers: Vec<Watcher> = PEERS.iter().map(|&peer| Watcher::Peer(peer)).collect();
    for (peer, cost) in PEERS
        .iter()
        .zip(compare(bench, &mut load, &peers, bench.rounds(3))?)
    {
        let note = cost.failed.as_deref().unwrap_or(peer.note);
        rows.push(Row::new(peer.name, "ratio", cost.ratios).note(note));
        rows.push(Row::new(
            format!("{}, per connection", peer.name),
            "ns",
            cost.own_ns,
        ));
    }
    Ok(rows)
}

/// Runs the load with each watcher in turn, and without any in between.
pub fn compare(
    bench: &Bench,
    load: &mut Load,
    watchers: &[Watcher],
    rounds: usize,
) -> Result<Vec<Cost>> {
    let mut costs = vec![Cost::default(); watchers.len()];
    let mut before = load.run(WINDOW)?;
    for _ in 0..rounds {
        for (watcher, cost) in watchers.iter().zip(&mut costs) {
            if cost.failed.is_some() {
                continue;
            }
            let started = match start(bench, watcher, load.pid()) {
                Ok(started) => started,
                Err(error) => {
                    cost.failed = Some(format!("{error:#}"));
                    continue;
                }
            };
            let warm = load.run(WARM_UP)?;
            let own_before_ns = started.cpu_ns();
            let traced = load.run(WINDOW)?;
            let own_ns = started.cpu_ns() - own_before_ns;
            drop(started);
            let after = load.run(WINDOW)?;
            let plain_ns = (before.cpu_ns + after.cpu_ns) / (before.units + after.units);
            // its own time is that of the whole run, the load's that of the window
            let own_ns = own_ns / (traced.total - warm.total) as f64;
            cost.load_ns.push(traced.cpu_ns / traced.units);
            cost.own_ns.push(own_ns);
            cost.plain_ns.push(plain_ns);
            cost.plain_rate.push(after.units / after.wall_ns * 1e9);
            cost.ratios
                .push((traced.cpu_ns / traced.units + own_ns) / plain_ns);
            before = after;
        }
    }
    Ok(costs)
}

/// This build and the other, where one is given, in rounds that alternate.
pub fn against(bench: &Bench, load: &mut Load) -> Result<Vec<Row>> {
    const OTHER: &str = "another build";
    if bench.against.is_none() {
        return Ok(Vec::new());
    }
    let other = |own| match own {
        Watcher::Tracer(arguments) => Watcher::Against(arguments),
        else_ => else_,
    };
    let pairs = [
        ("activity and number of requests", COUNTING),
        ("everything", ALL),
    ]
    .map(|(name, own)| (name, own, other(own)));
    let watchers: Vec<Watcher> = pairs
        .iter()
        .flat_map(|&(_, own, other)| [own, other])
        .collect();
    let costs = compare(bench, load, &watchers, bench.rounds(5))?;
    let mut rows = Vec::new();
    for ((name, own, other), costs) in pairs.iter().zip(costs.chunks(2)) {
        let (mut own_ratios, mut other_ratios) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds(3) {
            let pid = load.pid();
            own_ratios.push(profile::one_ratio(bench, load, pid, own)?);
            other_ratios.push(profile::one_ratio(bench, load, pid, other)?);
        }
        for (whose, cost, ratios) in [
            ("this build", costs.first(), own_ratios),
            (OTHER, costs.last(), other_ratios),
        ] {
            let row = |what: &str| format!("{whose}: {what}{name}");
            let cost = cost.map(|cost| cost.ratios.clone()).unwrap_or_default();
            rows.push(Row::new(row(""), "ratio", cost));
            rows.push(Row::new(row("by profile: "), "ratio", ratios));
        }
    }
    Ok(rows)
}

/// A watcher at work; it ends with this value.
pub enum Started {
    /// Nobody.
    Nobody,
    /// `tracer daemon`.
    Tracer(Daemon),
    /// Another tool.
    Peer(Process),
}

impl Started {
    /// CPU time of its own process so far, nanoseconds.
    fn cpu_ns(&self) -> f64 {
        match self {
            Self::Nobody => 0.0,
            Self::Tracer(daemon) => daemon.process.cpu_ns(),
            Self::Peer(process) => process.cpu_ns(),
        }
    }
}

/// Starts it.
pub fn start(bench: &Bench, watcher: &Watcher, pid: u32) -> Result<Started> {
    Ok(match watcher {
        Watcher::Nobody => Started::Nobody,
        Watcher::Tracer(arguments) => Started::Tracer(Daemon::start(bench, pid, arguments)?),
        Watcher::Against(arguments) => {
            let other = bench
                .against
                .as_deref()
                .context("there is no other build")?;
            Started::Tracer(Daemon::start_of(other, bench, &[pid], arguments)?)
        }
        Watcher::Peer(peer) => Started::Peer(peer.start(pid)?),
    })
}
