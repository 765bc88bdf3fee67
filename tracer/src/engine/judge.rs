//! From the kinds that fit a population to one judgement.

use super::{
    Judgement,
    classify::Class,
    evidence::{self, Case},
    growth::{Fit, Ground, LOST, Rules, Sight},
    history::{COARSE_SECONDS, ClassTally, Mask},
    kinds,
    population::{Counts, State},
    settings::Settings,
    trend::burst_period,
};
use crate::model::{CohortId, Confidence, Kind};

/// Judges one population; `members` are the leaves in it, `above` the populations it is a part of.
pub fn judge(
    sight: &Sight<'_>,
    id: CohortId,
    members: Vec<CohortId>,
    state: &State,
    above: &[&State],
) -> Option<Judgement> {
    let tally = &state.tally;
    if tally.open == 0 && state.collected == 0 {
        return None;
    }
    let rules = Rules {
        sight,
        state,
        above,
    };
    let mut fits = kinds::fits(&rules);
    let lost = state.collected;
    if lost >= u64::from(sight.settings.min_survivors)
        && fits.iter().all(|f| f.confidence < Confidence::High)
    {
        // Whatever the rest looks like: these were never closed by the program.
        fits = vec![Fit {
            kind: Kind::NeverClosed,
            mask: LOST,
            ground: Ground::Collected(lost),
            confidence: Confidence::High,
            settle_seconds: None,
        }];
    }
    let naming = naming(sight.settings, state, &fits)?;
    let mut mask = fits.iter().fold(Mask::default(), |m, f| m.with(f.mask));
    // Idle connections from before the watch, of a population that grows: the same leak.
    let grows = matches!(naming.ground, Ground::Growth(_) | Ground::Sawtooth(_));
    if grows && tally.reused * sight.settings.reuse_one_in <= tally.open {
        mask = mask.with(Mask::of(&[Class::Old]));
    }
    let all = tally.gather(mask);
    let connections = Counts {
        outlived: u64::from(all.count),
        ..state.counts()
    };
    let requests = tally.turns + state.closed_turns;
    let burst_period_seconds = burst_period(&tally.births).or_else(|| {
        burst_period(&tally.coarse_births).map(|buckets| buckets * COARSE_SECONDS as f64)
    });
    let case = Case {
        state,
        fit: naming,
        mask,
        all,
        connections: &connections,
        requests,
        burst_period_seconds,
        now_ns: sight.now_ns,
        watched_seconds: sight.now_ns.saturating_sub(sight.started_ns) as f64 / 1e9,
    };
    let mut evidence = evidence::sentences(&case, kinds::of(naming.kind).condition);
    let mut confidence = fits
        .iter()
        .map(|f| f.confidence)
        .max()
        .unwrap_or(naming.confidence);
    if !sight.reconciled {
        confidence = Confidence::Low;
        evidence.push("The kernel's own socket lists have not confirmed this yet.".to_owned());
    }
    Some(Judgement {
        cohort: id,
        level: state.level,
        members,
        about: mask,
        kind: naming.kind,
        also: also(naming.kind, &fits, &all),
        confidence,
        requests,
        leaked_per_request: match requests {
            0 => 0.0,
            n => connections.outlived as f64 / n as f64,
        },
        growth_per_minute: growth(&fits),
        burst_period_seconds,
        oldest_opened_ns: (all.count > 0).then_some(all.oldest_ns),
        first_seen_ns: sight.now_ns,
        back: false,
        evidence,
        advice: (kinds::of(naming.kind).advice)(naming.ground),
        settle_seconds: match confidence {
            Confidence::Low => naming.settle_seconds,
            _ => None,
        },
        responses: {
            let mut statuses = tally.statuses;
            if mask.has(Class::Parked) {
                statuses.merge(&tally.parked_statuses);
            }
            statuses.counts()
        },
        connections,
    })
}

/// The first kind, in the order of [`Kind`], that fits well enough to name the finding.
fn naming<'a>(settings: &Settings, state: &State, fits: &'a [Fit]) -> Option<&'a Fit> {
    let best = fits.iter().map(|f| f.confidence).max()?;
    let well = best.min(Confidence::Medium);
    let count = |f: &Fit| state.tally.gather(f.mask).count;
    let total: u32 = fits.iter().map(count).sum();
    fits.iter()
        .find(|f| f.confidence >= well && count(f) * settings.naming_one_in >= total)
        .or_else(|| fits.iter().find(|f| f.confidence >= well))
}

fn also(kind: Kind, fits: &[Fit], all: &ClassTally) -> Vec<Kind> {
    let mut also: Vec<Kind> = fits.iter().map(|f| f.kind).collect();
    if all.peer_gone * 2 > all.count {
        also.push(Kind::CloseWait);
    }
    if all.idle_when_closed * 2 > all.count {
        also.push(Kind::ClientPerRequest);
    }
    also.sort_unstable();
    also.dedup();
    also.retain(|&k| k != kind);
    also
}

/// Growth of all that fits: the classes are separate, so their slopes add up.
fn growth(fits: &[Fit]) -> f64 {
    let sum: f64 = fits.iter().map(|f| f.ground.per_minute()).sum();
    (sum.max(0.0) * 100.0).round() / 100.0
}
