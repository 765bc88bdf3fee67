//! What became of suspicions: why a population that was judged leaking is not any more.

use super::{
    Engine, Judgement, Level, healthy,
    population::{State, Suspected},
};
use crate::model::{CohortId, Confidence};

/// A suspicion that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// The population.
    pub cohort: CohortId,
    /// Why, as a sentence.
    pub because: String,
    /// The population that is judged in its place, where there is one.
    pub continued_as: Option<CohortId>,
}

impl Engine {
    /// Suspicions of earlier calls of [`Engine::judge`] that the latest, `judgements`, does not
    /// share, each with the reason. They are told of until the population is forgotten.
    #[must_use]
    pub fn over(&self, judgements: &[Judgement]) -> Vec<Over> {
        let Some(sight) = self.sight() else {
            return Vec::new();
        };
        let suspected_now = |id: &CohortId| judgements.iter().any(|j| j.cohort == *id);
        let mut all: Vec<Over> = self
            .cohorts
            .iter()
            .filter(|(id, _)| !suspected_now(id))
            .filter_map(|(&cohort, state)| {
                let before = state.suspected?;
                let continued_as = self.continued(cohort, state, judgements);
                let because = match continued_as {
                    Some(_) => "What leaks is told of by another finding now.".to_owned(),
                    None => because(before, state, &healthy::because(&sight, state)),
                };
                Some(Over {
                    cohort,
                    because,
                    continued_as,
                })
            })
            .collect();
        all.sort_unstable_by_key(|over| over.cohort);
        all
    }

    /// The judgement that took over what a population was suspected of.
    fn continued(&self, id: CohortId, state: &State, judgements: &[Judgement]) -> Option<CohortId> {
        let part_of = |leaf: &CohortId| {
            let lineage = self.cohorts.get(leaf).and_then(|leaf| leaf.lineage);
            lineage.is_some_and(|l| [l.site, l.authority, l.process].contains(&id))
        };
        judgements
            .iter()
            .filter(|j| j.confidence > Confidence::Low)
            .find(|j| match state.level {
                Level::Leaf => j.members.contains(&id),
                _ => j.members.iter().any(part_of),
            })
            .map(|j| j.cohort)
    }
}

fn because(before: Suspected, state: &State, healthy: &str) -> String {
    let open = u64::from(state.tally.open);
    let closed = state.closed.saturating_sub(before.closed);
    let (is, was) = match closed {
        1 => ("connection", "was"),
        _ => ("connections", "were"),
    };
    if open == 0 {
        return format!("None is open any more: {closed} {is} {was} closed since.");
    }
    if closed * 2 >= before.outlived {
        return format!("{closed} {is} {was} closed since; {open} are open, and nothing grows.");
    }
    format!("It turned out to be no leak: {healthy}.")
}

impl State {
    /// Keeps what it looked like when it was judged leaking.
    pub(super) fn suspect(&mut self, judgement: &Judgement) {
        if judgement.confidence > Confidence::Low {
            self.suspected = Some(Suspected {
                outlived: judgement.connections.outlived,
                closed: self.closed,
            });
        }
    }
}
