//! Requests on connections that stay, as fast as two CPUs can make them.

use anyhow::Result;

use super::{
    Bar, Bench, Row, Section,
    churn::{ALL, compare},
    load::Load,
};

/// Total CPU at keep-alive.
pub const SECTION: Section = Section {
    name: "keepalive",
    title: "Requests on a kept connection",
    about: "As above, but each client keeps its connection and sends one HTTP request after the other, each a new turn \
            whose stack and first bytes are taken on both ends.",
    run,
};

fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut load = Load::start(bench, &["keep"])?;
    let costs = compare(bench, &mut load, &[ALL], bench.rounds(9))?;
    let [all] = costs.as_slice() else {
        return Ok(Vec::new());
    };
    Ok(vec![
        Row::new("untraced", "requests/s", all.plain_rate.clone()),
        Row::new("everything", "ratio", all.ratios.clone()).bar(Bar::AtMost(1.04)),
        Row::new("daemon, per request", "ns", all.own_ns.clone()),
    ])
}
