//! Histories of hours and days.

use super::{
    Case, HOUR, regular,
    sim::{Life, opened},
};
use crate::model::{Kind, Role};

fn greeted(life: Life) -> Life {
    let at = life.opened + 0.01;
    life.request(at, 0.01)
}

/// The cases.
pub const CASES: &[Case] = &[
    Case {
        name: "healthy: a pool whose entries live for half an hour",
        role: Role::Client,
        leak: None,
        seconds: &[2.0 * HOUR],
        rates: &[10.0],
        lives: |n, s, r| {
            let mut lives = Vec::new();
            for _ in 0..r as u32 {
                let mut begin = -1800.0 * n.unit();
                while begin < s {
                    let end = begin + 1700.0 + 100.0 * n.unit();
                    let mut life = opened(begin).at(1, 1);
                    let mut use_at = begin + 0.1;
                    while use_at < end.min(s) {
                        life = life.request(use_at, 0.02);
                        use_at += 60.0;
                    }
                    lives.push(life.close(end));
                    begin = end + 0.1;
                }
            }
            lives
        },
    },
    Case {
        name: "healthy: a job every 47 minutes that closes what it opens",
        role: Role::Client,
        leak: None,
        seconds: &[3.0 * HOUR],
        rates: &[20.0],
        lives: |_, s, r| {
            let mut lives = Vec::new();
            let mut at = 60.0;
            while at < s {
                for i in 0..r as u32 {
                    let t = at + f64::from(i) * 0.2;
                    lives.push(greeted(opened(t)).at(1, 1).close(t + 100.0));
                }
                at += 47.0 * 60.0;
            }
            lives
        },
    },
    Case {
        name: "healthy: shippers that connect anew every hour, each to its own host",
        role: Role::Client,
        leak: None,
        seconds: &[4.0 * HOUR],
        rates: &[12.0],
        lives: |n, s, r| {
            let mut lives = Vec::new();
            for host in 1..=r as u32 {
                let mut begin = -HOUR * n.unit();
                while begin < s {
                    let site = u32::from(begin >= 0.0);
                    let life = greeted(opened(begin)).raw().at(site, host);
                    lives.push(life.close(begin + HOUR));
                    begin += HOUR + 0.2;
                }
            }
            lives
        },
    },
    Case {
        name: "healthy: load by day and by night",
        role: Role::Client,
        leak: None,
        seconds: &[6.0 * HOUR],
        rates: &[1.0],
        lives: |n, s, _| {
            let mut lives = Vec::new();
            let mut t = 0.0;
            while t < s {
                let wave = 1.0 + (t / (2.0 * HOUR) * std::f64::consts::TAU).sin();
                t += n.wait(120.0 / (0.2 + wave));
                lives.push(greeted(opened(t)).at(1, 1).close(t + 600.0));
            }
            lives
        },
    },
    Case {
        name: "one in ten minutes, for hours",
        role: Role::Client,
        leak: Some(Kind::ClientPerRequest),
        seconds: &[3.0 * HOUR, 6.0 * HOUR],
        rates: &[1.0 / 600.0],
        lives: |_, s, r| {
            regular(0.0, s, r)
                .into_iter()
                .map(|t| greeted(opened(t)).at(1, 1))
                .collect()
        },
    },
    Case {
        name: "one in ten minutes, each to another host, beside a pool",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: &[4.0 * HOUR],
        rates: &[1.0 / 600.0],
        lives: |n, s, r| {
            let mut lives: Vec<Life> = regular(0.0, s, r)
                .into_iter()
                .enumerate()
                .map(|(i, t)| greeted(opened(t)).raw().at(1, i as u32 + 1))
                .collect();
            for _ in 0..5 {
                let mut life = opened(-10.0).at(2, 500);
                for at in n.arrivals(0.0, s, 1.0 / 90.0) {
                    life = life.request(at, 0.01);
                }
                lives.push(life);
            }
            lives
        },
    },
    Case {
        name: "three left behind by a job every 47 minutes",
        role: Role::Client,
        leak: Some(Kind::NeverClosed),
        seconds: &[6.0 * HOUR],
        rates: &[1.0],
        lives: |_, s, _| {
            let mut lives = Vec::new();
            let mut at = 60.0;
            while at < s {
                for i in 0..20 {
                    let t = at + f64::from(i) * 1.2;
                    let life = greeted(opened(t)).raw().at(1, 1);
                    lives.push(if i < 3 { life } else { life.close(t + 30.0) });
                }
                at += 47.0 * 60.0;
            }
            lives
        },
    },
];
