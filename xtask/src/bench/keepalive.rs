//! Requests on connections that stay, as fast as two CPUs can make them.

use anyhow::Result;

use super::{
    Bar, Bench, Row, Section,
    churn::{ALL, COUNTING, STACKS, against, compare},
    load::Load,
    profile,
};

/// Total CPU at keep-alive.
pub const SECTION: Section = Section {
    name: "keepalive",
    title: "Requests on a kept connection",
    about: "As above, but each client keeps its connection and sends one HTTP request after the other, each a \
            new turn whose stack and first bytes are taken on both ends. The bar is that of a prototype that \
            kept neither stack nor URL of a request. What these add is work that every request is worth, because \
            any may be the one that leaks. By profile: as for short connections. Where that is over the bar, the \
            shares below it say why: beside the programs there are the kernel's way into and out of each of the \
            four that run for a request, and one look-up of the socket in each. Everything looks at the program's memory \
            six times for a request: at the stack of who sends it, of who receives it and of who answers, at its first \
            bytes on both ends, and at the head of the response.",
    run,
};

/// For activity and the number of requests, over nothing.
const BAR: Bar = Bar::AtMost(1.04);

fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut load = Load::start(bench, &["keep"])?;
    let watchers = [COUNTING, STACKS, ALL];
    let costs = compare(bench, &mut load, &watchers, bench.rounds(6))?;
    let [counting, stacks, all] = costs.as_slice() else {
        return Ok(Vec::new());
    };
    let mut rows = vec![
        Row::new("untraced", "requests/s", all.plain_rate.clone()),
        Row::new("untraced, per request", "ns of CPU", all.plain_ns.clone()),
        Row::new(
            "activity and number of requests",
            "ratio",
            counting.ratios.clone(),
        )
        .bar(BAR),
        Row::new(
            "+ the stack of each request",
            "ratio",
            stacks.ratios.clone(),
        )
        .note("beyond what the bar was set for"),
        Row::new(
            "everything: + the URL of each request",
            "ratio",
            all.ratios.clone(),
        )
        .note("beyond what the bar was set for"),
        Row::new("everything, per request", "ns more", all.added_ns())
            .note("of the load's CPU time; four programs run for a request"),
        Row::new("daemon, per request", "ns", all.own_ns.clone()),
    ];
    let counted = "activity and number of requests";
    let (counting, shares) = profile::ratio_and_shares(bench, &mut load, counted, &COUNTING)?;
    rows.push(counting.bar(BAR));
    rows.extend(shares);
    let (all, shares) = profile::ratio_and_shares(bench, &mut load, "everything", &ALL)?;
    rows.push(all);
    rows.extend(shares);
    rows.extend(against(bench, &mut load)?);
    Ok(rows)
}
