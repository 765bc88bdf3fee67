//! Histories of hours, judged in seconds: recorded ones (tests/histories) and made ones, each from a
//! process that is stated with it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{
    HOUR, regular,
    sim::{Life, Noise, Watch, opened, play_and_look},
};
use crate::{
    engine::{Engine, Judgement},
    model::{Confidence, Role},
    recording,
};

/// Made histories: what happens, whether it leaks, hours, and the numbers that it is made with.
struct Made {
    name: &'static str,
    leaks: bool,
    hours: f64,
    numbers: &'static [f64],
    lives: fn(&mut Noise, f64, f64) -> Vec<Life>,
}

/// Greets, is answered, and does nothing more.
fn greeted(at: f64) -> Life {
    opened(at).request(at + 0.01, 0.02).at(1, 1)
}

/// Used every `period` seconds from its opening to `end`, then closed.
fn used(from: f64, end: f64, period: f64) -> Life {
    let mut life = opened(from).at(2, 1);
    let mut at = from + 0.1;
    while at < end {
        life = life.request(at, 0.02);
        at += period;
    }
    life.close(end)
}

/// The same, every `period` seconds on average and at any time.
fn used_at_any_time(noise: &mut Noise, from: f64, end: f64, period: f64) -> Life {
    let uses = noise.arrivals(from + 0.1, end, 1.0 / period);
    let life = uses.into_iter().fold(
        opened(from).at(2, 1).request(from + 0.1, 0.02),
        |life, at| life.request(at, 0.02),
    );
    life.close(end)
}

/// A pool that follows a wanted size, asked for every minute: the youngest go first.
fn following(seconds: f64, wanted: impl Fn(f64) -> f64) -> Vec<Life> {
    followed(seconds, wanted, |from, end| used(from, end, 60.0))
}

/// The same, of which each entry is used from its opening to its end as `life` says.
fn followed(
    seconds: f64,
    wanted: impl Fn(f64) -> f64,
    mut life: impl FnMut(f64, f64) -> Life,
) -> Vec<Life> {
    let mut since: Vec<f64> = Vec::new();
    let mut lives = Vec::new();
    let mut at = 0.0;
    while at < seconds {
        let wanted = wanted(at).max(0.0) as usize;
        while since.len() < wanted {
            since.push(at + 0.2 * since.len() as f64);
        }
        while since.len() > wanted {
            lives.extend(since.pop().map(|from| life(from, at)));
        }
        at += 60.0;
    }
    let rest = since.into_iter();
    lives.extend(rest.map(|from| life(from, seconds + 60.0)));
    lives
}

/// A pool of five that is used every ninety seconds.
fn pool(seconds: f64) -> Vec<Life> {
    following(seconds, |_| 5.0)
}

const MADE: &[Made] = &[
    Made {
        name: "one left every n minutes",
        leaks: true,
        hours: 4.0,
        numbers: &[2.0, 3.0, 5.0, 8.0, 10.0],
        lives: |_, s, n| {
            regular(0.0, s, 1.0 / (n * 60.0))
                .into_iter()
                .map(greeted)
                .collect()
        },
    },
    Made {
        name: "one left every n minutes on average, at any time",
        leaks: true,
        hours: 4.0,
        numbers: &[4.0, 7.0, 10.0],
        lives: |noise, s, n| {
            let times = noise.arrivals(0.0, s, 1.0 / (n * 60.0));
            times.into_iter().map(greeted).collect()
        },
    },
    Made {
        name: "one left every n minutes, beside a pool of five at the same host",
        leaks: true,
        hours: 4.0,
        numbers: &[5.0, 10.0],
        lives: |_, s, n| {
            let mut lives = pool(s);
            lives.extend(regular(0.0, s, 1.0 / (n * 60.0)).into_iter().map(greeted));
            lives
        },
    },
    Made {
        name: "a job every 47 minutes leaves n of twenty",
        leaks: true,
        hours: 8.0,
        numbers: &[2.0, 3.0, 5.0, 10.0],
        lives: |_, s, n| job(s, 47.0, n),
    },
    Made {
        name: "a job every 20 minutes leaves n of twenty",
        leaks: true,
        hours: 5.0,
        numbers: &[2.0, 4.0, 20.0],
        lives: |_, s, n| job(s, 20.0, n),
    },
    Made {
        name: "one of n requests is forgotten, more by day than by night",
        leaks: true,
        hours: 12.0,
        numbers: &[10.0, 30.0],
        lives: |noise, s, n| {
            let mut lives = Vec::new();
            for at in waves(noise, s) {
                let life = greeted(at);
                lives.push(match noise.unit() < 1.0 / n {
                    true => life,
                    false => life.close(at + 5.0),
                });
            }
            lives
        },
    },
    Made {
        name: "the server forgets one client every n minutes that went away",
        leaks: true,
        hours: 4.0,
        numbers: &[3.0, 5.0, 10.0],
        lives: |_, s, n| {
            let times = regular(0.0, s, 1.0 / (n * 60.0)).into_iter();
            times.map(|at| greeted(at).peer_close(at + 30.0)).collect()
        },
    },
    Made {
        name: "healthy: each lives for n minutes, one a minute",
        leaks: false,
        hours: 5.0,
        numbers: &[5.0, 15.0, 30.0, 45.0],
        lives: |_, s, n| {
            let times = regular(0.0, s, 1.0 / 60.0).into_iter();
            times.map(|at| used(at, at + n * 60.0, 50.0)).collect()
        },
    },
    Made {
        name: "healthy: a pool of n of which each lives for half an hour",
        leaks: false,
        hours: 5.0,
        numbers: &[4.0, 12.0, 30.0],
        lives: |noise, s, n| {
            let mut lives = Vec::new();
            for _ in 0..n as u32 {
                let mut from = -1800.0 * noise.unit();
                while from < s {
                    let end = from + 1750.0 + 100.0 * noise.unit();
                    lives.push(used(from, end, 60.0));
                    from = end + 0.1;
                }
            }
            lives
        },
    },
    Made {
        name: "healthy: a pool that follows a day of n hours",
        leaks: false,
        hours: 8.0,
        numbers: &[2.0, 4.0, 8.0],
        lives: |_, s, n| {
            following(s, |at| {
                12.0 - 10.0 * (at / (n * HOUR) * std::f64::consts::TAU).cos()
            })
        },
    },
    Made {
        name: "healthy: a pool that follows a day of n hours, used at any time",
        leaks: false,
        hours: 8.0,
        numbers: &[2.0, 4.0, 8.0],
        lives: |noise, s, n| {
            let wanted = |at: f64| 20.0 - 15.0 * (at / (n * HOUR) * std::f64::consts::TAU).cos();
            followed(s, wanted, |from, end| {
                used_at_any_time(noise, from, end, 60.0)
            })
        },
    },
    Made {
        name: "healthy: a pool that fills for n hours and stays, in use",
        leaks: false,
        hours: 6.0,
        numbers: &[0.5, 1.0, 3.0],
        lives: |_, s, n| following(s, |at| 20.0 * (at / (n * HOUR)).min(1.0)),
    },
    Made {
        name: "healthy: a job every 47 minutes closes its n",
        leaks: false,
        hours: 6.0,
        numbers: &[5.0, 20.0, 60.0],
        lives: |_, s, n| {
            let mut lives = Vec::new();
            let mut at = 60.0;
            while at < s {
                let opened = (0..n as u32).map(|i| at + f64::from(i) * 0.2);
                lives.extend(opened.map(|t| greeted(t).close(t + 240.0)));
                at += 47.0 * 60.0;
            }
            lives
        },
    },
    Made {
        name: "healthy: a batch of n hours uses forty and closes them",
        leaks: false,
        hours: 6.0,
        numbers: &[0.5, 1.0, 2.0],
        lives: |_, s, n| {
            following(s, |at| {
                if at > HOUR && at < (1.0 + n) * HOUR {
                    40.0
                } else {
                    2.0
                }
            })
        },
    },
    Made {
        name: "healthy: n clients stay connected and speak every five minutes",
        leaks: false,
        hours: 4.0,
        numbers: &[6.0, 25.0, 100.0],
        lives: |noise, s, n| {
            let clients = 0..n as u32;
            let mut came = clients.map(|_| -600.0 + 600.0 * noise.unit());
            came.by_ref()
                .map(|from| used(from, s + 1.0, 300.0))
                .collect()
        },
    },
    Made {
        name: "healthy: rooms of which each is left after n minutes",
        leaks: false,
        hours: 4.0,
        numbers: &[12.0, 20.0],
        lives: |_, s, n| {
            let mut lives = Vec::new();
            for room in 0..9 {
                let mut from = -f64::from(room) * n * 60.0 / 9.0;
                while from < s {
                    let end = from + n * 60.0;
                    lives.push(used(from, end, 60.0).raw().upgraded());
                    from = end + 0.1;
                }
            }
            lives
        },
    },
    Made {
        name: "healthy: a deploy after n hours connects everything anew",
        leaks: false,
        hours: 4.0,
        numbers: &[1.0, 3.0],
        lives: |_, s, n| {
            let mut lives: Vec<Life> = (0..15)
                .map(|i| used(f64::from(i), n * HOUR, 45.0))
                .collect();
            let anew = (0..15).map(|i| n * HOUR + 1.0 + f64::from(i));
            lives.extend(anew.map(|from| used(from, s + 1.0, 45.0)));
            lives
        },
    },
];

/// A job every `minutes` opens twenty and leaves some.
fn job(seconds: f64, minutes: f64, left: f64) -> Vec<Life> {
    let mut lives = Vec::new();
    let mut at = 60.0;
    while at < seconds {
        for i in 0..20 {
            let t = at + f64::from(i) * 1.2;
            lives.push(match f64::from(i) < left {
                true => greeted(t),
                false => greeted(t).close(t + 30.0),
            });
        }
        at += minutes * 60.0;
    }
    lives
}

/// Arrivals that come and go with a day of four hours.
fn waves(noise: &mut Noise, seconds: f64) -> Vec<f64> {
    let mut times = Vec::new();
    let mut at = 0.0;
    while at < seconds {
        let wave = 1.1 + (at / (4.0 * HOUR) * std::f64::consts::TAU).sin();
        at += noise.wait(45.0 / wave);
        times.push(at);
    }
    times
}

/// One recorded history.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    file: String,
    /// `leak` or `clean`.
    truth: String,
    program: String,
    /// It is judged wrong so far.
    #[serde(default)]
    missed: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct List {
    history: Vec<Recorded>,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/histories")
}

/// Judges every minute of a history; keeps when it was first sure.
#[derive(Default)]
struct Watcher {
    begun: Option<f64>,
    next: f64,
    sure_after: Option<f64>,
}

impl Watcher {
    fn look(&mut self, engine: &mut Engine, at: f64) {
        let begun = *self.begun.get_or_insert(at);
        if self.sure_after.is_some() || at < self.next {
            return;
        }
        self.next = at + 60.0;
        if sure(&engine.judge()) {
            self.sure_after = Some(at - begun);
        }
    }
}

fn sure(judgements: &[Judgement]) -> bool {
    judgements
        .iter()
        .any(|j| j.confidence >= Confidence::Medium)
}

#[derive(Default)]
struct Score {
    found: u32,
    missed: u32,
    alarms: u32,
    clean: u32,
    known: u32,
    /// Healthy ones that were suspected in between, and not at the end.
    taken_back: u32,
    times: Vec<f64>,
    wrong: Vec<String>,
}

impl Score {
    /// Of a history: whether it leaks, whether it was called so at its end, and when first.
    fn add(&mut self, name: &str, leaks: bool, at_end: bool, watcher: &Watcher, missed: bool) {
        let right = leaks == at_end;
        self.taken_back += u32::from(!leaks && right && watcher.sure_after.is_some());
        let after = watcher
            .sure_after
            .map_or(String::new(), |s| format!("{:.0} min", s / 60.0));
        let truth = if leaks { "leak" } else { "clean" };
        println!(
            "{name:<72} {truth:<6} {:<6} {after}",
            if right { "right" } else { "WRONG" }
        );
        match (leaks, right) {
            (true, true) => {
                self.found += 1;
                self.times.extend(watcher.sure_after);
            }
            (true, false) => self.missed += 1,
            (false, true) => self.clean += 1,
            (false, false) => self.alarms += 1,
        }
        if !right {
            self.known += u32::from(missed);
            self.wrong.push(name.to_owned());
        }
    }
}

#[test]
fn hours_are_judged_right() {
    let mut score = Score::default();
    for made in MADE {
        for &number in made.numbers {
            let seconds = made.hours * HOUR;
            let mut noise = Noise(0x9e37_79b9_7f4a_7c15 ^ number.to_bits());
            let lives = (made.lives)(&mut noise, seconds, number);
            let watch = Watch {
                seconds,
                sweep: 7.0,
                reconcile: 21.0,
            };
            let mut watcher = Watcher::default();
            let role = Role::Client;
            let look = |engine: &mut Engine, at| watcher.look(engine, at);
            let (judgements, _) = play_and_look(role, &lives, watch, look);
            let name = format!("{}, n = {number}", made.name);
            score.add(&name, made.leaks, sure(&judgements), &watcher, false);
        }
    }
    let list = std::fs::read_to_string(directory().join("histories.toml"));
    let list: List = toml::from_str(&list.unwrap_or_default()).unwrap_or_default();
    for recorded in &list.history {
        let path = directory().join(&recorded.file);
        let mut watcher = Watcher::default();
        let look = |engine: &mut Engine, now_ns| watcher.look(engine, now_ns as f64 / 1e9);
        let replayed = std::fs::File::open(&path)
            .map_err(recording::Fault::Io)
            .and_then(|file| recording::replay(file, look));
        let leak = match replayed {
            Ok(replayed) => replayed.report.verdict == crate::report::Verdict::Leak,
            Err(fault) => panic!("{} {fault}", path.display()),
        };
        let name = format!("{} ({})", recorded.file, recorded.program);
        score.add(
            &name,
            recorded.truth == "leak",
            leak,
            &watcher,
            recorded.missed,
        );
    }
    let made: usize = MADE.iter().map(|made| made.numbers.len()).sum();
    let precision = f64::from(score.found) / f64::from((score.found + score.alarms).max(1));
    let recall = f64::from(score.found) / f64::from((score.found + score.missed).max(1));
    score.times.sort_by(f64::total_cmp);
    let median = score
        .times
        .get(score.times.len() / 2)
        .copied()
        .unwrap_or(0.0);
    println!(
        "{made} made and {} recorded histories: {} leaks found, {} missed, {} false alarms, {} clean; \
         precision {precision:.2}, recall {recall:.2}; {} healthy ones suspected in between; at least medium confidence after {:.0} minutes \
         (median)",
        list.history.len(),
        score.found,
        score.missed,
        score.alarms,
        score.clean,
        score.taken_back,
        median / 60.0
    );
    println!("missed or wrong: {:?}", score.wrong);
    let unknown = score.wrong.len() as u32 - score.known;
    assert_eq!(unknown, 0, "{:?}", score.wrong);
    assert!(precision >= 1.0 && recall >= 0.95, "{precision} {recall}");
    assert_eq!(
        score.taken_back, 0,
        "no healthy one is suspected on its way"
    );
}
