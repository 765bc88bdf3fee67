//! What is lost while the daemon does not run.

use std::{thread, time::Duration};

use anyhow::Result;

use super::{
    Bar, Bench, Row, Section,
    load::Load,
    traced::{Daemon, signal},
};

/// The daemon stopped under load.
pub const SECTION: Section = Section {
    name: "stall",
    title: "The daemon stopped for two seconds",
    about: "The daemon is stopped (SIGSTOP) for two seconds of the load of short connections; then its count of sockets is \
            compared with the load's own, two for each connection.",
    run,
};

/// How long the load runs meanwhile, beside its warm-up.
const STOPPED: Duration = Duration::from_millis(1800);
const WARM_UP: Duration = Duration::from_millis(300);
/// An answer is made anew when the last one is older (`REPORT_AGE_MAX` of the daemon).
const STALE_AFTER: Duration = Duration::from_millis(2_500);

fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut load = Load::start(bench, &["churn"])?;
    let daemon = Daemon::start(bench, load.pid(), &[])?;
    let mut before = load.run(WARM_UP)?;
    // else the count may be that of an answer from before
    thread::sleep(STALE_AFTER);
    let (mut sockets, mut lost) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds(3) {
        let seen_before = daemon.sockets_seen()?;
        signal(daemon.process.0.id(), "STOP");
        let run = load.run(STOPPED);
        signal(daemon.process.0.id(), "CONT");
        let run = run?;
        let made = 2.0 * (run.total - before.total) as f64;
        sockets.push(made);
        lost.push(made - (daemon.sockets_seen()? - seen_before));
        before = run;
    }
    Ok(vec![
        Row::new("sockets meanwhile", "", sockets),
        Row::new("of them not counted", "", lost)
            .bar(Bar::Within(0.0))
            .note("kept in the kernel, with call site and lifetime, until the daemon reads them"),
    ])
}
