//! A system call that has nothing to do with connections.

use anyhow::Result;

use super::{
    Bar, Bench, Row, Section,
    churn::{ALL, Watcher, compare},
    load::Load,
    peers::SYSCALL_TRACEPOINT,
};

/// The tax on everything else.
pub const SECTION: Section = Section {
    name: "syscall",
    title: "An unrelated system call",
    about: "CPU time of `getppid`, called without a pause by a traced process, beyond that of the same call untraced.",
    run,
};

fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut load = Load::start(bench, &["syscall"])?;
    let watchers = [ALL, Watcher::Peer(SYSCALL_TRACEPOINT)];
    let costs = compare(bench, &mut load, &watchers, bench.rounds(5))?;
    let [all, tracepoint] = costs.as_slice() else {
        return Ok(Vec::new());
    };
    let note = tracepoint.failed.as_deref();
    Ok(vec![
        Row::new("untraced", "ns", all.plain_ns.clone()),
        Row::new("tracer, everything", "ns more", all.added_ns()).bar(Bar::Within(3.0)),
        Row::new(SYSCALL_TRACEPOINT.name, "ns more", tracepoint.added_ns())
            .note(note.unwrap_or(SYSCALL_TRACEPOINT.note)),
    ])
}
