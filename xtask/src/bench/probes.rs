//! What a run of each program takes, by the kernel's own statistics.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;

use super::{
    Bench, Row, Section,
    https::Https,
    load::Load,
    profile::SETTLED,
    stats::{Runs, Stats},
    traced::Daemon,
};

/// Nanoseconds per run.
pub const SECTION: Section = Section {
    name: "probes",
    title: "Each probe",
    about: "Nanoseconds of a run of each program that runs often under a load, by the kernel's statistics (BPF_ENABLE_STATS), \
            and how often it runs for a request or connection: the loads of short and of kept connections, of which both ends \
            are traced, and the HTTPS server and its clients, one at a time. In it are both of the kernel's readings of the \
            clock, some 40 ns here; the kernel's way into and out of the program is not, nor is the trap of a uprobe. `sent` \
            and `received` run for each transfer on the host, and `tls_write` for each write of the library, so of HTTPS the mean is \
            also over the end that is not traced, where they leave after one look-up. It is over transfers that begin or answer a \
            request, whose stack is looked at, and the head of a request or response with it, and those that do not. `tls_write` is hit by each write of a TLS library. Of what \
            clients write each is the head of a request, which is kept with its stack; of what the server writes, the heads of its answers and their bodies, none is.",
    run,
};

/// One round's time.
const WINDOW: Duration = Duration::from_millis(700);
/// Programs that run more seldom than once in so many units of load are left out.
const SELDOM: f64 = 20.0;

/// Samples by program: nanoseconds per run, and runs per unit of load.
type Samples = BTreeMap<String, (Vec<f64>, Vec<f64>)>;

fn run(bench: &Bench) -> Result<Vec<Row>> {
    let stats = Stats::enable()?;
    let mut rows = Vec::new();
    for (mode, title) in [("keep", "kept connections"), ("churn", "short connections")] {
        let mut load = Load::start(bench, &[mode])?;
        let pid = load.pid();
        rows.extend(measure(bench, &stats, &mut load, pid, title)?);
    }
    let mut https = Https::start(bench, "2")?;
    for (pid, title) in [
        (https.clients, "HTTPS, the clients (heads of requests)"),
        (https.server, "HTTPS, the server (no heads)"),
    ] {
        rows.extend(measure(bench, &stats, &mut https.load, pid, title)?);
    }
    Ok(rows)
}

fn measure(
    bench: &Bench,
    stats: &Stats,
    load: &mut Load,
    pid: u32,
    title: &str,
) -> Result<Vec<Row>> {
    let daemon = Daemon::start(bench, pid, &[])?;
    let mut total = load.run(SETTLED)?.total;
    let mut samples = Samples::new();
    for _ in 0..bench.rounds(9) {
        let before = stats.of(daemon.process.0.id())?;
        let run = load.run(WINDOW)?;
        let after = stats.of(daemon.process.0.id())?;
        // the run's own warm-up is in it
        let units = (run.total - total) as f64;
        total = run.total;
        for (name, after) in after {
            let before = before.get(&name).copied().unwrap_or_default();
            take(&mut samples, name, before, after, units);
        }
    }
    Ok(samples
        .into_iter()
        .map(|(name, (ns, often))| {
            let often = super::row::median(&often).unwrap_or_default();
            Row::new(format!("{title}: `{name}`"), "ns", ns)
                .note(format!("{often:.2} runs for each"))
        })
        .collect())
}

fn take(samples: &mut Samples, name: String, before: Runs, after: Runs, units: f64) {
    let runs = after.runs.saturating_sub(before.runs) as f64;
    if runs * SELDOM < units {
        return;
    }
    let (ns, often) = samples.entry(name).or_default();
    ns.push(after.ns.saturating_sub(before.ns) as f64 / runs);
    often.push(runs / units);
}
