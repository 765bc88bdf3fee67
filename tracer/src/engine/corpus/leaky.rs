//! Histories that leak.

use super::{
    Case, regular,
    sim::{Life, opened},
};
use crate::model::{Kind, PoolState, Role};

const SHORT: &[f64] = &[15.0, 20.0, 60.0];
const RATES: &[f64] = &[1.0, 3.0, 10.0];

/// The leaky part of the corpus.
pub const CASES: &[Case] = &[
    Case {
        name: "opened, never used, never closed",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| regular(0.0, s, r).into_iter().map(opened).collect(),
    },
    Case {
        name: "the same at irregular times",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: &[20.0, 60.0],
        rates: &[2.0, 5.0],
        lives: |n, s, r| n.arrivals(0.0, s, r).into_iter().map(opened).collect(),
    },
    Case {
        name: "began long before the watch",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| regular(-100.0, s, r).into_iter().map(opened).collect(),
    },
    Case {
        name: "every third is closed",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: &[20.0, 60.0],
        rates: &[3.0, 10.0],
        lives: |_, s, r| {
            let all = regular(0.0, s, r).into_iter().enumerate();
            all.map(|(i, t)| match i % 3 {
                0 => opened(t).close(t + 0.1),
                _ => opened(t),
            })
            .collect()
        },
    },
    Case {
        name: "failed connects whose descriptors are kept",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let refused = |t| Life {
                error: 111,
                ..opened(t)
            };
            regular(0.0, s, r).into_iter().map(refused).collect()
        },
    },
    Case {
        name: "shut down for sending, kept",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: &[20.0, 60.0],
        rates: RATES,
        lives: |_, s, r| {
            let shut = |t: f64| Life {
                shutdown: Some(t + 0.1),
                ..opened(t).request(t, 0.05)
            };
            regular(0.0, s, r).into_iter().map(shut).collect()
        },
    },
    Case {
        name: "freed by a collector from time to time",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: &[180.0],
        rates: &[2.0, 8.0],
        lives: |_, s, r| {
            let freed = |t: f64| opened(t).close((t / 41.0).floor() * 41.0 + 41.2);
            regular(0.0, s, r).into_iter().map(freed).collect()
        },
    },
    Case {
        name: "bursts",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: &[60.0],
        rates: &[5.0, 20.0],
        lives: |_, s, r| {
            let bursts = (0..(s / 12.0) as u32).map(|b| f64::from(b) * 12.0 + 1.0);
            bursts
                .flat_map(|t| (0..r as u32).map(move |i| opened(t + f64::from(i) * 0.01)))
                .collect()
        },
    },
    Case {
        name: "slow leak in a long watch",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: &[600.0, 3600.0],
        rates: &[0.02, 0.1],
        lives: |_, s, r| regular(0.0, s, r).into_iter().map(opened).collect(),
    },
    Case {
        name: "requests that nobody answers or gives up",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: &[120.0],
        rates: RATES,
        lives: |_, s, r| {
            regular(0.0, s, r)
                .into_iter()
                .map(|t| opened(t).ask(t))
                .collect()
        },
    },
    Case {
        name: "one request each, response read, never reused",
        role: Role::Client,
        leak: Some(Kind::ClientPerRequest),
        seconds: SHORT,
        rates: RATES,
        lives: |n, s, r| {
            let one = |t| opened(t).request(t + 0.001, 0.01 + n.unit() * 0.2);
            regular(0.0, s, r).into_iter().map(one).collect()
        },
    },
    Case {
        name: "the same over TLS",
        role: Role::Client,
        leak: Some(Kind::ClientPerRequest),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let tls = |t: f64| {
                let hello = opened(t).request(t + 0.01, 0.05).request(t + 0.07, 0.05);
                hello.request(t + 0.13, 0.1)
            };
            regular(0.0, s, r).into_iter().map(tls).collect()
        },
    },
    Case {
        name: "a client per request, entries expire after 25 s",
        role: Role::Client,
        leak: Some(Kind::ClientPerRequest),
        seconds: &[120.0, 300.0],
        rates: &[1.0, 5.0],
        lives: |_, s, r| {
            let one = |t: f64| opened(t).request(t, 0.05).close(t + 25.0);
            regular(-30.0, s, r).into_iter().map(one).collect()
        },
    },
    Case {
        name: "a pool per request, as the runtime says",
        role: Role::Client,
        leak: Some(Kind::ClientPerRequest),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let one = |t: f64| {
                let begun = opened(t).request(t, 0.05).pool(t, PoolState::InFlight);
                begun.pool(t + 0.05, PoolState::Idle)
            };
            regular(0.0, s, r).into_iter().map(one).collect()
        },
    },
    Case {
        name: "response not read",
        role: Role::Client,
        leak: Some(Kind::ResponseNotRead),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let unread = |t: f64| Life {
                unread: Some((t + 0.05, 900)),
                ..opened(t).ask(t)
            };
            regular(0.0, s, r).into_iter().map(unread).collect()
        },
    },
    Case {
        name: "response head read, body not",
        role: Role::Client,
        leak: Some(Kind::ResponseNotRead),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let unread = |t: f64| Life {
                unread: Some((t + 0.06, 70_000)),
                ..opened(t).request(t, 0.05)
            };
            regular(0.0, s, r).into_iter().map(unread).collect()
        },
    },
    Case {
        name: "response not read, peer closed too",
        role: Role::Client,
        leak: Some(Kind::ResponseNotRead),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let unread = |t: f64| Life {
                unread: Some((t + 0.05, 900)),
                ..opened(t).ask(t).peer_close(t + 0.05)
            };
            regular(0.0, s, r).into_iter().map(unread).collect()
        },
    },
    Case {
        name: "a stock of unread responses from before the watch",
        role: Role::Client,
        leak: Some(Kind::ResponseNotRead),
        seconds: SHORT,
        rates: &[0.2, 1.0],
        lives: |_, _, r| {
            let unread = |t: f64| Life {
                unread: Some((t + 0.05, 900)),
                ..opened(t).ask(t)
            };
            regular(-90.0, -20.0, r).into_iter().map(unread).collect()
        },
    },
    Case {
        name: "response body forgotten, as the runtime says",
        role: Role::Client,
        leak: Some(Kind::ResponseBodyNotClosed),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let body = |t: f64| {
                opened(t)
                    .request(t, 0.05)
                    .pool(t + 0.05, PoolState::Response)
            };
            regular(0.0, s, r).into_iter().map(body).collect()
        },
    },
    Case {
        name: "body forgotten on one path of five, pool beside it",
        role: Role::Client,
        leak: Some(Kind::ResponseBodyNotClosed),
        seconds: &[20.0, 60.0],
        rates: &[1.0, 3.0],
        lives: |_, s, r| {
            let body = |t: f64| {
                opened(t)
                    .request(t, 0.05)
                    .pool(t + 0.05, PoolState::Response)
            };
            let mut lives: Vec<Life> = regular(0.0, s, r).into_iter().map(body).collect();
            for i in 0..4 {
                let mut pooled = opened(0.1).pool(0.1, PoolState::Idle);
                for t in regular(0.2 + 0.05 * f64::from(i), s, 1.0) {
                    pooled = pooled.request(t, 0.02);
                }
                lives.push(pooled);
            }
            lives
        },
    },
    Case {
        name: "streams that nobody ends",
        role: Role::Client,
        leak: Some(Kind::StreamNeverCancelled),
        seconds: &[15.0, 20.0, 60.0],
        rates: RATES,
        lives: |_, s, r| {
            let stream = |t: f64| opened(t).request(t, 0.05).stream(t + 0.2, s + 1.0, 0.9);
            regular(0.0, s, r).into_iter().map(stream).collect()
        },
    },
    Case {
        name: "log follows that somebody waits on, quiet",
        role: Role::Client,
        leak: Some(Kind::StreamNeverCancelled),
        seconds: &[20.0, 60.0],
        rates: RATES,
        lives: |_, s, r| {
            let quiet = |t: f64| {
                opened(t)
                    .request(t, 0.05)
                    .pool(t + 0.05, PoolState::Reading)
            };
            regular(0.0, s, r).into_iter().map(quiet).collect()
        },
    },
    Case {
        name: "peer closes after the response",
        role: Role::Client,
        leak: Some(Kind::CloseWait),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let left = |t: f64| opened(t).request(t, 0.05).peer_close(t + 0.06);
            regular(0.0, s, r).into_iter().map(left).collect()
        },
    },
    Case {
        name: "peer resets, the descriptor is kept",
        role: Role::Client,
        leak: Some(Kind::CloseWait),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let reset = |t: f64| Life {
                reset: true,
                ..opened(t).ask(t).peer_close(t + 0.05)
            };
            regular(0.0, s, r).into_iter().map(reset).collect()
        },
    },
    Case {
        name: "a TLS peer closes with an alert that nobody reads",
        role: Role::Client,
        leak: Some(Kind::CloseWait),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let left = |t: f64| Life {
                unread: Some((t + 0.4, 31)),
                ..opened(t).request(t, 0.05).peer_close(t + 0.4)
            };
            regular(0.0, s, r).into_iter().map(left).collect()
        },
    },
    Case {
        name: "a stock in CLOSE_WAIT from before the watch",
        role: Role::Client,
        leak: Some(Kind::CloseWait),
        seconds: SHORT,
        rates: &[0.1, 1.0],
        lives: |_, _, r| {
            let left = |t: f64| opened(t).request(t, 0.05).peer_close(t + 0.06);
            regular(-200.0, -70.0, r).into_iter().map(left).collect()
        },
    },
    Case {
        name: "server: peers close, it does not",
        role: Role::Server,
        leak: Some(Kind::CloseWait),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let left = |t: f64| opened(t).serve(t, 0.01).peer_close(t + 0.5);
            regular(0.0, s, r).into_iter().map(left).collect()
        },
    },
    Case {
        name: "server: accepted, answered once, kept",
        role: Role::Server,
        leak: Some(Kind::AcceptedNeverClosed),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            regular(0.0, s, r)
                .into_iter()
                .map(|t| opened(t).serve(t, 0.01))
                .collect()
        },
    },
    Case {
        name: "server: accepted and forgotten",
        role: Role::Server,
        leak: Some(Kind::AcceptedNeverClosed),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| regular(0.0, s, r).into_iter().map(opened).collect(),
    },
    Case {
        name: "server: read the request, never answered",
        role: Role::Server,
        leak: Some(Kind::AcceptedNeverClosed),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let read = |t: f64| opened(t).stream(t + 0.01, t + 0.02, 1.0);
            regular(0.0, s, r).into_iter().map(read).collect()
        },
    },
    Case {
        name: "server: one in eight forgotten without an answer",
        role: Role::Server,
        leak: Some(Kind::AcceptedNeverClosed),
        seconds: &[60.0, 300.0],
        rates: &[4.0, 16.0],
        lives: |_, s, r| one_in_eight(s, r, |t| opened(t).stream(t + 0.01, t + 0.02, 1.0)),
    },
    Case {
        name: "server: one in eight answered, then listened to by nobody",
        role: Role::Server,
        leak: Some(Kind::AcceptedNeverClosed),
        seconds: &[60.0, 300.0],
        rates: &[4.0, 16.0],
        lives: |_, s, r| one_in_eight(s, r, |t| opened(t).serve(t, 0.01).awaited(false)),
    },
    Case {
        name: "server: half shut, kept",
        role: Role::Server,
        leak: Some(Kind::AcceptedNeverClosed),
        seconds: &[20.0, 60.0],
        rates: RATES,
        lives: |_, s, r| {
            let shut = |t: f64| Life {
                shutdown: Some(t + 0.1),
                ..opened(t).serve(t, 0.01)
            };
            regular(0.0, s, r).into_iter().map(shut).collect()
        },
    },
    Case {
        name: "left to a child process",
        role: Role::Client,
        leak: Some(Kind::InheritedFd),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let left = |t: f64| Life {
                other_holder: Some(t + 0.02),
                ..opened(t).request(t, 0.01)
            };
            regular(0.0, s, r).into_iter().map(left).collect()
        },
    },
    Case {
        name: "left to a child process, peer closed",
        role: Role::Client,
        leak: Some(Kind::InheritedFd),
        seconds: SHORT,
        rates: RATES,
        lives: |_, s, r| {
            let left = |t: f64| Life {
                other_holder: Some(t + 0.02),
                ..opened(t).request(t, 0.01).peer_close(t + 0.1)
            };
            regular(0.0, s, r).into_iter().map(left).collect()
        },
    },
    Case {
        name: "a pool that is reused and only grows",
        role: Role::Client,
        leak: Some(Kind::PoolUnbounded),
        seconds: &[180.0, 600.0],
        rates: &[0.5, 2.0],
        lives: |_, s, r| {
            let pooled = |t: f64| {
                let mut life = opened(t).request(t, 0.05);
                for again in regular(t + 5.0, s, 0.1) {
                    life = life.request(again, 0.05);
                }
                life
            };
            regular(0.0, s, r).into_iter().map(pooled).collect()
        },
    },
];

/// Arrivals at a server that answers and closes, but for one in eight.
pub fn one_in_eight(seconds: f64, rate: f64, other: fn(f64) -> Life) -> Vec<Life> {
    let brief = |t: f64| opened(t).serve(t, 0.01).close(t + 0.02);
    let life = |(n, t): (usize, f64)| if n % 8 == 0 { other(t) } else { brief(t) };
    let arrivals = regular(0.0, seconds, rate).into_iter().enumerate();
    arrivals.map(life).collect()
}
