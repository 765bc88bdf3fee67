//! Why what was watched is no leak, and what grows without an explanation.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use super::{
    Judgement,
    classify::Class,
    growth::{Rules, Sight},
    history::{IDLE, Mask},
    population::{Counts, Level, State},
};
use crate::model::{CohortId, Confidence, Ended, Kind, Role};

/// Populations told of; the rest is small.
const WATCHED_MAX: usize = 32;

/// One population that is no leak.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// The leaf.
    pub cohort: CohortId,
    /// Client or server.
    pub role: Role,
    /// Counts.
    pub counts: Counts,
    /// Open connections that were used again after their first moments.
    pub reused: u64,
    /// Why it is no leak, as a sentence.
    pub because: String,
}

/// What no judgement is about, the largest first.
pub fn watched(
    sight: &Sight<'_>,
    states: &HashMap<CohortId, Box<State>>,
    judgements: &[Judgement],
) -> Vec<Watched> {
    let accused: HashSet<CohortId> = judgements
        .iter()
        .flat_map(|j| j.members.iter().copied())
        .collect();
    let mut all: Vec<(&CohortId, &Box<State>)> = states
        .iter()
        .filter(|(id, s)| s.level == Level::Leaf && !accused.contains(id))
        .filter(|(_, s)| s.tally.open > 0 || s.closed > 0)
        .collect();
    all.sort_unstable_by_key(|(id, s)| (Reverse(s.tally.open), Reverse(s.closed), **id));
    all.truncate(WATCHED_MAX);
    all.into_iter()
        .map(|(&cohort, state)| Watched {
            cohort,
            role: state.role,
            counts: state.counts(),
            reused: u64::from(state.tally.reused),
            because: because(sight, state),
        })
        .collect()
}

pub fn because(sight: &Sight<'_>, state: &State) -> String {
    let tally = &state.tally;
    let (open, closed) = (tally.open, state.closed);
    let idle = tally.gather(Mask::of(&[
        Class::Unused,
        Class::OneShot,
        Class::Quiet,
        Class::Old,
    ]));
    if open == 0 {
        return closed_because(&Ended {
            count: closed,
            lifetime_ns: state.closed_lifetime_ns,
            turns: state.closed_turns,
        });
    }
    if tally.reused > 0 {
        let uses = tally.turns.max(u64::from(tally.reused));
        return match state.role {
            Role::Client => format!("pool of {open}, used {uses} times"),
            Role::Server => format!("{open} kept alive by clients that come back"),
        };
    }
    if state.role == Role::Server {
        return match idle.count == open && closed == 0 {
            true => format!("{open} idle clients, each alive"),
            false => format!("{open} clients that come and go"),
        };
    }
    let watched_s = sight.now_ns.saturating_sub(sight.started_ns) as f64 / 1e9;
    if closed > 0 {
        return format!(
            "replaced every {:.0} s, {open} at a time",
            (watched_s / closed as f64).max(1.0)
        );
    }
    let streams = tally.class(Class::Stream).count;
    let busy = tally.class(Class::Active).count + tally.class(Class::Waiting).count;
    if streams * 2 > open {
        format!("{open} streams, no more than before")
    } else if busy * 2 > open {
        format!("{open} in use")
    } else if tally.preexisting * 2 > open {
        format!("{open} from before the watch, no more since")
    } else {
        format!("{open} idle, their number does not grow")
    }
}

/// The same of connections none of which is left.
#[must_use]
pub fn closed_because(ended: &Ended) -> String {
    let mean_s = ended.lifetime_ns as f64 / ended.count.max(1) as f64 / 1e9;
    let mean = match mean_s {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 10.0 => format!("{s:.1} s"),
        s => format!("{s:.0} s"),
    };
    format!("each was closed, after {mean} on average")
}

/// Growth of a process's clients that no judgement is about: too little of everything to accuse
/// anything, and too much to call it clean.
pub fn unexplained(
    sight: &Sight<'_>,
    states: &HashMap<CohortId, Box<State>>,
    judgements: &[Judgement],
) -> Vec<(CohortId, String)> {
    const LEAST: f64 = 10.0;
    let accused: HashSet<CohortId> = judgements
        .iter()
        .flat_map(|j| j.members.iter().copied())
        .collect();
    let mut told = Vec::new();
    for (&id, state) in states {
        if state.level != Level::Process || state.role == Role::Server {
            continue;
        }
        let taken = |s: &State| s.lineage.is_some_and(|l| l.process == id);
        if states
            .iter()
            .any(|(leaf, s)| accused.contains(leaf) && taken(s))
        {
            continue;
        }
        let mask = Mask::of(&[
            Class::Waiting,
            Class::Stream,
            Class::Unused,
            Class::OneShot,
            Class::Quiet,
            Class::Old,
            Class::Shut,
            Class::Failed,
            Class::PeerClosed,
            Class::Unread,
            Class::Body,
        ]);
        debug_assert!(IDLE.contains(mask));
        // by the ordinary rule: what a whole process needs for a finding is more
        let ordinary = State {
            level: Level::Authority,
            ..(**state).clone()
        };
        let rules = Rules {
            sight,
            state: &ordinary,
            above: &[],
        };
        let mut rule = sight.settings.ordinary;
        rule.medium_seconds = rule.high_seconds * 2.0;
        let Some(fit) = rules.growth(Kind::NeverClosed, mask, rule) else {
            continue;
        };
        let super::growth::Ground::Growth(trend) = fit.ground else {
            continue;
        };
        if fit.confidence == Confidence::Low || trend.net < LEAST {
            continue;
        }
        told.push((
            id,
            format!(
                "holds {} idle connections, {:.0} more than {:.0} s ago, and no call site or remote \
                 explains it yet",
                rules.gather(mask).count,
                trend.net,
                trend.seconds
            ),
        ));
    }
    told.sort_unstable_by_key(|(id, _)| *id);
    told
}
