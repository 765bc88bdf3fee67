//! Histories that only the larger populations explain, and healthy ones that only these excuse.

use super::{
    Case, each, regular,
    sim::{Life, opened},
};
use crate::model::{Kind, Role};

const WATCH: &[f64] = &[45.0, 120.0];

/// `size` connections of which the oldest is closed every `period` seconds, and another opened at
/// once; `old` gives the call site by opening time.
fn replaced(
    size: u32,
    period: f64,
    seconds: f64,
    authority: u32,
    site: impl Fn(f64) -> u32,
    make: impl Fn(Life) -> Life,
) -> Vec<Life> {
    let mut lives = Vec::new();
    let mut begin = -period * f64::from(size);
    while begin < seconds {
        let life = opened(begin).at(site(begin), authority);
        lives.push(make(life).close(begin + period * f64::from(size)));
        begin += period;
    }
    lives
}

/// One exchange right after the opening.
fn greeted(life: Life) -> Life {
    let at = life.opened + 0.01;
    life.request(at, 0.01)
}

/// What was opened before the watch has no call site.
fn traced(site: u32) -> impl Fn(f64) -> u32 {
    move |opened| if opened < 0.0 { 0 } else { site }
}

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "healthy: quiet websockets, the oldest replaced",
        role: Role::Client,
        leak: None,
        seconds: WATCH,
        rates: &[2.0, 4.0, 9.0],
        lives: |_, s, r| replaced(15, r, s, 1, traced(1), |l| greeted(l).upgraded()),
    },
    Case {
        name: "healthy: a protocol of its own, the oldest replaced",
        role: Role::Client,
        leak: None,
        seconds: WATCH,
        rates: &[1.5, 4.0],
        lives: |_, s, r| replaced(10, r, s, 1, traced(1), |l| greeted(l).raw()),
    },
    Case {
        name: "healthy: the same with heartbeats",
        role: Role::Client,
        leak: None,
        seconds: WATCH,
        rates: &[2.0, 4.0],
        lives: |_, s, r| {
            replaced(12, r, s, 1, traced(1), |l| {
                let at = l.opened;
                greeted(l).upgraded().stream(at + 1.0, at + 12.0 * r, 1.0)
            })
        },
    },
    Case {
        name: "healthy: opened at start, replaced at another place",
        role: Role::Client,
        leak: None,
        seconds: WATCH,
        rates: &[3.0, 6.0],
        lives: |_, s, r| {
            let mut lives = Vec::new();
            for i in 0..12 {
                let until = 2.0 + r * f64::from(i);
                lives.push(greeted(opened(0.2)).raw().at(1, 1).close(until));
                let mut begin = until + 0.05;
                while begin < s {
                    let life = greeted(opened(begin)).raw().at(2, 1);
                    lives.push(life.close(begin + 12.0 * r));
                    begin += 12.0 * r + 0.05;
                }
            }
            lives
        },
    },
    Case {
        name: "healthy: one connection per host, used again and again",
        role: Role::Client,
        leak: None,
        seconds: WATCH,
        rates: &[40.0],
        lives: |n, s, r| {
            (1..=r as u32)
                .map(|host| {
                    let life = opened(-50.0).at(1, host);
                    let uses = n.arrivals(0.0, s, 0.3);
                    uses.into_iter().fold(life, |life, u| life.request(u, 0.02))
                })
                .collect()
        },
    },
    Case {
        name: "healthy: a pair whose other end is closed",
        role: Role::Client,
        leak: None,
        seconds: &[45.0, 150.0, 600.0],
        rates: &[1.0],
        lives: |_, _, _| vec![opened(1.0).at(0, 0).peer_close(1.0)],
    },
    Case {
        name: "healthy: subscriptions that are set up for half of the watch",
        role: Role::Client,
        leak: None,
        seconds: &[60.0, 120.0],
        rates: &[0.5, 1.0],
        lives: |_, s, r| {
            each(0.0, s / 2.0, r, |i, t| {
                greeted(opened(t)).raw().at(1, i + 1)
            })
        },
    },
    Case {
        name: "one connection per host, never again",
        role: Role::Client,
        leak: Some(Kind::ClientPerRequest),
        seconds: WATCH,
        rates: &[0.6, 2.0],
        lives: |_, s, r| {
            each(-20.0, s, r, |i, t| {
                let site = u32::from(t >= 0.0);
                greeted(opened(t)).at(site, i + 1)
            })
        },
    },
    Case {
        name: "a host of seven addresses, a session each, never ended",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: WATCH,
        rates: &[0.5, 1.1],
        lives: |_, s, r| each(0.0, s, r, |i, t| greeted(opened(t)).raw().at(1, i % 7 + 1)),
    },
    Case {
        name: "stackless, each to another host",
        role: Role::Client,
        leak: Some(Kind::ClientPerRequest),
        seconds: &[120.0],
        rates: &[1.0],
        lives: |_, s, r| each(0.0, s, r, |i, t| greeted(opened(t)).at(0, i + 1)),
    },
    Case {
        name: "many call sites of one remote, each seldom",
        role: Role::Client,
        leak: Some(Kind::ClientPerRequest),
        seconds: WATCH,
        rates: &[0.5, 1.0],
        lives: |_, s, r| each(0.0, s, r, |i, t| greeted(opened(t)).at(i % 40 + 1, 1)),
    },
    Case {
        name: "a session after one exchange, kept",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: WATCH,
        rates: &[0.5, 1.1, 5.0],
        lives: |_, s, r| each(0.0, s, r, |_, t| greeted(opened(t)).raw().at(1, 1)),
    },
    Case {
        name: "websockets made anew, the old ones forgotten",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: WATCH,
        rates: &[0.5, 1.0],
        lives: |_, s, r| each(0.0, s, r, |_, t| greeted(opened(t)).upgraded().at(1, 1)),
    },
    Case {
        name: "websockets made anew, the old ones still fed",
        role: Role::Client,
        leak: Some(Kind::StreamNeverCancelled),
        seconds: WATCH,
        rates: &[0.5, 1.0],
        lives: |_, s, r| {
            each(0.0, s, r, |_, t| {
                greeted(opened(t))
                    .upgraded()
                    .stream(t + 1.0, s + 1.0, 2.0)
                    .at(1, 1)
            })
        },
    },
    Case {
        name: "streams, each to another target",
        role: Role::Client,
        leak: Some(Kind::StreamNeverCancelled),
        seconds: WATCH,
        rates: &[0.5, 1.0],
        lives: |_, s, r| {
            each(0.0, s, r, |i, t| {
                greeted(opened(t))
                    .stream(t + 0.4, s + 1.0, 0.4)
                    .at(1, i + 1)
            })
        },
    },
    Case {
        name: "given up by the client's library, never by the socket",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: &[45.0, 60.0, 120.0],
        rates: &[1.0, 2.0],
        lives: |_, s, r| each(0.0, s, r, |_, t| opened(t).ask(t + 0.01).at(1, 1)),
    },
    Case {
        name: "a leak beside a set that is replaced",
        role: Role::Client,
        leak: Some(Kind::ClientPerRequest),
        seconds: WATCH,
        rates: &[0.7, 2.0],
        lives: |_, s, r| {
            let mut lives = replaced(15, 4.0, s, 1, traced(1), |l| greeted(l).upgraded());
            lives.extend(
                regular(0.0, s, r)
                    .into_iter()
                    .map(|t| greeted(opened(t)).at(2, 2)),
            );
            lives
        },
    },
    Case {
        name: "a leak at the address of a pool that is replaced",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: WATCH,
        rates: &[0.7, 2.0],
        lives: |_, s, r| {
            let mut lives = replaced(10, 4.0, s, 1, traced(1), |l| greeted(l).raw());
            lives.extend(
                regular(0.0, s, r)
                    .into_iter()
                    .map(|t| greeted(opened(t)).raw().at(2, 1)),
            );
            lives
        },
    },
    Case {
        name: "a leak that began before the watch, its first part without a stack",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: WATCH,
        rates: &[0.5, 1.0],
        lives: |_, s, r| each(-30.0, s, r, |_, t| opened(t).at(u32::from(t >= 0.0), 1)),
    },
    Case {
        name: "a handle with its connection and a socket pair",
        role: Role::Client,
        leak: Some(Kind::ClientPerRequest),
        seconds: WATCH,
        rates: &[0.5, 1.0],
        lives: |_, s, r| {
            regular(0.0, s, r)
                .into_iter()
                .flat_map(|t| {
                    [
                        greeted(opened(t)).at(1, 1),
                        opened(t).at(1, 0),
                        opened(t).at(1, 0),
                    ]
                })
                .collect()
        },
    },
    Case {
        name: "collected from time to time, the watch ends right after",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: &[121.5, 201.5],
        rates: &[1.0, 2.0],
        lives: |_, s, r| {
            each(0.0, s, r, |_, t| {
                let collected = (t / 40.0).floor() * 40.0 + 40.0;
                greeted(opened(t)).raw().at(1, 1).close(collected)
            })
        },
    },
];
