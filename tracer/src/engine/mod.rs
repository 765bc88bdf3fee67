//! The leak engine: from what sweeps saw to judgements. Pure: no clock, no I/O, no kernel.
//!
//! The same history of calls gives the same judgements. Memory is bounded per population, never per
//! connection: each sweep shows every live connection once, the engine keeps tallies by
//! [class](classify::Class) and a thinned-out series of them, for every
//! [population](population::Level) that the connection is a part of.
//!
//! ```text
//! enroll* ─ begin_sweep ─ observe* ─ ended* ─ end_sweep      (about once a second)
//! judge, watched                                             (whenever somebody asks)
//! ```

mod classify;
#[cfg(test)]
mod corpus;
mod evidence;
mod growth;
mod healthy;
mod history;
mod input;
mod judge;
pub mod kinds;
mod lives;
mod population;
pub mod saved;
mod select;
mod settings;
#[cfg(test)]
mod tests;
mod trend;

use std::collections::HashMap;

use crate::model::{CohortId, Confidence, Connection, Ended, Kind, Role};

pub use self::{
    classify::Class,
    healthy::{Watched, closed_because},
    history::Mask,
    input::{Input, Observer},
    population::{Counts, Level, Lineage},
    settings::Settings,
};
use self::{
    history::{Schedule, Tally},
    population::State,
};

/// Leaves without room whose process is remembered.
const CROWDED_OUT_MAX: usize = 65_536;

/// What the engine thinks of one population.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The population.
    pub cohort: CohortId,
    /// What its members have in common.
    pub level: Level,
    /// The leaves in it.
    pub members: Vec<CohortId>,
    /// The classes that it is about.
    pub about: Mask,
    /// The kind that names it.
    pub kind: Kind,
    /// Other kinds that fit too, in their order.
    pub also: Vec<Kind>,
    /// How sure.
    pub confidence: Confidence,
    /// Counts.
    pub connections: Counts,
    /// Requests carried by the population's connections, live and closed.
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
    /// It was suspected before, and was not in between.
    pub back: bool,
    /// Sentences with the numbers.
    pub evidence: Vec<String>,
    /// What to change.
    pub advice: &'static str,
    /// Watching this much longer would settle a low confidence, seconds.
    pub settle_seconds: Option<f64>,
    /// Status codes of the responses on outlived connections, the most frequent first.
    pub responses: Vec<(u16, u32)>,
}

/// The engine: feed it sweeps, ask it for judgements.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    cohorts: HashMap<CohortId, Box<State>>,
    /// Leaves as the current sweep sees them.
    filling: HashMap<CohortId, Box<Tally>>,
    schedule: Schedule,
    started_ns: Option<u64>,
    now_ns: u64,
    reconciled: bool,
    ever_reconciled: bool,
    overflow: u64,
    /// Leaves that there is no room for, with what they are parts of: they count as parts of their
    /// process.
    crowded_out: HashMap<CohortId, Lineage>,
    candidates: u64,
    populated: u64,
    leading: Option<(CohortId, u64)>,
    observer: Option<Box<dyn Observer>>,
}

impl Engine {
    /// An engine that has seen nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Engine {
        Engine {
            settings,
            cohorts: HashMap::new(),
            filling: HashMap::new(),
            schedule: Schedule::default(),
            started_ns: None,
            now_ns: 0,
            reconciled: false,
            ever_reconciled: false,
            overflow: 0,
            crowded_out: HashMap::new(),
            candidates: 0,
            populated: 0,
            leading: None,
            observer: None,
        }
    }

    /// Says what larger populations a leaf is a part of; a leaf that was never enrolled stands
    /// alone.
    pub fn enroll(&mut self, leaf: CohortId, role: Role, lineage: Lineage) {
        self.tell(Input::Enroll(leaf, role, lineage));
        if let Some(state) = self.state(leaf, role) {
            state.lineage = Some(lineage);
        } else if self.crowded_out.len() < CROWDED_OUT_MAX {
            self.crowded_out.insert(leaf, lineage);
        }
    }

    /// Begins a sweep at `now_ns` (`CLOCK_MONOTONIC`). The first one begins the watch.
    ///
    /// `reconciled` says that the sweep agrees with the kernel's own socket lists, so that
    /// holders and unread bytes are fresh. Until one such sweep was seen no judgement is better
    /// than low confidence.
    pub fn begin_sweep(&mut self, now_ns: u64, reconciled: bool) {
        self.tell(Input::Begin { now_ns, reconciled });
        self.now_ns = now_ns.max(self.now_ns);
        self.started_ns.get_or_insert(self.now_ns);
        self.reconciled = reconciled;
        self.filling.clear();
    }

    /// Shows one connection of the current sweep. Closed ones (`closed_ns`) are passed over.
    ///
    /// The role is given with each connection because a leaf's first sight may be here.
    ///
    /// Returns its class, by which judgements say what they are about ([`Judgement::about`]); `None`
    /// for one that is closed.
    pub fn observe(
        &mut self,
        leaf: CohortId,
        role: Role,
        connection: &Connection,
    ) -> Option<Class> {
        if connection.closed_ns.is_some() {
            return None;
        }
        self.tell(Input::Observe(leaf, role, connection));
        let seen = classify::classify(self.now_ns, role, connection, &self.settings)?;
        let kept = self.filling.contains_key(&leaf) || self.state(leaf, role).is_some();
        let counted = match kept {
            true => Some(leaf),
            false => self.process_of(leaf, role),
        };
        if let Some(counted) = counted {
            let tally = self.filling.entry(counted).or_default();
            tally.add(self.now_ns, connection, &seen);
        }
        Some(seen.class)
    }

    /// The class of a connection, which is not counted.
    #[must_use]
    pub fn class(&self, role: Role, connection: &Connection) -> Option<Class> {
        classify::classify(self.now_ns, role, connection, &self.settings).map(|seen| seen.class)
    }

    /// Counts connections of a leaf that ended since the last sweep.
    pub fn ended(&mut self, leaf: CohortId, role: Role, ended: &Ended) {
        if ended.count == 0 {
            return;
        }
        self.tell(Input::Ended(leaf, role, ended));
        let now_ns = self.now_ns;
        self.along(leaf, role, |state| {
            state.closed += ended.count;
            state.closed_lifetime_ns = state.closed_lifetime_ns.saturating_add(ended.lifetime_ns);
            state.closed_turns += ended.turns;
            state.last_active_ns = now_ns;
        });
    }

    /// Counts connections of a leaf that the runtime's garbage collector closed since the last
    /// sweep, because the program had lost them. They are among [`Engine::ended`], too.
    pub fn collected(&mut self, leaf: CohortId, role: Role, count: u64) {
        self.tell(Input::Collected(leaf, role, count));
        self.along(leaf, role, |state| state.collected += count);
    }

    /// Ends the sweep: what was observed becomes the state that [`Engine::judge`] looks at.
    pub fn end_sweep(&mut self) {
        self.tell(Input::End);
        self.ever_reconciled |= self.reconciled;
        let now_ns = self.now_ns;
        for state in self.cohorts.values_mut() {
            state.tally = Tally::default();
            state.unkept = None;
        }
        let mut seen = std::mem::take(&mut self.filling);
        for (id, tally) in seen.drain() {
            let Some(leaf) = self.cohorts.get_mut(&id) else {
                continue;
            };
            if leaf.level == Level::Process {
                leaf.tally.merge(&tally);
                leaf.unkept = Some(tally);
                continue;
            }
            let (role, lineage) = (leaf.role, leaf.lineage);
            leaf.tally = (*tally).clone();
            for (above, level) in lineage.iter().flat_map(levels) {
                if let Some(state) = self.state_at(above, role, level) {
                    state.tally.merge(&tally);
                }
            }
        }
        self.filling = seen;
        let due = self.schedule.due(now_ns);
        let min = self.settings.min_survivors;
        let (mut candidates, mut populated) = (0, 0);
        let mut leading: Option<(CohortId, u64)> = None;
        for (&id, state) in &mut self.cohorts {
            let open = u64::from(state.tally.open);
            state.peak_open = state.peak_open.max(open);
            if open > 0 {
                state.last_active_ns = now_ns;
            }
            state.history.push(now_ns, &state.tally, state.closed, due);
            populated += u64::from(state.level == Level::Leaf && open > 0);
            if state.level == Level::Leaf && state.tally.outlived() >= min {
                candidates += 1;
                let outlived = u64::from(state.tally.outlived());
                // equals by number, so that the answer does not change from sweep to sweep
                if leading.is_none_or(|(first, most)| (most, id) < (outlived, first)) {
                    leading = Some((id, outlived));
                }
            }
        }
        self.candidates = candidates;
        self.populated = populated;
        self.leading = leading;
        self.make_room();
    }

    fn make_room(&mut self) {
        let (max, now_ns) = (self.settings.max_cohorts, self.now_ns);
        let forget_ns = self.settings.forget_ns;
        if self.cohorts.len() * 2 > max {
            self.cohorts
                .retain(|_, s| s.tally.open > 0 || now_ns - s.last_active_ns < forget_ns);
        }
        if self.cohorts.len() * 8 > max * 7 {
            // room for what is open is worth more than the past of what is not
            self.cohorts.retain(|_, s| s.tally.open > 0);
        }
        if self.crowded_out.len() * 2 > CROWDED_OUT_MAX {
            let kept = &self.cohorts;
            self.crowded_out
                .retain(|_, lineage| kept.contains_key(&lineage.process));
        }
    }

    /// Judges every population as of the last complete sweep and chooses those that explain what
    /// grows, so that each connection counts in one judgement at most. Ordered by number.
    pub fn judge(&mut self) -> Vec<Judgement> {
        self.tell(Input::Judge);
        let Some(sight) = self.sight() else {
            return Vec::new();
        };
        let (families, alone) = select::families(&self.cohorts);
        let mut judgements: Vec<Judgement> = Vec::new();
        for (process, family) in &families {
            judgements.extend(select::select(&sight, &self.cohorts, *process, family));
        }
        for id in alone {
            if let Some(state) = self.cohorts.get(&id) {
                judgements.extend(judge::judge(&sight, id, vec![id], state, &[]));
            }
        }
        judgements.sort_unstable_by_key(|j| j.cohort);
        self.remember(&mut judgements);
        judgements
    }

    fn sight(&self) -> Option<growth::Sight<'_>> {
        Some(growth::Sight {
            settings: &self.settings,
            started_ns: self.started_ns?,
            now_ns: self.now_ns,
            reconciled: self.ever_reconciled,
        })
    }

    /// Keeps since when each population has been suspected.
    fn remember(&mut self, judgements: &mut [Judgement]) {
        let (now_ns, cleared_for_ns) = (self.now_ns, self.settings.cleared_for_ns);
        for (id, state) in &mut self.cohorts {
            // also where it stays so: what is kept of it must not outlive this
            if (state.cleared_ns).is_some_and(|since| now_ns - since > cleared_for_ns)
                && state.first_seen_ns.take().is_some()
            {
                state.resolved = true;
            }
            match judgements.binary_search_by_key(id, |j| j.cohort) {
                Ok(i) => {
                    state.cleared_ns = None;
                    judgements[i].first_seen_ns = *state.first_seen_ns.get_or_insert(now_ns);
                    judgements[i].back = state.resolved;
                    state.suspect(&judgements[i]);
                }
                Err(_) => {
                    state.cleared_ns.get_or_insert(now_ns);
                }
            }
        }
    }

    /// What was watched and is no leak, given what was judged to be one: the largest first.
    #[must_use]
    pub fn watched(&self, judgements: &[Judgement]) -> Vec<Watched> {
        match self.sight() {
            Some(sight) => healthy::watched(&sight, &self.cohorts, judgements),
            None => Vec::new(),
        }
    }

    /// Processes whose open connections grow although no judgement explains it, as sentences
    /// without the process's name.
    #[must_use]
    pub fn unexplained(&self, judgements: &[Judgement]) -> Vec<(CohortId, String)> {
        match self.sight() {
            Some(sight) => healthy::unexplained(&sight, &self.cohorts, judgements),
            None => Vec::new(),
        }
    }

    /// Counts of one population as of the last complete sweep, judged or not.
    #[cfg(test)]
    #[must_use]
    pub fn connections(&self, cohort: CohortId) -> Option<Counts> {
        self.cohorts.get(&cohort).map(|s| s.counts())
    }

    /// Whether anything is kept of a population.
    #[must_use]
    pub fn knows(&self, cohort: CohortId) -> bool {
        self.cohorts.contains_key(&cohort)
    }

    /// Leaves with enough outlived connections to become findings.
    #[must_use]
    pub fn candidates(&self) -> u64 {
        self.candidates
    }

    /// Leaves with open connections.
    #[must_use]
    pub fn populated(&self) -> u64 {
        self.populated
    }

    /// The candidate with the most outlived connections, and their number.
    #[must_use]
    pub fn leading(&self) -> Option<(CohortId, u64)> {
        self.leading
    }

    /// Connections and endings that were not taken in because there were too many populations.
    #[must_use]
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    fn along(&mut self, leaf: CohortId, role: Role, mut change: impl FnMut(&mut State)) {
        let Some(state) = self.state(leaf, role) else {
            if let Some(process) = self.process_of(leaf, role) {
                self.cohorts
                    .get_mut(&process)
                    .into_iter()
                    .for_each(|state| change(state));
            }
            return;
        };
        change(state);
        let lineage = state.lineage;
        for (above, level) in lineage.iter().flat_map(levels) {
            if let Some(state) = self.state_at(above, role, level) {
                change(state);
            }
        }
    }

    fn state(&mut self, leaf: CohortId, role: Role) -> Option<&mut State> {
        // where there is room again for one that there was none for
        let lineage = self.crowded_out.get(&leaf).copied();
        let state = self.state_at(leaf, role, Level::Leaf)?;
        state.lineage = state.lineage.or(lineage);
        Some(state)
    }

    /// The process that a leaf without room counts for, where there is room for that.
    fn process_of(&mut self, leaf: CohortId, role: Role) -> Option<CohortId> {
        let process = self.crowded_out.get(&leaf)?.process;
        self.state_at(process, role, Level::Process)?;
        Some(process)
    }

    fn state_at(&mut self, id: CohortId, role: Role, level: Level) -> Option<&mut State> {
        // what is judged of a whole process is worth more than one more of its parts
        let max = match level {
            Level::Leaf => self.settings.max_cohorts * 3 / 4,
            _ => self.settings.max_cohorts,
        };
        let full = self.cohorts.len() >= max;
        match self.cohorts.entry(id) {
            std::collections::hash_map::Entry::Occupied(e) => Some(e.into_mut()),
            std::collections::hash_map::Entry::Vacant(_) if full => {
                self.overflow += 1;
                None
            }
            std::collections::hash_map::Entry::Vacant(e) => {
                Some(e.insert(Box::new(State::new(role, level, self.now_ns))))
            }
        }
    }
}

fn levels(lineage: &Lineage) -> [(CohortId, Level); 3] {
    [
        (lineage.site, Level::Site),
        (lineage.authority, Level::Authority),
        (lineage.process, Level::Process),
    ]
}

/// Takes back what a server was charged with when the client side of the same connections is in
/// view and itself judged leaking: the server can't close what its client means to keep.
///
/// `pairs` are (server leaf, client leaf) with live connections between them. Only growth of
/// idle connections is explained this way; a peer's close that went unanswered is the server's own.
pub fn explain_servers(judgements: &mut Vec<Judgement>, pairs: &[(CohortId, CohortId)]) {
    let leaking: Vec<CohortId> = judgements
        .iter()
        .filter(|j| j.confidence >= Confidence::Medium)
        .flat_map(|j| j.members.iter().copied())
        .collect();
    judgements.retain(|j| {
        j.kind != Kind::AcceptedNeverClosed
            || !pairs
                .iter()
                .any(|(server, client)| j.members.contains(server) && leaking.contains(client))
    });
}
