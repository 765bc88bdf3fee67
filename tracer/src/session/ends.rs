//! Connections that ended: what the kernel has counted of them, delivered to the engine.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
};

use tracer_ebpf::{AggKey, AggValue, ROLE_SERVER, Sock};

use super::lifetimes::Lifetimes;
use crate::{
    engine::Engine,
    kernel::probes::Probes,
    model::{CohortId, Ended, Role},
};

/// Share of `AGG` in use at which it is emptied.
const AGGREGATES_FULL: f64 = 0.75;
/// Aggregates whose cohort is remembered.
const COHORTS_MAX: usize = 131_072;

/// Connections that ended and are of no population that is known, most of them too brief for any
/// sweep: what they had in common, without their stacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Brief {
    /// Opening process.
    pub tgid: u32,
    role: u8,
    family: u8,
    addr: [u32; 4],
    port: u16,
}

impl Brief {
    fn of(key: &AggKey) -> Brief {
        Brief {
            tgid: key.tgid,
            role: key.role,
            family: key.family,
            addr: key.addr,
            port: key.port,
        }
    }

    /// The same as of a socket.
    pub fn sock(&self) -> Sock {
        Sock {
            tgid: self.tgid,
            role: self.role,
            family: self.family,
            remote_addr: self.addr,
            remote_port: self.port,
            local_port: self.port,
            ..Sock::default()
        }
    }
}

/// What is known of ended connections. `AGG` only ever grows, so what was delivered before is
/// subtracted.
#[derive(Debug, Default)]
pub struct Ends {
    /// Cohort of the connections that are folded under an aggregate key.
    cohorts: HashMap<AggKey, CohortId>,
    /// What the engine was already told of each aggregate.
    delivered: HashMap<AggKey, Ended>,
    /// What ended and belongs to no cohort.
    brief: BTreeMap<Brief, Ended>,
    lifetimes: Lifetimes,
}

/// Cohorts by aggregate, and what was delivered of each.
pub type Saved = (Vec<(AggKey, CohortId)>, Vec<(AggKey, Ended)>);

impl Ends {
    /// Connections under this key belong to a cohort: the latest that one of them was put into.
    pub fn belongs(&mut self, key: AggKey, cohort: CohortId) {
        self.cohorts.insert(key, cohort);
    }

    /// The cohort of the connections of a process with these stacks: the opener's and the
    /// request's.
    pub fn with_stacks(&self, tgid: u32, open_stack: u32, request_stack: u32) -> Option<CohortId> {
        let stacks = (tgid, open_stack, request_stack);
        let mut all = self.cohorts.iter();
        let found = all.find(|(of, _)| (of.tgid, of.open_stack, of.request_stack) == stacks);
        found.map(|(_, &cohort)| cohort)
    }

    /// Forgets the cohorts that are not `kept`.
    pub fn retain(&mut self, kept: impl Fn(CohortId) -> bool) {
        self.cohorts.retain(|_, id| kept(*id));
    }

    /// Forgets the cohorts of connections none of which has ended, where there are too many:
    /// those of live sockets come back as their cohorts are chosen anew, which the caller sees to
    /// where this is `true`.
    pub fn make_room(&mut self) -> bool {
        let crowded = self.cohorts.len() > COHORTS_MAX;
        if crowded {
            let delivered = &self.delivered;
            self.cohorts.retain(|key, _| delivered.contains_key(key));
        }
        crowded
    }

    /// Tells the engine of connections that ended, where their cohort is known.
    ///
    /// # Errors
    /// The kernel's, when the map can't be read.
    pub fn deliver(&mut self, probes: &Probes, engine: &mut Engine) -> io::Result<()> {
        let mut current: Vec<(AggKey, AggValue)> = Vec::new();
        probes
            .aggregates
            .for_each(|key, value| current.push((*key, *value)))?;
        self.lifetimes
            .current(current.iter().map(|(_, value)| value));
        self.brief.clear();
        for (key, value) in &current {
            if !self.cohorts.contains_key(key) {
                let brief = self.brief.entry(Brief::of(key)).or_default();
                brief.count += value.closed;
                brief.lifetime_ns = brief.lifetime_ns.saturating_add(value.lifetime_ns);
            }
            if let Some((cohort, ended)) = self.news(key, value) {
                let role = match key.role {
                    ROLE_SERVER => Role::Server,
                    _ => Role::Client,
                };
                engine.ended(cohort, role, &ended);
            }
        }
        let capacity = probes.capacities().get("AGG").copied();
        if current.len() as f64 > capacity.unwrap_or(u64::MAX) as f64 * AGGREGATES_FULL {
            let lifetimes = &mut self.lifetimes;
            probes.aggregates.drain(|_, value| lifetimes.keep(value))?;
            self.delivered.clear();
        }
        Ok(())
    }

    /// What of an aggregate was not delivered yet, and to which cohort it goes.
    fn news(&mut self, key: &AggKey, value: &AggValue) -> Option<(CohortId, Ended)> {
        let cohort = *self.cohorts.get(key)?;
        let delivered = self.delivered.entry(*key).or_default();
        let ended = Ended {
            count: value.closed.saturating_sub(delivered.count),
            lifetime_ns: value.lifetime_ns.saturating_sub(delivered.lifetime_ns),
            turns: value.turns.saturating_sub(delivered.turns),
        };
        if ended.count == 0 {
            return None;
        }
        *delivered = Ended {
            count: value.closed,
            lifetime_ns: value.lifetime_ns,
            turns: value.turns,
        };
        Some((cohort, ended))
    }

    /// Connections that ended and are of no population that is known: the most first, `most` at most.
    pub fn brief(&self, most: usize) -> Vec<(Brief, &Ended)> {
        let mut all: Vec<_> = self.brief.iter().map(|(of, ended)| (*of, ended)).collect();
        all.sort_by_key(|(_, ended)| std::cmp::Reverse(ended.count));
        all.truncate(most);
        all
    }

    /// Lifetimes of all that ended.
    pub fn lifetimes(&self) -> &Lifetimes {
        &self.lifetimes
    }

    /// What to save, of the cohorts that are `kept`: cohorts, and what was delivered.
    pub fn save(&self, kept: &HashSet<CohortId>) -> Saved {
        let cohorts = self.cohorts.iter().filter(|(_, id)| kept.contains(id));
        let cohorts = cohorts.map(|(key, id)| (*key, *id)).collect();
        let delivered = self.delivered.iter();
        let delivered = delivered
            .map(|(key, ended)| (*key, ended.clone()))
            .collect();
        (cohorts, delivered)
    }

    /// Takes over what was saved.
    pub fn restore(
        cohorts: impl Iterator<Item = (AggKey, CohortId)>,
        delivered: impl Iterator<Item = (AggKey, Ended)>,
        lifetimes: Lifetimes,
    ) -> Ends {
        Ends {
            cohorts: cohorts.collect(),
            delivered: delivered.collect(),
            brief: BTreeMap::new(),
            lifetimes,
        }
    }
}

#[cfg(test)]
mod tests {
    use tracer_ebpf::{AggKey, AggValue};

    use super::Ends;
    use crate::model::CohortId;

    #[test]
    fn each_end_is_delivered_once() {
        let mut ends = Ends::default();
        let key = AggKey {
            tgid: 7,
            open_stack: 1,
            ..AggKey::default()
        };
        let closed = |closed| AggValue {
            closed,
            lifetime_ns: 10 * closed,
            ..AggValue::default()
        };
        assert_eq!(ends.news(&key, &closed(2)), None, "of no cohort");
        ends.belongs(key, CohortId(4));
        ends.belongs(key, CohortId(3));
        assert_eq!(ends.with_stacks(7, 1, 0), Some(CohortId(3)), "the latest");
        let counts = [2, 2, 5].map(|n| {
            let news = ends.news(&key, &closed(n));
            news.map(|(cohort, ended)| (cohort, ended.count, ended.lifetime_ns))
        });
        let to = CohortId(3);
        assert_eq!(counts, [Some((to, 2, 20)), None, Some((to, 3, 30))]);
        assert!(!ends.make_room());
        ends.retain(|id| id != to);
        assert_eq!(ends.with_stacks(7, 1, 0), None);
    }
}
