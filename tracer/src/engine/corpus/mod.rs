//! A labelled corpus of histories, leaky and healthy, that the engine must tell apart without a
//! single mistake.

mod added;
mod healthy;
mod histories;
mod leaky;
mod levels;
mod long;
mod properties;
mod sim;

use crate::model::{Confidence, Kind, Role};
use sim::{Life, Noise, Watch, play};

/// One labelled history, parametrised by rate per second and by its noise.
struct Case {
    name: &'static str,
    role: Role,
    /// `None`: healthy, there must be no judgement at all.
    leak: Option<Kind>,
    /// Seconds watched, each.
    seconds: &'static [f64],
    /// Rates per second.
    rates: &'static [f64],
    lives: fn(&mut Noise, f64, f64) -> Vec<Life>,
}

/// Regular times in `from..to`.
fn regular(from: f64, to: f64, rate: f64) -> Vec<f64> {
    let mut times = Vec::new();
    let mut t = from + 0.3 / rate;
    while t < to {
        times.push(t);
        t += 1.0 / rate;
    }
    times
}

/// A life for each regular time, by its number from 0.
fn each(from: f64, to: f64, rate: f64, life: impl Fn(u32, f64) -> Life) -> Vec<Life> {
    let times = (0..).zip(regular(from, to, rate));
    times.map(|(number, t)| life(number, t)).collect()
}

const HOUR: f64 = 3600.0;

#[derive(Default)]
struct Tally {
    plays: u32,
    right: u32,
    several: u32,
    wrong: Vec<String>,
}

fn run(case: &Case, tally: &mut Tally) {
    for &seconds in case.seconds {
        for &rate in case.rates {
            let sweeps: &[(f64, f64)] = match seconds > HOUR / 2.0 {
                true => &[(7.0, 21.0)],
                false => &[(1.0, 1.0), (1.0, 5.0), (1.3, 1e9), (0.5, 2.0), (7.0, 7.0)],
            };
            for &(sweep, reconcile) in sweeps {
                for seed in 1..=5u64 {
                    let begun = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    let mut noise = Noise(begun);
                    let lives = (case.lives)(&mut noise, seconds, rate);
                    // A history without noise is the same for every seed.
                    if seed > 1 && noise.0 == begun {
                        break;
                    }
                    let watch = Watch {
                        seconds,
                        sweep,
                        reconcile,
                    };
                    let (judgements, _) = play(case.role, &lives, watch);
                    tally.plays += 1;
                    tally.several += u32::from(judgements.len() > 1);
                    let got = judgements.first().map(|j| (j.kind, j.confidence));
                    let one = judgements.len() <= 1;
                    let right = one
                        && match (case.leak, got) {
                            (None, None) => true,
                            (Some(kind), Some((k, c))) => k == kind && c >= Confidence::Medium,
                            _ => false,
                        };
                    if right {
                        tally.right += 1;
                    } else {
                        tally.wrong.push(format!(
                            "{seconds} s, {rate}/s, sweep {sweep}, scan {reconcile}, seed {seed}: \
                             {got:?} {:?}",
                            judgements.first().map(|j| (&j.also, &j.evidence))
                        ));
                    }
                }
            }
        }
    }
}

#[test]
fn every_leak_is_found_and_named_and_nothing_else() {
    let (mut found, mut missed, mut misnamed, mut false_alarms) = (0, 0, 0, 0);
    let mut complaints = Vec::new();
    println!(
        "{:<52} {:<26} {:>5} {:>5}",
        "history", "label", "plays", "right"
    );
    let cases = [leaky::CASES, healthy::CASES, levels::CASES, long::CASES];
    for case in cases.into_iter().flatten() {
        let mut tally = Tally::default();
        run(case, &mut tally);
        let label = case.leak.map_or("clean", Kind::name);
        println!(
            "{:<52} {label:<26} {:>5} {:>5}",
            case.name, tally.plays, tally.right
        );
        let wrong = tally.wrong.len();
        match case.leak {
            Some(_) => {
                let misses = tally
                    .wrong
                    .iter()
                    .filter(|w| w.contains("None None"))
                    .count();
                missed += misses;
                misnamed += wrong - misses;
                found += tally.right;
            }
            None => false_alarms += wrong,
        }
        if let Some(first) = tally.wrong.first() {
            complaints.push(format!(
                "{} ({label}), {wrong} of {}: {first}",
                case.name, tally.plays
            ));
        }
    }
    println!("found {found}, missed {missed}, misnamed {misnamed}, false alarms {false_alarms}");
    let total = f64::from(found) + (missed + misnamed) as f64;
    let recall = f64::from(found) / total;
    let precision = f64::from(found) / (f64::from(found) + (misnamed + false_alarms) as f64);
    println!("precision {precision:.3}, recall {recall:.3}");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(precision >= 1.0 && recall >= 1.0, "{precision} {recall}");
}
