//! Plays the lives of connections to the engine, sweep by sweep.

use std::collections::BTreeMap;

use crate::{
    engine::{Engine, Judgement, Lineage, Settings},
    model::{
        CohortId, Connection, Ended, Framing, Holder, PoolState, Protocol, ResponseState, Role,
    },
};

/// Monotonic time at which every watch begins: the lives before it are older than the tracer.
const START_S: f64 = 100_000.0;
const COHORT: CohortId = CohortId(7);

/// Where a connection belongs: call site and authority; call site 0 is none, authority 0 a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Belongs {
    /// Call site.
    pub site: u32,
    /// Authority.
    pub authority: u32,
}

impl Belongs {
    fn leaf(self) -> CohortId {
        CohortId(1000 + self.site * 10_000 + self.authority)
    }

    fn lineage(self) -> Lineage {
        Lineage {
            site: CohortId(100_000_000 + self.site),
            authority: CohortId(200_000_000 + self.authority),
            process: CohortId(300_000_000),
            sited: self.site > 0,
            pairs: self.authority == 0,
        }
    }
}

/// One connection's life; times are seconds since the watch began, and may be negative.
#[derive(Debug, Clone)]
pub struct Life {
    /// Where it belongs; `None`: alone in its population.
    pub belongs: Option<Belongs>,
    /// Opened.
    pub opened: f64,
    /// Sends and receives, in order.
    pub transfers: Vec<Transfer>,
    /// Closed by us.
    pub closed: Option<f64>,
    /// Closed by the peer.
    pub peer_closed: Option<f64>,
    /// The peer's close was a reset.
    pub reset: bool,
    /// From then on so many bytes lie unread, until the next receive.
    pub unread: Option<(f64, u32)>,
    /// Shut down by us for sending.
    pub shutdown: Option<f64>,
    /// Held by another process from then on.
    pub other_holder: Option<f64>,
    /// The connect failed.
    pub error: u16,
    /// What the runtime says, from when.
    pub pool: Vec<(f64, PoolState)>,
    /// Somebody waits for what it receives.
    pub awaited: Option<bool>,
    /// One end of a socket pair.
    pub pair: bool,
    /// What it speaks.
    pub protocol: Protocol,
    /// The answer it got.
    pub response: Option<ResponseState>,
}

/// A send or receive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Transfer {
    /// At that time.
    Sent(f64),
    /// At that time.
    Received(f64),
}

impl Transfer {
    fn at(self) -> f64 {
        match self {
            Transfer::Sent(t) | Transfer::Received(t) => t,
        }
    }
}

/// A connection that was opened and nothing more.
pub fn opened(opened: f64) -> Life {
    Life {
        belongs: None,
        opened,
        transfers: Vec::new(),
        closed: None,
        peer_closed: None,
        reset: false,
        unread: None,
        shutdown: None,
        other_holder: None,
        error: 0,
        pool: Vec::new(),
        awaited: None,
        pair: false,
        protocol: Protocol::Unknown,
        response: None,
    }
}

impl Life {
    /// Opened at a call site, to an authority.
    pub fn at(mut self, site: u32, authority: u32) -> Life {
        self.belongs = Some(Belongs { site, authority });
        self.pair = authority == 0;
        self
    }

    /// A client's request at `at`, answered `wait` later.
    pub fn request(mut self, at: f64, wait: f64) -> Life {
        self.protocol = Protocol::Http;
        self.transfers.push(Transfer::Sent(at));
        self.transfers.push(Transfer::Received(at + wait));
        self
    }

    /// Its bytes are of no protocol that is known.
    pub fn raw(mut self) -> Life {
        self.protocol = Protocol::Unknown;
        self
    }

    /// Upgraded to another protocol by the first answer.
    pub fn upgraded(mut self) -> Life {
        self.response = Some(ResponseState {
            status: 101,
            upgraded: true,
            framing: Framing::None,
            complete: true,
        });
        self
    }

    /// A request that gets no answer.
    pub fn ask(mut self, at: f64) -> Life {
        self.transfers.push(Transfer::Sent(at));
        self
    }

    /// A server's view of a request at `at`, answered `work` later.
    pub fn serve(mut self, at: f64, work: f64) -> Life {
        self.transfers.push(Transfer::Received(at));
        self.transfers.push(Transfer::Sent(at + work));
        self
    }

    /// Receives every `period` seconds from `from` to `to`.
    pub fn stream(mut self, from: f64, to: f64, period: f64) -> Life {
        let mut t = from;
        while t < to {
            self.transfers.push(Transfer::Received(t));
            t += period;
        }
        self
    }

    /// Sends every `period` seconds from `from` to `to`.
    pub fn feed(mut self, from: f64, to: f64, period: f64) -> Life {
        let mut t = from;
        while t < to {
            self.transfers.push(Transfer::Sent(t));
            t += period;
        }
        self
    }

    /// Whether somebody waits for what it receives.
    pub fn awaited(mut self, by_somebody: bool) -> Life {
        self.awaited = Some(by_somebody);
        self
    }

    /// Closed by us.
    pub fn close(mut self, at: f64) -> Life {
        self.closed = Some(at);
        self
    }

    /// Closed by the peer.
    pub fn peer_close(mut self, at: f64) -> Life {
        self.peer_closed = Some(at);
        self
    }

    /// A change of state in the runtime's pool.
    pub fn pool(mut self, at: f64, state: PoolState) -> Life {
        self.pool.push((at, state));
        self
    }

    /// What a sweep sees at `now`; `scanned` is the time of the last reconciliation.
    fn view(&self, sk: u64, now: f64, scanned: f64) -> Option<Connection> {
        if self.opened > now || self.closed.is_some_and(|c| c <= now) {
            return None;
        }
        let past = |t: Option<f64>| t.filter(|&t| t <= now).map(ns);
        let (mut sent, mut received, mut turn) = (None, None, None);
        let mut turns = 0;
        let mut last_was_send = false;
        // The kernel side has counted turns only since the watch began.
        let watching = self.opened.max(0.0);
        for transfer in self.transfers.iter().filter(|t| t.at() <= now) {
            match *transfer {
                Transfer::Sent(t) => {
                    if !last_was_send && t >= watching {
                        turns += 1;
                        turn = Some(t);
                    }
                    sent = Some(t);
                    last_was_send = true;
                }
                Transfer::Received(t) => {
                    received = Some(t);
                    last_was_send = false;
                }
            }
        }
        let unread = match self.unread {
            Some((from, bytes)) if from <= scanned && received.is_none_or(|r| r <= from) => bytes,
            _ => 0,
        };
        let pool = self.pool.iter().rev().find(|(t, _)| *t <= now);
        Some(Connection {
            sk,
            opened_ns: ns(self.opened),
            sent_ns: sent.map(ns),
            received_ns: received.map(ns),
            turn_ns: turn.map(ns),
            peer_closed_ns: past(self.peer_closed),
            closed_ns: None,
            turns,
            unread,
            fd: Some(3),
            holder: match self.other_holder {
                Some(from) if from <= scanned => Holder::Other(4242),
                _ => Holder::Opener,
            },
            connected: self.error == 0,
            reset: self.reset && self.peer_closed.is_some_and(|p| p <= now),
            shutdown: self.shutdown.is_some_and(|s| s <= now),
            preexisting: self.opened < 0.0,
            error: self.error,
            last_was_send,
            awaited: self.awaited,
            pair: self.pair,
            pool: pool.map_or(PoolState::Unknown, |(_, state)| *state),
            protocol: self.protocol,
            response: self.response,
            in_transaction: false,
        })
    }

    fn turns(&self) -> u64 {
        let mut last_was_send = false;
        let mut turns = 0;
        for t in &self.transfers {
            let send = matches!(t, Transfer::Sent(_));
            turns += u64::from(send && !last_was_send);
            last_was_send = send;
        }
        turns
    }
}

/// How the watch is done.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    /// Length, seconds.
    pub seconds: f64,
    /// Time between sweeps, seconds.
    pub sweep: f64,
    /// Time between reconciliations, seconds; one always comes last.
    pub reconcile: f64,
}

/// Plays `lives` and judges at the end.
pub fn play(role: Role, lives: &[Life], watch: Watch) -> (Vec<Judgement>, Engine) {
    play_and_look(role, lives, watch, |_, _| ())
}

/// The same, with a look at the engine after each sweep; its second argument is seconds.
pub fn play_and_look(
    role: Role,
    lives: &[Life],
    watch: Watch,
    mut look: impl FnMut(&mut Engine, f64),
) -> (Vec<Judgement>, Engine) {
    let mut engine = Engine::new(Settings::default());
    let mut ended = vec![false; lives.len()];
    let mut scanned = 0.0;
    let mut now: f64 = 0.0;
    let mut sweeps = 0u32;
    loop {
        let last = now >= watch.seconds;
        let reconciled = sweeps == 0 || last || now - scanned >= watch.reconcile;
        if reconciled {
            scanned = now;
        }
        engine.begin_sweep(ns(now), reconciled);
        let mut gone: BTreeMap<CohortId, Ended> = BTreeMap::new();
        for (i, life) in lives.iter().enumerate() {
            let leaf = life.belongs.map_or(COHORT, Belongs::leaf);
            if let Some(c) = life.view(i as u64, now, scanned) {
                if let (Some(belongs), false) = (life.belongs, engine.knows(leaf)) {
                    engine.enroll(leaf, role, belongs.lineage());
                }
                engine.observe(leaf, role, &c);
            } else if let Some(closed) = life.closed
                && closed <= now
                && closed > 0.0
                && !ended[i]
            {
                ended[i] = true;
                let gone = gone.entry(leaf).or_default();
                gone.count += 1;
                gone.lifetime_ns += ns(closed) - ns(life.opened);
                gone.turns += life.turns();
            }
        }
        for (leaf, gone) in &gone {
            engine.ended(*leaf, role, gone);
        }
        engine.end_sweep();
        look(&mut engine, now);
        if last {
            break;
        }
        // Sweeps are never quite regular.
        let jitter = f64::from(sweeps * 7 % 5) * 0.02 - 0.04;
        now = (now + watch.sweep * (1.0 + jitter)).min(watch.seconds);
        sweeps += 1;
    }
    (engine.judge(), engine)
}

/// Nanoseconds of the monotonic clock.
pub fn ns(seconds: f64) -> u64 {
    ((START_S + seconds) * 1e9) as u64
}

/// A small deterministic source of irregularity (xorshift).
#[derive(Debug, Clone)]
pub struct Noise(pub u64);

impl Noise {
    /// Uniform in 0..1.
    pub fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Exponentially distributed with the given mean.
    pub fn wait(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// Arrival times in `from..to` with a mean rate per second, irregular.
    pub fn arrivals(&mut self, from: f64, to: f64, rate: f64) -> Vec<f64> {
        let mut times = Vec::new();
        let mut t = from + self.wait(1.0 / rate);
        while t < to {
            times.push(t);
            t += self.wait(1.0 / rate);
        }
        times
    }
}
