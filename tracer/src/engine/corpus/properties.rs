//! What must not matter: how things are called, at how many addresses a host is, and in what order
//! connections are seen.

use proptest::prelude::*;

use super::sim::{Life, Noise, Watch, opened, play};
use crate::{
    engine::{Counts, Judgement},
    model::{Confidence, Kind, Role},
};

const WATCH: Watch = Watch {
    seconds: 60.0,
    sweep: 1.0,
    reconcile: 3.0,
};

/// A program with a leak at site 1 (where `leaks`), and a pool at site 2.
fn program(leaks: bool, rate: f64) -> Vec<Life> {
    let mut noise = Noise(7);
    let mut lives = Vec::new();
    for t in noise.arrivals(0.0, WATCH.seconds, rate) {
        let life = opened(t).request(t + 0.01, 0.01).at(1, 1);
        lives.push(if leaks { life } else { life.close(t + 1.5) });
    }
    for _ in 0..6 {
        let mut life = opened(-5.0).at(2, 2);
        for at in noise.arrivals(0.0, WATCH.seconds, 0.5) {
            life = life.request(at, 0.01);
        }
        lives.push(life);
    }
    lives
}

/// What is said of a program: verdict, kinds, counts.
fn said(lives: &[Life]) -> (bool, Vec<(Kind, Confidence, Counts)>) {
    let (judgements, _) = play(Role::Client, lives, WATCH);
    let leak = judgements
        .iter()
        .any(|j| j.confidence >= Confidence::Medium);
    let mut said: Vec<_> = judgements
        .iter()
        .map(|j: &Judgement| (j.kind, j.confidence, j.connections))
        .collect();
    said.sort_by_key(|(kind, confidence, counts)| (*kind, *confidence, counts.open));
    (leak, said)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn names_do_not_matter(leaks in any::<bool>(), rate in 0.4..3.0, by in 1..900u32) {
        let lives = program(leaks, rate);
        let mut renamed = lives.clone();
        for life in &mut renamed {
            if let Some(belongs) = &mut life.belongs {
                belongs.site += by % 17;
                belongs.authority = (belongs.authority + by) % 991 + 1;
            }
        }
        prop_assert_eq!(said(&lives), said(&renamed));
    }

    #[test]
    fn the_number_of_addresses_does_not_matter(
        leaks in any::<bool>(), rate in 0.5..3.0, addresses in 2..200u32,
    ) {
        let lives = program(leaks, rate);
        let mut split = lives.clone();
        for (i, life) in split.iter_mut().enumerate() {
            if let Some(belongs) = life.belongs.as_mut().filter(|b| b.site == 1) {
                belongs.authority = 10 + i as u32 % addresses;
            }
        }
        prop_assert_eq!(said(&lives), said(&split));
    }

    #[test]
    fn the_order_of_arrivals_does_not_matter(
        leaks in any::<bool>(), rate in 0.5..3.0, seed in 1..u64::MAX,
    ) {
        let lives = program(leaks, rate);
        let mut shuffled = lives.clone();
        let mut noise = Noise(seed);
        for i in (1..shuffled.len()).rev() {
            shuffled.swap(i, (noise.unit() * (i + 1) as f64) as usize);
        }
        prop_assert_eq!(said(&lives), said(&shuffled));
    }
}
