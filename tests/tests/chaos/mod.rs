//! Whatever happens to the daemon and around it, and in whichever order: it lives or its successor
//! does, counts add up, the leaks that there are stay the findings that they were, healthy programs
//! stay clean, and nothing grows.
//!
//! `TRACER_CHAOS_SECONDS` says how long (8; half an hour in the full run), `TRACER_CHAOS_SEED` in
//! which order; both are printed.

mod crashes;
mod faults;
mod world;

use std::{
    collections::BTreeMap,
    env,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tracer_tests::{host, runner::NotApplicable, tests};

use self::{
    crashes::crash_loop_leaves_nothing_behind,
    faults::{FAULTS, Fault},
    world::World,
};

tests![faults_in_any_order, crash_loop_leaves_nothing_behind];

/// Numbers that look random, the same for the same seed (Marsaglia's xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

fn full() -> bool {
    env::var_os("TRACER_TEST_FULL").is_some()
}

/// The seed asked for, or any.
fn seed() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    number("TRACER_CHAOS_SEED")
        .unwrap_or(now.as_nanos() as u64)
        .max(1)
}

fn faults_in_any_order() -> Result<()> {
    host::require_root()?;
    let asked = number("TRACER_CHAOS_SECONDS");
    if asked.is_none() && !full() {
        bail!(NotApplicable("part of the full run".to_owned()));
    }
    let (seed, time) = (seed(), asked.unwrap_or(1_800));
    println!("chaos: seed {seed}, for {time} s");
    // as many connections as there is room for, whatever the time
    let rate = u32::try_from((2_000 / time.max(1)).clamp(1, 8))?;
    let mut world = World::begin(rate)?;
    let end = Instant::now() + Duration::from_secs(time);
    let mut random = Random(seed);
    let possible: Vec<&Fault> = FAULTS
        .iter()
        .filter(|fault| host::is_guest() || !fault.of_machine)
        .collect();
    let mut turn: Vec<&Fault> = Vec::new();
    let mut happened: BTreeMap<&str, u32> = BTreeMap::new();
    while Instant::now() < end {
        // every one in each turn, each turn in another order
        if turn.is_empty() {
            turn.clone_from(&possible);
        }
        let fault = turn.swap_remove(random.below(turn.len()));
        let begun = Instant::now();
        let context = || format!("{} (seed {seed}, after {happened:?})", fault.name);
        (fault.happens)(&mut world).with_context(context)?;
        world.settle(fault.name).with_context(context)?;
        *happened.entry(fault.name).or_default() += 1;
        let took = begun.elapsed().as_secs_f64();
        println!("chaos: {}: all right after {took:.1} s", fault.name);
    }
    println!("chaos: {happened:?}");
    println!("chaos: {}", world.summary()?);
    ensure!(!happened.is_empty(), "nothing happened in {time} s");
    Ok(())
}
