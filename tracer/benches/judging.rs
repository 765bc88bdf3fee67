//! What judging many sockets of very many populations takes: one line for each value, read by
//! `cargo xtask bench judging`. Needs no kernel: sweeps are made up.

mod values;

use std::{hint::black_box, time::Instant};

use anyhow::{Result, ensure};
use tracer::testing::engine::{CohortId, Connection, Engine, Lineage, Role, Settings};

use values::{anonymous_bytes, line};

const SECOND_NS: u64 = 1_000_000_000;
/// Connections of a population.
const EACH: u32 = 5;
/// Populations of a process.
const OF_A_PROCESS: u32 = 1_000;
/// Populations, where the engine has room for all, and where it has not.
const SIZES: [(u32, &str); 2] = [(6_000, "30,000 sockets"), (200_000, "1,000,000 sockets")];
/// Sweeps of a watch: enough to judge, and every series is as long as it gets soon.
const SWEEPS: u64 = 40;

fn main() -> Result<()> {
    let whole = std::env::args().any(|a| a == "--bench");
    for (populations, name) in SIZES {
        // `cargo test` runs this, too: a few, to see that it works
        let populations = if whole {
            populations
        } else {
            populations / 100
        };
        judged(populations, name)?;
    }
    Ok(())
}

fn judged(populations: u32, name: &str) -> Result<()> {
    let mut engine = Engine::new(Settings::default());
    let (mut longest_ms, mut overflow) = (0.0f64, 0);
    for sweep in 1..=SWEEPS {
        let began = Instant::now();
        engine.begin_sweep(sweep * SECOND_NS, true);
        for leaf in 0..populations {
            if sweep == opened_at(0) {
                engine.enroll(CohortId(leaf), Role::Client, lineage(leaf));
            }
            for nth in (0..EACH).filter(|&nth| opened_at(nth) <= sweep) {
                engine.observe(CohortId(leaf), Role::Client, &idle(leaf * EACH + nth, nth));
            }
        }
        engine.end_sweep();
        longest_ms = longest_ms.max(began.elapsed().as_secs_f64() * 1e3);
        overflow = engine.overflow().checked_div(sweep).unwrap_or(0);
    }
    let began = Instant::now();
    let judgements = black_box(engine.judge());
    let judge_ms = began.elapsed().as_secs_f64() * 1e3;
    // all of the process, which has nothing else
    let memory = anonymous_bytes()?;
    ensure!(!judgements.is_empty(), "nothing was judged");
    let of = format!("{name} of {populations} populations");
    line(&format!("the longest sweep, {of}"), "ms", longest_ms);
    line(&format!("one judgement, {of}"), "ms", judge_ms);
    line(
        &format!("memory, {of}"),
        "MiB",
        memory as f64 / f64::from(1 << 20),
    );
    line(&format!("said to find no room, {of}"), "", overflow as f64);
    Ok(())
}

/// Every process has its authorities and call sites, a hundred populations each.
fn lineage(leaf: u32) -> Lineage {
    let process = leaf / OF_A_PROCESS;
    Lineage {
        site: CohortId(1_000_000 + leaf / 100),
        authority: CohortId(2_000_000 + leaf / 100),
        process: CohortId(3_000_000 + process),
        sited: true,
        pairs: false,
    }
}

/// They come one after the other, up to the end of the watch; seconds.
fn opened_at(nth: u32) -> u64 {
    u64::from(nth + 1) * SWEEPS / u64::from(EACH) - 4
}

/// One that was never used.
fn idle(sk: u32, nth: u32) -> Connection {
    Connection {
        sk: u64::from(sk),
        opened_ns: opened_at(nth) * SECOND_NS,
        connected: true,
        ..Connection::default()
    }
}
