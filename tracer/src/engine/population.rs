//! Populations: connections that are judged together, at every level at which they could leak.
//!
//! A leaf holds the connections of one process, call site, remote authority and role. Leaves with
//! the same call site, the same authority, or the same process are also judged together, so that no
//! leak hides because its connections go to many hosts, or are opened at many places:
//!
//! ```text
//!                process and role
//!               /               \
//!     call site (all remotes)   authority (all call sites)
//!               \               /
//!            leaf: call site and authority
//! ```
//!
//! Routes are no level: of one call site and one authority, the route of a reused connection changes
//! with every request. They are learned afterwards, from the members that leaked.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::history::{History, Tally};
use crate::model::{CohortId, Role};

/// What the members of a population have in common, beside process and role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Call site and authority.
    Leaf,
    /// Call site, whatever the authority.
    Site,
    /// Authority, whatever the call site.
    Authority,
    /// Nothing more.
    Process,
}

/// The larger populations that a leaf is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// All authorities of its call site.
    pub site: CohortId,
    /// All call sites of its authority.
    pub authority: CohortId,
    /// The process.
    pub process: CohortId,
    /// Its stack names a call site.
    pub sited: bool,
    /// Its members are socket pairs: they have no authority.
    pub pairs: bool,
}

/// Counts of a population.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Open now.
    pub open: u64,
    /// Open and past the end of their use.
    pub outlived: u64,
    /// Opened since watching began, and those found open then.
    pub opened: u64,
    /// Closed since watching began.
    pub closed: u64,
    /// Most open at one time.
    pub peak_open: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.open += other.open;
        self.outlived += other.outlived;
        self.opened += other.opened;
        self.closed += other.closed;
        self.peak_open += other.peak_open;
    }
}

/// What a population looked like when it was last suspected of more than low confidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspected {
    /// Connections that the judgement was about.
    pub outlived: u64,
    /// Those closed until then.
    pub closed: u64,
}

/// One population's state.
#[derive(Debug, Clone)]
pub struct State {
    pub role: Role,
    pub level: Level,
    /// Of a leaf: what it is a part of.
    pub lineage: Option<Lineage>,
    /// As of the last complete sweep.
    pub tally: Tally,
    /// Of a process: what of that is of leaves that there was no room for.
    pub unkept: Option<Box<Tally>>,
    pub history: History,
    pub closed: u64,
    pub closed_lifetime_ns: u64,
    pub closed_turns: u64,
    /// Connections that the garbage collector closed: proof by itself.
    pub collected: u64,
    pub peak_open: u64,
    pub last_active_ns: u64,
    pub first_seen_ns: Option<u64>,
    /// Since when it is not suspected any more.
    pub cleared_ns: Option<u64>,
    /// It was suspected once, and then not for a while.
    pub resolved: bool,
    /// What it looked like when it was last suspected.
    pub suspected: Option<Suspected>,
}

impl State {
    /// A population of which nothing is known yet.
    pub fn new(role: Role, level: Level, now_ns: u64) -> State {
        State {
            role,
            level,
            lineage: None,
            tally: Tally::default(),
            unkept: None,
            history: History::default(),
            closed: 0,
            closed_lifetime_ns: 0,
            closed_turns: 0,
            collected: 0,
            peak_open: 0,
            last_active_ns: now_ns,
            first_seen_ns: None,
            cleared_ns: None,
            resolved: false,
            suspected: None,
        }
    }

    /// The population without some of its parts, of which only `left` remain.
    pub fn without(&self, parts: &[&State], left: &[&State]) -> State {
        let mut rest = State {
            tally: Tally::default(),
            ..self.clone()
        };
        let left = left.iter().map(|state| &state.tally);
        for tally in left.chain(self.unkept.as_deref()) {
            rest.tally.merge(tally);
        }
        for part in parts {
            rest.history.subtract(&part.history);
            rest.closed = rest.closed.saturating_sub(part.closed);
            rest.closed_turns = rest.closed_turns.saturating_sub(part.closed_turns);
            rest.collected = rest.collected.saturating_sub(part.collected);
            rest.peak_open = rest.peak_open.saturating_sub(part.peak_open);
        }
        rest.peak_open = rest.peak_open.max(u64::from(rest.tally.open));
        rest
    }

    /// Counts, with every class that may outlive counted as outlived.
    pub fn counts(&self) -> Counts {
        let open = u64::from(self.tally.open);
        Counts {
            open,
            outlived: u64::from(self.tally.outlived()),
            opened: open + self.closed,
            closed: self.closed,
            peak_open: self.peak_open,
        }
    }
}
