//! What a session knows, in a form that outlives it: beside pinned maps, for the next daemon.
//!
//! It holds nothing that reports don't show: names, numbers, and the routes of requests, but no
//! request as it was made. Sockets themselves are in the kernel's maps.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tracer_ebpf::AggKey;

use super::{
    call_paths::CallPaths, cohorts::SavedCohort, ends::Ends, facts::Facts, lifetimes::Lifetimes,
    processes::Processes, requests::Requests, sockets::Sockets, stacks::saved::SavedStack,
};
use crate::{
    engine::{
        Engine,
        saved::{SavedEngine, SavedState},
    },
    kernel::{pins::Pins, probes::Probes},
    model::{CohortId, Ended, Process},
    procs::clock::{Clock, monotonic_ns, thread_cpu_ns},
    protocols::{Request, template},
    refused::Refusal,
};

/// Changes with every change of meaning that an older or newer reader would get wrong.
const FORMAT: u32 = 4;
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
    stacks: Vec<SavedStack>,
    tickets: Vec<(u64, u32, u32)>,
    /// Requests by number, with routes as targets.
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
}

/// The parts of a session of which something is saved.
#[derive(Debug)]
pub struct Kept<'a> {
    /// When the watch began, monotonic nanoseconds.
    pub started_ns: &'a mut u64,
    /// The clocks at that time.
    pub clock: &'a mut Clock,
    /// Stacks.
    pub paths: &'a mut CallPaths,
    /// Requests.
    pub requests: &'a mut Requests,
    /// Processes.
    pub processes: &'a mut Processes,
    /// Populations and ends.
    pub sockets: &'a mut Sockets,
    /// What the engine remembers.
    pub engine: &'a mut Engine,
}

impl Saving {
    /// Whether it is time.
    pub fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.last_ns + EVERY_NS || (self.learned && now_ns >= self.next_ns)
    }

    /// It was saved, which took so much CPU time.
    fn done(&mut self, now_ns: u64, cost_ns: u64) {
        self.last_ns = now_ns;
        self.next_ns = now_ns + SOON_NS.max(cost_ns * DUTY);
        self.learned = false;
    }

    /// Saves what the session knows, where maps are pinned.
    pub fn save(&mut self, kept: &mut Kept<'_>, probes: &Probes) {
        let Some(pins) = probes.pins() else {
            return;
        };
        let began_ns = thread_cpu_ns();
        let result = match serde_json::to_vec(&kept.saved()) {
            Ok(bytes) => pins.save(&bytes).map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match result {
            Ok(()) => kept.requests.forget_heads(probes),
            Err(error) => tracing::warn!(%error, "what is known could not be kept"),
        }
        let cost_ns = thread_cpu_ns().saturating_sub(began_ns);
        self.done(monotonic_ns(), cost_ns);
    }
}

impl Kept<'_> {
    fn saved(&self) -> Saved {
        let (sockets, engine) = (&*self.sockets, &*self.engine);
        let mut ids: Vec<CohortId> = sockets.cohorts.ids().collect();
        if ids.len() > COHORTS_MAX {
            ids.sort_by_key(|id| std::cmp::Reverse(engine.open(*id)));
            ids.truncate(COHORTS_MAX);
            ids.sort_unstable();
        }
        let kept = |id: &CohortId| ids.binary_search(id).is_ok();
        let (aggregates, delivered) = sockets.ends.save(&ids.iter().copied().collect());
        Saved {
            format: FORMAT,
            started_ns: *self.started_ns,
            clock: *self.clock,
            stacks: self.paths.stacks.save(),
            tickets: self.paths.pending.save(),
            requests: self.routes(),
            live: self.requests.latest.save(),
            people: self.processes.save(),
            chosen: (sockets.chosen().filter(|(_, id)| kept(id)))
                .map(|(facts, id)| (*facts, *id))
                .take(CHOSEN_MAX)
                .collect(),
            by_aggregate: (aggregates.into_iter())
                .map(|(key, id)| (bytemuck::cast(key), id))
                .collect(),
            told: (delivered.into_iter())
                .map(|(key, ended)| (bytemuck::cast(key), ended))
                .collect(),
            go_collected: sockets.told.save_collected(),
            lifetimes: sockets.ends.lifetimes().clone(),
            engine: engine.save(),
            cohorts: (ids.iter())
                .filter_map(|&id| Some((id, sockets.cohorts.save(id)?, engine.save_cohort(id))))
                .collect(),
        }
    }

    /// The requests by number, each with the route that its population learned of it; where
    /// populations differ, with that which says least: one that has seen few targets takes words of
    /// theirs for names.
    fn routes(&self) -> Vec<Request> {
        let requests = &self.requests.interner;
        let mut learned: HashMap<u32, (usize, String)> = HashMap::new();
        for (facts, id) in self.sockets.chosen() {
            let request = facts.request.and_then(|number| {
                let request = requests.value(number)?;
                Some((number, &request.target))
            });
            let (Some((number, target)), Some(entry)) = (request, self.sockets.cohorts.get(*id))
            else {
                continue;
            };
            if let Some((path, variable)) = entry.routes.path_of(target) {
                let route = (variable, path);
                let known = learned.entry(number).or_insert_with(|| route.clone());
                if route > *known {
                    *known = route;
                }
            }
        }
        let with_route = |(number, request): (u32, &Request)| {
            let mut target = template(&request.target);
            if let Some((_, path)) = learned.remove(&number) {
                let query = target.find('?').map_or("", |at| &target[at..]);
                target = format!("{path}{query}");
            }
            Request {
                target,
                ..request.clone()
            }
        };
        (0..).zip(requests.values()).map(with_route).collect()
    }

    /// Takes over what an earlier session saved; `false` when there is nothing that can be read.
    pub fn restore(&mut self, probes: &Probes) -> bool {
        let Some(bytes) = probes.pins().and_then(Pins::saved) else {
            return false;
        };
        let saved: Saved = match serde_json::from_slice::<Saved>(&bytes) {
            Ok(saved) if saved.format == FORMAT => saved,
            Ok(saved) => {
                tracing::warn!(saved.format, "what was kept has another format; begun anew");
                Refusal::SavedState.count();
                return false;
            }
            Err(error) => {
                tracing::warn!(%error, "what was kept can't be read; begun anew");
                Refusal::SavedState.count();
                return false;
            }
        };
        *self.started_ns = saved.started_ns;
        *self.clock = self.clock.continuing(saved.clock);
        self.paths.restore(saved.stacks, saved.tickets, probes);
        self.requests.interner.restore(saved.requests);
        self.requests.latest.restore(saved.live);
        self.processes.restore(saved.people);
        let (mut cohorts, mut states) = (Vec::new(), Vec::new());
        for (id, cohort, state) in saved.cohorts {
            cohorts.push((id, cohort));
            states.extend(state.map(|state| (id, state)));
        }
        let sockets = &mut *self.sockets;
        sockets.cohorts.restore(cohorts);
        self.engine.restore(&saved.engine, states.into_iter());
        sockets.restore_chosen(saved.chosen);
        let aggregates = saved.by_aggregate.into_iter();
        let delivered = saved.told.into_iter();
        sockets.ends = Ends::restore(
            aggregates.map(|(key, id)| (bytemuck::cast(key), id)),
            delivered.map(|(key, ended)| (bytemuck::cast(key), ended)),
            saved.lifetimes,
        );
        sockets.told.restore_collected(saved.go_collected);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{EVERY_NS, SOON_NS, Saving};

    #[test]
    fn what_was_learned_is_saved_soon_and_saving_takes_a_part_of_the_time_only() {
        let mut saving = Saving::default();
        saving.done(0, 0);
        assert!(!saving.is_due(SOON_NS) && saving.is_due(EVERY_NS));
        saving.learned = true;
        assert!(!saving.is_due(SOON_NS - 1) && saving.is_due(SOON_NS));
        saving.done(0, SOON_NS / 10);
        saving.learned = true;
        assert!(!saving.is_due(SOON_NS) && saving.is_due(5 * SOON_NS));
    }
}
