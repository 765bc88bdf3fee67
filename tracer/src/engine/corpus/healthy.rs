//! Histories of programs that do nothing wrong.

use super::{
    Case,
    leaky::one_in_eight,
    regular,
    sim::{Life, Noise, opened},
};
use crate::model::{PoolState, Role};

const SHORT: &[f64] = &[15.0, 20.0, 60.0];
const RATES: &[f64] = &[1.0, 3.0, 10.0];

/// Connections opened at `times`, each used again and again until the end of the watch.
fn pool(n: &mut Noise, times: &[f64], seconds: f64, uses_per_second: f64) -> Vec<Life> {
    times
        .iter()
        .map(|&t| {
            let uses = n.arrivals(t, seconds, uses_per_second);
            uses.into_iter()
                .fold(opened(t), |life, u| life.request(u, 0.01))
        })
        .collect()
}

/// The healthy part of the corpus.
pub const CASES: &[Case] = &[
    Case {
        name: "fixed pool, reused",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[4.0, 40.0],
        lives: |n, s, r| pool(n, &vec![0.2; r as usize], s, 0.5),
    },
    Case {
        name: "fixed pool, opened and hardly used",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[4.0, 40.0],
        lives: |n, s, r| pool(n, &vec![0.2; r as usize], s, 0.02),
    },
    Case {
        name: "pool older than the watch, idle",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[10.0, 100.0],
        lives: |n, _, r| {
            (0..r as u32)
                .map(|_| opened(-1000.0 * n.unit() - 1.0))
                .collect()
        },
    },
    Case {
        name: "pool that fills up in the first third",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: RATES,
        lives: |n, s, r| pool(n, &regular(0.0, s / 3.0, r), s, 0.3),
    },
    Case {
        name: "idle connections opened in the first third, then none",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| regular(0.0, s / 3.0, r).into_iter().map(opened).collect(),
    },
    Case {
        name: "pool warming up all through a short watch, in use",
        role: Role::Client,
        leak: None,
        seconds: &[15.0, 20.0, 40.0],
        rates: &[1.0, 3.0],
        lives: |n, s, r| pool(n, &regular(0.0, s, r), s, 1.0),
    },
    Case {
        name: "opened and closed for each request",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[1.0, 10.0, 100.0],
        lives: |n, s, r| {
            let one = |t: f64| opened(t).request(t, 0.02).close(t + 0.03 + n.unit() * 0.5);
            regular(0.0, s, r).into_iter().map(one).collect()
        },
    },
    Case {
        name: "kept for two seconds, then closed",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[1.0, 8.0, 50.0],
        lives: |_, s, r| {
            let one = |t: f64| opened(t).request(t, 0.02).close(t + 2.0);
            regular(-5.0, s, r).into_iter().map(one).collect()
        },
    },
    Case {
        name: "kept for five seconds, then closed",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[1.0, 8.0],
        lives: |_, s, r| {
            let one = |t: f64| opened(t).request(t, 0.02).close(t + 5.0);
            regular(0.0, s, r).into_iter().map(one).collect()
        },
    },
    Case {
        name: "a burst that ends and is closed",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[10.0, 50.0],
        lives: |_, s, r| {
            let one = |t: f64| opened(t).request(t, 0.02).close(t + 4.0);
            regular(s * 0.3, s * 0.3 + 3.0, r)
                .into_iter()
                .map(one)
                .collect()
        },
    },
    Case {
        name: "bursts of work, closed when done",
        role: Role::Client,
        leak: None,
        seconds: &[60.0, 300.0],
        rates: &[5.0, 20.0],
        lives: |_, s, r| {
            let bursts = (0..(s / 20.0) as u32).map(|b| f64::from(b) * 20.0 + 1.0);
            let one = |t: f64| opened(t).request(t, 0.3).close(t + 4.0);
            bursts
                .flat_map(|t| (0..r as u32).map(move |i| one(t + f64::from(i) * 0.02)))
                .collect()
        },
    },
    Case {
        name: "slow server, eight callers",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[0.1, 0.5],
        lives: |_, s, r| {
            let mut lives = Vec::new();
            for caller in 0..8 {
                let mut t = 0.1 * f64::from(caller);
                while t < s {
                    lives.push(opened(t).request(t, 1.0 / r).close(t + 1.0 / r + 0.01));
                    t += 1.0 / r + 0.02;
                }
            }
            lives
        },
    },
    Case {
        name: "long polls, a few, each thirty seconds",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[1.0],
        lives: |_, s, _| {
            (0..4)
                .map(|i| {
                    let begin = -20.0 + 4.0 * f64::from(i);
                    let mut life = opened(begin);
                    let mut t = begin;
                    while t < s {
                        life = life.request(t, 30.0);
                        t += 30.05;
                    }
                    life
                })
                .collect()
        },
    },
    Case {
        name: "a few streams that keep receiving",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[1.0, 4.0],
        lives: |_, s, r| {
            let n = r as u32;
            let stream = |i: u32| opened(f64::from(i) * 0.4).request(f64::from(i) * 0.4, 0.1);
            (0..n)
                .map(|i| stream(i).stream(1.0, s + 1.0, 1.0))
                .collect()
        },
    },
    Case {
        name: "downloads that take eight seconds each",
        role: Role::Client,
        leak: None,
        seconds: &[30.0, 60.0],
        rates: &[0.5, 3.0],
        lives: |_, s, r| {
            let one = |t: f64| {
                opened(t)
                    .request(t, 0.1)
                    .stream(t + 0.2, t + 8.0, 0.3)
                    .close(t + 8.1)
            };
            regular(-10.0, s, r).into_iter().map(one).collect()
        },
    },
    Case {
        name: "quiet streams that somebody waits on, a few",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[1.0, 6.0],
        lives: |_, _, r| {
            let one = |i: u32| {
                let t = f64::from(i) * 0.5;
                opened(t).request(t, 0.1).pool(t + 0.1, PoolState::Reading)
            };
            (0..r as u32).map(one).collect()
        },
    },
    Case {
        name: "one quiet stream, as the runtime's pool sees it",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[1.0],
        lives: |_, _, _| vec![opened(0.5).request(0.5, 0.1).pool(0.6, PoolState::Response)],
    },
    Case {
        name: "slow bodies, read to their end",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[1.0, 3.0],
        lives: |_, s, r| {
            let one = |t: f64| {
                let life = opened(t).request(t, 0.1).pool(t + 0.1, PoolState::Response);
                life.stream(t + 0.2, t + 3.0, 0.5).close(t + 3.1)
            };
            regular(0.0, s, r).into_iter().map(one).collect()
        },
    },
    Case {
        name: "CLOSE_WAIT for a second before each close",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[1.0, 10.0, 100.0],
        lives: |_, s, r| {
            let one = |t: f64| {
                opened(t)
                    .request(t, 0.05)
                    .peer_close(t + 0.1)
                    .close(t + 1.1)
            };
            regular(0.0, s, r).into_iter().map(one).collect()
        },
    },
    Case {
        name: "CLOSE_WAIT for five seconds before each close",
        role: Role::Client,
        leak: None,
        seconds: &[20.0, 60.0],
        rates: &[1.0, 10.0],
        lives: |_, s, r| {
            let one = |t: f64| {
                opened(t)
                    .request(t, 0.05)
                    .peer_close(t + 0.1)
                    .close(t + 5.1)
            };
            regular(-10.0, s, r).into_iter().map(one).collect()
        },
    },
    Case {
        name: "idle pool entries that the server closed",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[1.0, 4.0, 10.0],
        lives: |_, _, r| {
            let one = |i: u32| {
                let t = 0.1 * f64::from(i);
                opened(t).request(t, 0.05).peer_close(t + 5.0)
            };
            (0..r as u32).map(one).collect()
        },
    },
    Case {
        name: "unread bytes for a moment at every sweep",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[4.0, 20.0],
        lives: |n, s, r| {
            (0..r as u32)
                .map(|_| {
                    let uses = n.arrivals(0.1, s, 2.0);
                    let life = uses.iter().fold(opened(0.1), |l, &u| l.request(u, 0.2));
                    let last = uses.last().copied().unwrap_or(0.1);
                    Life {
                        unread: Some((last + 0.3, 500)),
                        ..life
                    }
                })
                .collect()
        },
    },
    Case {
        name: "a daemonized program with its pool",
        role: Role::Client,
        leak: None,
        seconds: SHORT,
        rates: &[8.0],
        lives: |n, s, r| {
            let lives = pool(n, &regular(-60.0, -50.0, r / 10.0), s, 0.05);
            lives
                .into_iter()
                .map(|l| Life {
                    other_holder: Some(-49.0),
                    ..l
                })
                .collect()
        },
    },
    Case {
        name: "left to a child that works with it and closes it",
        role: Role::Server,
        leak: None,
        seconds: SHORT,
        rates: &[1.0, 8.0],
        lives: |n, s, r| {
            let one = |t: f64| {
                let life = opened(t).serve(t, 0.5).close(t + 1.0 + n.unit() * 3.0);
                Life {
                    other_holder: Some(t + 0.01),
                    ..life
                }
            };
            regular(0.0, s, r).into_iter().map(one).collect()
        },
    },
    Case {
        name: "server: closes after each answer",
        role: Role::Server,
        leak: None,
        seconds: SHORT,
        rates: &[1.0, 10.0, 100.0],
        lives: |_, s, r| {
            let one = |t: f64| opened(t).serve(t, 0.01).close(t + 0.02);
            regular(0.0, s, r).into_iter().map(one).collect()
        },
    },
    Case {
        name: "server: brief clients beside subscribers that stay",
        role: Role::Server,
        leak: None,
        seconds: &[60.0, 300.0],
        rates: &[4.0, 16.0],
        lives: |_, s, r| one_in_eight(s, r, |t| opened(t).serve(t, 0.01).awaited(true)),
    },
    Case {
        name: "server: idle keep-alive clients come and go",
        role: Role::Server,
        leak: None,
        seconds: &[20.0, 60.0, 300.0],
        rates: &[1.0, 5.0],
        lives: |n, s, r| {
            let arrivals = n.arrivals(-80.0, s, r);
            let one = |t: f64| {
                let stay = 5.0 + 20.0 * n.unit();
                let life = opened(t).serve(t, 0.01).serve(t + stay / 2.0, 0.01);
                life.peer_close(t + stay).close(t + stay + 0.01)
            };
            arrivals.into_iter().map(one).collect()
        },
    },
    Case {
        name: "server: one request each, kept alive for ten seconds",
        role: Role::Server,
        leak: None,
        seconds: &[20.0, 60.0, 300.0],
        rates: &[1.0, 5.0],
        lives: |n, s, r| {
            let one = |t: f64| opened(t).serve(t, 0.01).close(t + 10.0);
            n.arrivals(-30.0, s, r).into_iter().map(one).collect()
        },
    },
    Case {
        name: "server: more and more clients that keep asking",
        role: Role::Server,
        leak: None,
        seconds: SHORT,
        rates: &[1.0, 5.0],
        lives: |n, s, r| {
            let client = |t: f64| {
                let asks = n.arrivals(t, s, 0.5);
                asks.into_iter()
                    .fold(opened(t).serve(t, 0.01), |l, a| l.serve(a, 0.01))
            };
            regular(0.0, s, r).into_iter().map(client).collect()
        },
    },
    Case {
        name: "server: websockets with heartbeats, growing",
        role: Role::Server,
        leak: None,
        seconds: SHORT,
        rates: &[1.0, 5.0],
        lives: |_, s, r| {
            let client = |t: f64| {
                let mut life = opened(t).serve(t, 0.01);
                for beat in regular(t + 2.0, s + 2.0, 0.5) {
                    life = life.serve(beat, 0.01);
                }
                life
            };
            regular(0.0, s, r).into_iter().map(client).collect()
        },
    },
    Case {
        name: "server: event streams being fed, growing",
        role: Role::Server,
        leak: None,
        seconds: SHORT,
        rates: &[1.0, 5.0],
        lives: |_, s, r| {
            let client = |t: f64| opened(t).serve(t, 0.01).feed(t + 1.0, s + 1.0, 1.0);
            regular(0.0, s, r).into_iter().map(client).collect()
        },
    },
    Case {
        name: "server: idle clients that all came at first",
        role: Role::Server,
        leak: None,
        seconds: SHORT,
        rates: &[5.0, 20.0],
        lives: |_, _, r| {
            regular(0.0, 4.0, r)
                .into_iter()
                .map(|t| opened(t).serve(t, 0.01))
                .collect()
        },
    },
    Case {
        name: "a single idle connection",
        role: Role::Client,
        leak: None,
        seconds: &[15.0, 60.0, 600.0],
        rates: &[1.0],
        lives: |_, _, _| vec![opened(1.0).request(1.0, 0.1)],
    },
    Case {
        name: "three connections over a minute",
        role: Role::Client,
        leak: None,
        seconds: &[60.0],
        rates: &[1.0],
        lives: |_, _, _| {
            [5.0, 25.0, 45.0]
                .map(|t| opened(t).request(t, 0.1))
                .to_vec()
        },
    },
];
