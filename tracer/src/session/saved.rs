//! What a session knows, in a form that outlives it: beside pinned maps, for the next daemon.
//!
//! It holds nothing that reports don't show: names, numbers, and requests that are redacted
//! already. Sockets themselves are in the kernel's maps.

use serde::{Deserialize, Serialize};
use tracer_ebpf::AggKey;

use super::stacks::saved::SavedStack;
use super::{
    Session,
    cohorts::SavedCohort,
    ends::Ends,
    lifetimes::Lifetimes,
    sweep::{Facts, Head},
};
use crate::{
    engine::saved::{SavedEngine, SavedState},
    kernel::pins::Pins,
    model::{CohortId, Ended, Process},
    procs::clock::{Clock, monotonic_ns, thread_cpu_ns},
    protocols::Request,
    unwind::trie::shape_index,
};

/// Changes with every change of meaning that an older or newer reader would get wrong.
const FORMAT: u32 = 2;
/// Cohorts kept, those with most open connections first.
const COHORTS_MAX: usize = 1024;
/// Choices of cohorts kept.
const CHOSEN_MAX: usize = 16_384;

/// Saved at least this often.
const EVERY_NS: u64 = 10_000_000_000;
/// Saved at most this often, when something was learned that can't be learned again.
const SOON_NS: u64 = 1_000_000_000;
/// Saving may take one part in this many of the time.
const DUTY: u64 = 50;

/// [`AggKey`] as numbers.
type Key = [u32; size_of::<AggKey>() / 4];

/// All of it.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    format: u32,
    started_ns: u64,
    clock: Clock,
    healed: u64,
    stacks: Vec<SavedStack>,
    tickets: Vec<(u64, u32, u32)>,
    requests: Vec<Request>,
    live: Vec<(u64, u32, u32)>,
    people: Vec<Process>,
    cohorts: Vec<(CohortId, SavedCohort, Option<SavedState>)>,
    chosen: Vec<(Facts, CohortId)>,
    by_aggregate: Vec<(Key, CohortId)>,
    told: Vec<(Key, Ended)>,
    go_collected: Vec<((u32, u32, u32), u64)>,
    lifetimes: Lifetimes,
    engine: SavedEngine,
}

/// When to save.
#[derive(Debug, Default)]
pub struct Saving {
    /// Not before this.
    next_ns: u64,
    /// When it was saved last.
    pub last_ns: u64,
    /// Something was learned that is lost with this process.
    pub learned: bool,
    /// Request heads that were taken, but stay in the kernel until what they say is saved.
    pub heads: Vec<Head>,
}

impl Session {
    /// Saves what the session knows, where maps are pinned and it is time.
    pub(crate) fn save_if_due(&mut self) {
        let now_ns = monotonic_ns();
        let due_ns = self.saving.last_ns + EVERY_NS;
        let due = now_ns >= due_ns || (self.saving.learned && now_ns >= self.saving.next_ns);
        if self.probes.pins().is_some() && due {
            self.save();
        }
    }

    /// Saves what the session knows, where maps are pinned.
    pub(crate) fn save(&mut self) {
        if self.probes.pins().is_none() {
            return;
        }
        let began_ns = thread_cpu_ns();
        let saved = serde_json::to_vec(&self.saved());
        let Some(pins) = self.probes.pins() else {
            return;
        };
        let result = match saved {
            Ok(bytes) => pins.save(&bytes).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match result {
            Ok(()) => self.forget_heads(),
            Err(error) => tracing::warn!(%error, "what is known could not be kept"),
        }
        let cost_ns = thread_cpu_ns().saturating_sub(began_ns);
        self.saving.last_ns = monotonic_ns();
        self.saving.next_ns = self.saving.last_ns + SOON_NS.max(cost_ns * DUTY);
        self.saving.learned = false;
    }

    fn saved(&self) -> Saved {
        let mut ids: Vec<CohortId> = self.cohorts.ids().collect();
        if ids.len() > COHORTS_MAX {
            ids.sort_by_key(|id| std::cmp::Reverse(self.engine.open(*id)));
            ids.truncate(COHORTS_MAX);
            ids.sort_unstable();
        }
        let kept = |id: &CohortId| ids.binary_search(id).is_ok();
        let (aggregates, delivered) = self.ends.save(&ids.iter().copied().collect());
        Saved {
            format: FORMAT,
            started_ns: self.started_ns,
            clock: self.clock,
            healed: self.healed,
            stacks: self.stacks.save(),
            tickets: self.tickets.save(),
            requests: self.requests.values().to_vec(),
            live: self.live.save(),
            people: self.people.save(),
            chosen: (self.chosen.iter().filter(|(_, id)| kept(id)))
                .map(|(facts, id)| (*facts, *id))
                .take(CHOSEN_MAX)
                .collect(),
            by_aggregate: (aggregates.into_iter())
                .map(|(key, id)| (bytemuck::cast(key), id))
                .collect(),
            told: (delivered.into_iter())
                .map(|(key, ended)| (bytemuck::cast(key), ended))
                .collect(),
            go_collected: self.told.save_collected(),
            lifetimes: self.ends.lifetimes().clone(),
            engine: self.engine.save(),
            cohorts: (ids.iter())
                .filter_map(|&id| Some((id, self.cohorts.save(id)?, self.engine.save_cohort(id))))
                .collect(),
        }
    }

    /// Takes over what an earlier session saved; `false` when there is nothing that can be read.
    pub(crate) fn restore(&mut self) -> bool {
        let Some(bytes) = self.probes.pins().and_then(Pins::saved) else {
            return false;
        };
        let saved: Saved = match serde_json::from_slice::<Saved>(&bytes) {
            Ok(saved) if saved.format == FORMAT => saved,
            Ok(saved) => {
                tracing::warn!(saved.format, "what was kept has another format; begun anew");
                return false;
            }
            Err(error) => {
                tracing::warn!(%error, "what was kept can't be read; begun anew");
                return false;
            }
        };
        self.started_ns = saved.started_ns;
        self.clock = self.clock.continuing(saved.clock);
        self.healed = saved.healed;
        let mut trie = Vec::new();
        if let Err(error) = (self.probes.trie).for_each(|key, value| trie.push((*key, *value))) {
            tracing::warn!(%error, "the known call paths can't be read");
        }
        for key in self.stacks.restore(saved.stacks, trie.into_iter()) {
            let _ = self.probes.trie.remove(&key);
        }
        for shape in self.stacks.shapes() {
            let _ = self.probes.shapes.set(&shape_index(&shape), &shape);
        }
        self.tickets.restore(saved.tickets);
        self.requests.restore(saved.requests);
        self.live.restore(saved.live);
        self.people.restore(saved.people);
        let (mut cohorts, mut states) = (Vec::new(), Vec::new());
        for (id, cohort, state) in saved.cohorts {
            cohorts.push((id, cohort));
            states.extend(state.map(|state| (id, state)));
        }
        self.cohorts.restore(cohorts);
        self.engine.restore(&saved.engine, states.into_iter());
        self.chosen = saved.chosen.into_iter().collect();
        let aggregates = saved.by_aggregate.into_iter();
        let delivered = saved.told.into_iter();
        self.ends = Ends::restore(
            aggregates.map(|(key, id)| (bytemuck::cast(key), id)),
            delivered.map(|(key, ended)| (bytemuck::cast(key), ended)),
            saved.lifetimes,
        );
        self.told.restore_collected(saved.go_collected);
        true
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.save();
    }
}
