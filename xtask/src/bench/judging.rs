//! Judging a million sockets.

use anyhow::Result;

use super::{Bench, Row, Section, programs};

/// What sweeps and judgements take.
pub const SECTION: Section = Section {
    name: "judging",
    title: "Judging",
    about: "Made-up sweeps shown to the engine alone, by `tracer/benches/judging.rs`: five sockets in each population. A \
            daemon sweeps every half second to two; the engine keeps 8,192 populations, and connections of more are \
            counted (`coverage`, `/metrics`), which makes a verdict without findings inconclusive.",
    run,
};

/// Bars by the name of the value: a sweep is over before the next one.
const BARS: &[(&str, f64)] = &[
    (
        "the longest sweep, 1,000,000 sockets of 200000 populations",
        2_000.0,
    ),
    (
        "one judgement, 1,000,000 sockets of 200000 populations",
        2_000.0,
    ),
    ("memory, 1,000,000 sockets of 200000 populations", 220.0),
];

fn run(bench: &Bench) -> Result<Vec<Row>> {
    programs::run(bench, "judging", 5, BARS)
}
