//! What the engine knows, in a form that outlives it.

use serde::{Deserialize, Serialize};

use super::{Engine, Level, history::History, population::State};
use crate::model::{CohortId, Role};

/// The engine as a whole.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SavedEngine {
    started_ns: Option<u64>,
    overflow: u64,
}

/// One cohort's past; what is open now is seen again by the next sweep.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedState {
    role: Role,
    level: Level,
    closed: u64,
    closed_lifetime_ns: u64,
    closed_turns: u64,
    collected: u64,
    peak_open: u64,
    last_active_ns: u64,
    first_seen_ns: Option<u64>,
    /// Left out where too few connections are open to conclude anything from it.
    #[serde(default)]
    history: History,
}

impl Engine {
    /// What to keep of the engine itself.
    #[must_use]
    pub fn save(&self) -> SavedEngine {
        SavedEngine {
            started_ns: self.started_ns,
            overflow: self.overflow,
        }
    }

    /// What to keep of a cohort; `None` when nothing is known of it.
    #[must_use]
    pub fn save_cohort(&self, id: CohortId) -> Option<SavedState> {
        let state = self.cohorts.get(&id)?;
        let suspect = state.tally.outlived() >= self.settings.min_survivors;
        Some(SavedState {
            role: state.role,
            level: state.level,
            closed: state.closed,
            closed_lifetime_ns: state.closed_lifetime_ns,
            closed_turns: state.closed_turns,
            collected: state.collected,
            peak_open: state.peak_open,
            last_active_ns: state.last_active_ns,
            first_seen_ns: state.first_seen_ns,
            history: if suspect {
                state.history.clone()
            } else {
                History::default()
            },
        })
    }

    /// Open connections of a cohort as of the last sweep, to choose what is kept where not
    /// everything can be.
    #[must_use]
    pub fn open(&self, id: CohortId) -> u32 {
        self.cohorts.get(&id).map_or(0, |state| state.tally.open)
    }

    /// Takes over what an earlier engine knew.
    pub fn restore(
        &mut self,
        engine: &SavedEngine,
        cohorts: impl Iterator<Item = (CohortId, SavedState)>,
    ) {
        self.started_ns = engine.started_ns;
        self.overflow = engine.overflow;
        for (id, saved) in cohorts {
            let mut state = State::new(saved.role, saved.level, saved.last_active_ns);
            state.closed = saved.closed;
            state.closed_lifetime_ns = saved.closed_lifetime_ns;
            state.closed_turns = saved.closed_turns;
            state.collected = saved.collected;
            state.peak_open = saved.peak_open;
            state.first_seen_ns = saved.first_seen_ns;
            state.history = saved.history;
            // where it was enrolled already, that stays
            state.lineage = self.cohorts.get(&id).and_then(|known| known.lineage);
            self.cohorts.insert(id, Box::new(state));
        }
    }
}
