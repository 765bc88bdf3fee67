//! Which of the populations of one process and role are findings: each connection counts in one.
//!
//! The most specific level that explains the growth is reported. A leaf that leaks is one finding,
//! unless its call site leaks towards several authorities, or towards many of which each has too few
//! to be judged: then the call site is. What is left over is judged by authority, whatever the call
//! site, and at last as a whole.

use std::collections::{BTreeMap, HashMap};

use super::{
    Judgement,
    growth::Sight,
    judge::judge,
    population::{Level, State},
};
use crate::model::{CohortId, Confidence};

/// All populations by number.
type States = HashMap<CohortId, Box<State>>;

/// One process and role: its own population and its leaves, ordered.
#[derive(Debug, Default)]
pub struct Family {
    pub leaves: Vec<CohortId>,
}

/// Share of what outlived that findings at lower levels must cover to explain a level above.
const EXPLAINED: f64 = 0.75;

/// Groups all leaves by the population of their process. Leaves of no process stand alone.
pub fn families(states: &States) -> (BTreeMap<CohortId, Family>, Vec<CohortId>) {
    let mut families: BTreeMap<CohortId, Family> = BTreeMap::new();
    let mut alone = Vec::new();
    for (&id, state) in states {
        match (state.level, state.lineage) {
            (Level::Leaf, Some(lineage)) => {
                let family = families.entry(lineage.process).or_default();
                family.leaves.push(id);
            }
            (Level::Leaf, None) => alone.push(id),
            _ => {}
        }
    }
    for family in families.values_mut() {
        family.leaves.sort_unstable();
    }
    alone.sort_unstable();
    (families, alone)
}

/// The findings of one process and role.
pub fn select(
    sight: &Sight<'_>,
    states: &States,
    process: CohortId,
    family: &Family,
) -> Vec<Judgement> {
    let mut chosen = Selection {
        sight,
        states,
        process: states.get(&process).map(AsRef::as_ref),
        found: Vec::new(),
    };
    chosen.leaves(&family.leaves);
    chosen.sites(&family.leaves);
    chosen.siteless(&family.leaves);
    chosen.authorities(&family.leaves);
    chosen.whole(process, &family.leaves);
    chosen.companions();
    chosen.found
}

struct Selection<'a> {
    sight: &'a Sight<'a>,
    states: &'a States,
    process: Option<&'a State>,
    found: Vec<Judgement>,
}

impl<'a> Selection<'a> {
    fn state(&self, id: CohortId) -> Option<&'a State> {
        self.states.get(&id).map(AsRef::as_ref)
    }

    /// Each leaf by itself.
    fn leaves(&mut self, leaves: &[CohortId]) {
        let siblings = self.grouped(leaves, |l| Some(l.authority));
        for &id in leaves {
            let Some(state) = self.state(id) else {
                continue;
            };
            let beside = state.lineage.and_then(|l| siblings.get(&l.authority));
            let together = self.together(id, state, beside.map_or(&[], Vec::as_slice));
            let above: Vec<&State> = state
                .lineage
                .iter()
                .flat_map(|l| [l.site, l.authority, l.process])
                .filter_map(|id| self.state(id))
                .chain(&together)
                .collect();
            self.found
                .extend(judge(self.sight, id, vec![id], state, &above));
        }
    }

    /// A leaf with each of the others of its authority, where it may be a leak at all: together with
    /// the one whose members it replaces it stays as it was, whatever a third one does.
    fn together(&self, id: CohortId, state: &State, beside: &[CohortId]) -> Vec<State> {
        const BESIDE_MAX: usize = 16;
        if state.tally.open + 2 < self.sight.settings.min_survivors {
            return Vec::new();
        }
        let others = beside.iter().filter(|&&other| other != id);
        others
            .filter_map(|&other| self.state(other))
            .filter(|other| other.history.points(0) > 0)
            .take(BESIDE_MAX)
            .map(|other| {
                let mut sum = State::new(state.role, Level::Authority, self.sight.now_ns);
                sum.history = state.history.plus(&other.history);
                sum
            })
            .collect()
    }

    /// Call sites with several authorities.
    fn sites(&mut self, leaves: &[CohortId]) {
        for (site, parts) in self.grouped(leaves, |l| l.sited.then_some(l.site)) {
            let Some(state) = self.state(site) else {
                continue;
            };
            let parts: Vec<CohortId> = parts.into_iter().filter(|&p| !self.is_pair(p)).collect();
            let holding = |id: &&CohortId| self.state(**id).is_some_and(|s| s.tally.outlived() > 0);
            if parts.iter().filter(holding).count() < 2 {
                continue;
            }
            let above: Vec<&State> = self.process.into_iter().collect();
            let Some(whole) = judge(self.sight, site, parts.clone(), state, &above) else {
                continue;
            };
            let below: Vec<&Judgement> = self
                .found
                .iter()
                .filter(|j| parts.contains(&j.cohort))
                .collect();
            let best = below.iter().map(|j| j.confidence).max();
            let sure = below
                .iter()
                .filter(|j| j.confidence >= Confidence::Medium)
                .count();
            let one_explains = sure == 1
                && below.iter().any(|j| {
                    j.confidence >= Confidence::Medium && explains(j.connections.outlived, &whole)
                });
            if best.is_none_or(|best| whole.confidence >= best) && !one_explains {
                self.replace(&parts, whole);
            }
        }
    }

    /// Leaves without a call site beside the only one at the same authority that leaks: what was
    /// opened before the watch, or while no stack could be taken, is more of the same leak.
    fn siteless(&mut self, leaves: &[CohortId]) {
        for (authority, parts) in self.grouped(leaves, |l| Some(l.authority)) {
            let (sited, siteless): (Vec<CohortId>, Vec<CohortId>) =
                parts.iter().partition(|&&id| self.is_sited(id));
            let leaking: Vec<usize> = self
                .found
                .iter()
                .enumerate()
                .filter(|(_, j)| j.level == Level::Leaf && sited.contains(&j.cohort))
                .map(|(i, _)| i)
                .collect();
            let &[one] = leaking.as_slice() else {
                continue;
            };
            let lost: Vec<CohortId> = siteless
                .into_iter()
                .filter(|&id| self.state(id).is_some_and(|s| s.tally.open > 0))
                .collect();
            if lost.is_empty() {
                continue;
            }
            let Some(known) = self.found.get(one).cloned() else {
                continue;
            };
            let mut members = vec![known.cohort];
            members.extend(&lost);
            let merged = self.merged(&members, &parts, authority);
            let above: Vec<&State> = self.process.into_iter().collect();
            let judged = merged
                .as_ref()
                .and_then(|state| judge(self.sight, known.cohort, members.clone(), state, &above));
            self.found.retain(|j| !lost.contains(&j.cohort));
            if let Some(mut judged) = judged
                && judged.confidence >= known.confidence
                && judged.connections.outlived >= known.connections.outlived
            {
                let more = judged.connections.outlived - known.connections.outlived;
                if more > 0 {
                    let have = if more == 1 { "has" } else { "have" };
                    judged.evidence.push(format!(
                        "{more} of them {have} no call site of their own (opened before tracing, or \
                         their stacks could not be taken or named)."
                    ));
                }
                self.replace(&[known.cohort], judged);
            }
        }
    }

    /// Leaves of one authority that are too small to be judged by themselves.
    fn authorities(&mut self, leaves: &[CohortId]) {
        for (authority, parts) in self.grouped(leaves, |l| Some(l.authority)) {
            if parts.iter().all(|&id| self.is_pair(id)) {
                continue;
            }
            self.rest(authority, &parts);
        }
    }

    /// All that is left of the process.
    fn whole(&mut self, process: CohortId, leaves: &[CohortId]) {
        self.rest(process, leaves);
    }

    /// Judges what no finding covers of a population.
    fn rest(&mut self, id: CohortId, parts: &[CohortId]) {
        let covered = |part: &CohortId| self.found.iter().any(|j| j.members.contains(part));
        let (taken, left): (Vec<CohortId>, Vec<CohortId>) =
            parts.iter().copied().partition(covered);
        let holding = left
            .iter()
            .filter(|&&id| self.state(id).is_some_and(|s| s.tally.outlived() > 0))
            .count();
        let Some(state) = self.state(id) else {
            return;
        };
        let open = |id: &CohortId| self.state(*id).map_or(0, |s| s.tally.open);
        let unkept = state.unkept.as_ref().map_or(0, |unkept| unkept.open);
        if holding < 2 && unkept == 0 {
            return;
        }
        if unkept + left.iter().map(open).sum::<u32>() < self.sight.settings.min_survivors {
            return;
        }
        let of = |ids: &[CohortId]| -> Vec<&State> {
            ids.iter().filter_map(|&id| self.state(id)).collect()
        };
        let rest = state.without(&of(&taken), &of(&left));
        let above: Vec<&State> = match state.level {
            Level::Process => Vec::new(),
            _ => self.process.into_iter().collect(),
        };
        self.found
            .extend(judge(self.sight, id, left, &rest, &above));
    }

    /// Socket pairs that a library makes beside each connection are no leak of their own.
    fn companions(&mut self) {
        let (pairs, others): (Vec<Judgement>, Vec<Judgement>) = std::mem::take(&mut self.found)
            .into_iter()
            .partition(|j| j.members.iter().all(|&id| self.is_pair(id)));
        self.found = others;
        for pair in pairs {
            let site = |j: &Judgement| {
                let lineage = self.state(*j.members.first()?)?.lineage?;
                Some(lineage.site)
            };
            let beside = self.found.iter().position(|j| {
                let ratio = pair.connections.outlived as f64 / j.connections.outlived.max(1) as f64;
                site(j) == site(&pair) || (0.7..=2.5).contains(&ratio)
            });
            match beside.and_then(|i| self.found.get_mut(i)) {
                Some(known) => known.evidence.push(format!(
                    "{} ends of socket pairs were made beside them and stay with them.",
                    pair.connections.outlived
                )),
                None => self.found.push(pair),
            }
        }
    }

    fn is_pair(&self, id: CohortId) -> bool {
        let lineage = self.state(id).and_then(|s| s.lineage);
        lineage.is_some_and(|l| l.pairs)
    }

    fn is_sited(&self, id: CohortId) -> bool {
        let lineage = self.state(id).and_then(|s| s.lineage);
        lineage.is_some_and(|l| l.sited)
    }

    fn grouped(
        &self,
        leaves: &[CohortId],
        key: impl Fn(&super::Lineage) -> Option<CohortId>,
    ) -> BTreeMap<CohortId, Vec<CohortId>> {
        let mut groups: BTreeMap<CohortId, Vec<CohortId>> = BTreeMap::new();
        for &id in leaves {
            let lineage = self.state(id).and_then(|s| s.lineage);
            if let Some(group) = lineage.as_ref().and_then(&key) {
                groups.entry(group).or_default().push(id);
            }
        }
        groups
    }

    /// Some members of a population by themselves.
    fn merged(&self, members: &[CohortId], all: &[CohortId], whole: CohortId) -> Option<State> {
        let (inside, outside): (Vec<CohortId>, Vec<CohortId>) =
            all.iter().copied().partition(|id| members.contains(id));
        let of = |ids: &[CohortId]| -> Vec<&State> {
            ids.iter().filter_map(|&id| self.state(id)).collect()
        };
        let merged = self.state(whole)?.without(&of(&outside), &of(&inside));
        Some(State {
            level: Level::Leaf,
            ..merged
        })
    }

    /// Puts one finding in the place of those of its parts.
    fn replace(&mut self, parts: &[CohortId], by: Judgement) {
        self.found.retain(|j| !parts.contains(&j.cohort));
        self.found.push(by);
    }
}

fn explains(outlived: u64, whole: &Judgement) -> bool {
    outlived as f64 >= EXPLAINED * whole.connections.outlived as f64
}
