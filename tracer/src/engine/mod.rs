//! The leak engine: from what sweeps saw to judgements. Pure: no clock, no I/O, no kernel.
//!
//! The same history of calls gives the same judgements. Memory is bounded per cohort, never per
//! connection: each sweep shows every live connection once, the engine keeps tallies by
//! [class](classify::Class) and a thinned-out series of them.
//!
//! ```text
//! begin_sweep ─ observe* ─ ended* ─ end_sweep      (about once a second)
//! judge                                            (whenever somebody asks)
//! ```

mod classify;
#[cfg(test)]
mod corpus;
mod evidence;
mod history;
mod judge;
mod rules;
pub mod saved;
#[cfg(test)]
mod tests;
mod trend;

use std::collections::HashMap;

use crate::{
    model::{CohortId, Confidence, Connection, Ended, Kind, Role},
    report::Connections,
};
use history::{History, Tally};

/// What the engine takes for granted about healthy programs.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Fewest survivors that growth may be concluded from.
    pub min_survivors: u32,
    /// Fewest separate seconds those survivors must have been opened in.
    pub min_intervals: u32,
    /// Cohorts kept at one time; connections of further ones are counted as overflow.
    pub max_cohorts: usize,
    /// Without a transfer for this long a connection is idle, nanoseconds.
    pub idle_ns: u64,
    /// Unread bytes, an open body or a half-shut socket are suspicious after this long without
    /// a transfer, nanoseconds.
    pub stuck_ns: u64,
    /// A peer's close is overdue for an answer after this long, nanoseconds.
    pub close_wait_ns: u64,
    /// Proof per connection must have lasted this long where nothing grows, nanoseconds.
    pub standing_ns: u64,
    /// A request that waits for its answer this long counts as abandoned, nanoseconds.
    pub waiting_ns: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        const SECOND: u64 = 1_000_000_000;
        Settings {
            min_survivors: 5,
            min_intervals: 3,
            max_cohorts: 8192,
            idle_ns: 2 * SECOND,
            stuck_ns: 5 * SECOND,
            close_wait_ns: 3 * SECOND,
            standing_ns: 10 * SECOND,
            waiting_ns: 60 * SECOND,
        }
    }
}

/// What the engine thinks of one cohort.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The cohort.
    pub cohort: CohortId,
    /// The kind that names it.
    pub kind: Kind,
    /// Other kinds that fit too, in their order.
    pub also: Vec<Kind>,
    /// How sure.
    pub confidence: Confidence,
    /// Counts.
    pub connections: Connections,
    /// Requests carried by the cohort's connections, live and closed.
    pub requests: u64,
    /// Outlived connections per request; 0 when none carried a request.
    pub leaked_per_request: f64,
    /// Growth of outlived connections per minute; 0 for a standing stock.
    pub growth_per_minute: f64,
    /// Period of bursts in which the outlived connections were opened, seconds.
    pub burst_period_seconds: Option<f64>,
    /// When the oldest outlived connection was opened.
    pub oldest_opened_ns: Option<u64>,
    /// When the engine first thought so.
    pub first_seen_ns: u64,
    /// Sentences with the numbers.
    pub evidence: Vec<String>,
    /// What to change.
    pub advice: &'static str,
    /// Watching this much longer would settle a low confidence, seconds.
    pub settle_seconds: Option<f64>,
}

/// One cohort's state.
#[derive(Debug)]
struct State {
    role: Role,
    /// Being filled by the current sweep.
    filling: Tally,
    /// As of the last complete sweep.
    tally: Tally,
    history: History,
    closed: u64,
    closed_lifetime_ns: u64,
    closed_turns: u64,
    /// Connections that the garbage collector closed: proof by itself.
    collected: u64,
    peak_open: u64,
    last_active_ns: u64,
    first_seen_ns: Option<u64>,
    /// Since when it is not suspected any more.
    cleared_ns: Option<u64>,
}

impl State {
    fn new(role: Role, now_ns: u64) -> State {
        State {
            role,
            filling: Tally::default(),
            tally: Tally::default(),
            history: History::default(),
            closed: 0,
            closed_lifetime_ns: 0,
            closed_turns: 0,
            collected: 0,
            peak_open: 0,
            last_active_ns: now_ns,
            first_seen_ns: None,
            cleared_ns: None,
        }
    }
}

/// The engine: feed it sweeps, ask it for judgements.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    cohorts: HashMap<CohortId, Box<State>>,
    started_ns: Option<u64>,
    now_ns: u64,
    reconciled: bool,
    ever_reconciled: bool,
    overflow: u64,
    candidates: u64,
}

/// An empty cohort is forgotten after this long, nanoseconds.
const FORGET_NS: u64 = 3_600_000_000_000;
/// A suspicion that comes again within this time is the same one.
const CLEARED_FOR_NS: u64 = 60_000_000_000;

impl Engine {
    /// An engine that has seen nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Engine {
        Engine {
            settings,
            cohorts: HashMap::new(),
            started_ns: None,
            now_ns: 0,
            reconciled: false,
            ever_reconciled: false,
            overflow: 0,
            candidates: 0,
        }
    }

    /// Begins a sweep at `now_ns` (`CLOCK_MONOTONIC`). The first one begins the watch.
    ///
    /// `reconciled` says that the sweep agrees with the kernel's own socket lists, so that
    /// holders and unread bytes are fresh. Until one such sweep was seen no judgement is better
    /// than low confidence.
    pub fn begin_sweep(&mut self, now_ns: u64, reconciled: bool) {
        self.now_ns = now_ns.max(self.now_ns);
        self.started_ns.get_or_insert(self.now_ns);
        self.reconciled = reconciled;
        for state in self.cohorts.values_mut() {
            state.filling = Tally::default();
        }
    }

    /// Shows one connection of the current sweep. Closed ones (`closed_ns`) are passed over.
    ///
    /// The role is given with each connection because a cohort's first sight may be here.
    pub fn observe(&mut self, cohort: CohortId, role: Role, connection: &Connection) {
        if connection.closed_ns.is_some() {
            return;
        }
        let Some(seen) = classify::classify(self.now_ns, role, connection, &self.settings) else {
            return;
        };
        let now_ns = self.now_ns;
        if let Some(state) = self.state(cohort, role) {
            state.filling.add(now_ns, connection, &seen);
        }
    }

    /// Counts connections of a cohort that ended since the last sweep.
    pub fn ended(&mut self, cohort: CohortId, role: Role, ended: &Ended) {
        if ended.count == 0 {
            return;
        }
        let now_ns = self.now_ns;
        if let Some(state) = self.state(cohort, role) {
            state.closed += ended.count;
            state.closed_lifetime_ns += ended.lifetime_ns;
            state.closed_turns += ended.turns;
            state.last_active_ns = now_ns;
        }
    }

    /// Counts connections of a cohort that the runtime's garbage collector closed since the last
    /// sweep, because the program had lost them. They are among [`Engine::ended`], too.
    pub fn collected(&mut self, cohort: CohortId, role: Role, count: u64) {
        if let Some(state) = self.state(cohort, role) {
            state.collected += count;
        }
    }

    /// Ends the sweep: what was observed becomes the state that [`Engine::judge`] looks at.
    pub fn end_sweep(&mut self) {
        self.ever_reconciled |= self.reconciled;
        let now_ns = self.now_ns;
        let min = self.settings.min_survivors;
        let mut candidates = 0;
        for state in self.cohorts.values_mut() {
            std::mem::swap(&mut state.tally, &mut state.filling);
            let open = u64::from(state.tally.open);
            state.peak_open = state.peak_open.max(open);
            if open > 0 {
                state.last_active_ns = now_ns;
            }
            state.history.push(now_ns, &state.tally, state.closed);
            if state.tally.outlived() >= min {
                candidates += 1;
            }
        }
        self.candidates = candidates;
        if self.cohorts.len() * 2 > self.settings.max_cohorts {
            self.cohorts
                .retain(|_, s| s.tally.open > 0 || now_ns - s.last_active_ns < FORGET_NS);
        }
        if self.cohorts.len() * 8 > self.settings.max_cohorts * 7 {
            // room for what is open is worth more than the past of what is not
            self.cohorts.retain(|_, s| s.tally.open > 0);
        }
    }

    /// Judges every cohort as of the last complete sweep; those without suspicion are left out.
    /// Ordered by cohort.
    pub fn judge(&mut self) -> Vec<Judgement> {
        let Some(started_ns) = self.started_ns else {
            return Vec::new();
        };
        let sight = judge::Sight {
            settings: &self.settings,
            started_ns,
            now_ns: self.now_ns,
            reconciled: self.ever_reconciled,
        };
        let mut judgements: Vec<Judgement> = self
            .cohorts
            .iter_mut()
            .filter_map(|(&id, state)| {
                let mut judgement = judge::judge(&sight, id, state);
                // also where it stays so: what is kept of it must not outlive this
                if (state.cleared_ns).is_some_and(|since| sight.now_ns - since > CLEARED_FOR_NS) {
                    state.first_seen_ns = None;
                }
                match &mut judgement {
                    Some(j) => {
                        state.cleared_ns = None;
                        j.first_seen_ns = *state.first_seen_ns.get_or_insert(sight.now_ns);
                    }
                    None => {
                        state.cleared_ns.get_or_insert(sight.now_ns);
                    }
                }
                judgement
            })
            .collect();
        judgements.sort_unstable_by_key(|j| j.cohort);
        judgements
    }

    /// Counts of one cohort as of the last complete sweep, judged or not.
    #[must_use]
    pub fn connections(&self, cohort: CohortId) -> Option<Connections> {
        self.cohorts.get(&cohort).map(|s| judge::connections(s))
    }

    /// Whether anything is kept of a cohort.
    #[must_use]
    pub fn knows(&self, cohort: CohortId) -> bool {
        self.cohorts.contains_key(&cohort)
    }

    /// Cohorts with enough outlived connections to become findings.
    #[must_use]
    pub fn candidates(&self) -> u64 {
        self.candidates
    }

    /// Connections and endings that were not taken in because there were too many cohorts.
    #[must_use]
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    fn state(&mut self, cohort: CohortId, role: Role) -> Option<&mut State> {
        let full = self.cohorts.len() >= self.settings.max_cohorts;
        match self.cohorts.entry(cohort) {
            std::collections::hash_map::Entry::Occupied(e) => Some(e.into_mut()),
            std::collections::hash_map::Entry::Vacant(_) if full => {
                self.overflow += 1;
                None
            }
            std::collections::hash_map::Entry::Vacant(e) => {
                Some(e.insert(Box::new(State::new(role, self.now_ns))))
            }
        }
    }
}

/// Takes back what a server was charged with when the client side of the same connections is in
/// view and itself judged leaking: the server can't close what its client means to keep.
///
/// `pairs` are (server cohort, client cohort) with live connections between them. Only growth of
/// idle connections is explained this way; a peer's close that went unanswered is the server's own.
pub fn explain_servers(judgements: &mut Vec<Judgement>, pairs: &[(CohortId, CohortId)]) {
    let leaking: Vec<CohortId> = judgements
        .iter()
        .filter(|j| j.confidence >= Confidence::Medium)
        .map(|j| j.cohort)
        .collect();
    judgements.retain(|j| {
        j.kind != Kind::AcceptedNeverClosed
            || !pairs
                .iter()
                .any(|&(server, client)| server == j.cohort && leaking.contains(&client))
    });
}
