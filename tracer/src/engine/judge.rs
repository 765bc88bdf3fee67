//! From the kinds that fit a cohort to one judgement.

use super::{
    Judgement, Settings, State,
    classify::Class,
    evidence,
    history::{COARSE_SECONDS, ClassTally, Mask},
    rules::{Fit, Ground, fits},
    trend::burst_period,
};
use crate::{
    model::{CohortId, Confidence, Kind},
    report::Connections,
};

/// What a judgement may know beside the cohort.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// Settings.
    pub settings: &'a Settings,
    /// When the watch began.
    pub started_ns: u64,
    /// The last complete sweep.
    pub now_ns: u64,
    /// Some sweep agreed with the kernel's own lists.
    pub reconciled: bool,
}

/// Everything that the sentences of a judgement are made from.
#[derive(Debug)]
pub struct Case<'a> {
    pub state: &'a State,
    /// The fit that names it.
    pub fit: &'a Fit,
    /// The connections it is about.
    pub all: ClassTally,
    pub connections: &'a Connections,
    pub requests: u64,
    pub burst_period_seconds: Option<f64>,
    pub now_ns: u64,
    pub watched_seconds: f64,
}

/// A kind names a finding only when it covers at least this share of what outlived (1/5).
const NAMING_SHARE: u32 = 5;

/// Judges one cohort.
pub fn judge(sight: &Sight<'_>, id: CohortId, state: &State) -> Option<Judgement> {
    let tally = &state.tally;
    if tally.open == 0 && state.collected == 0 {
        return None;
    }
    let fits = fits(sight, state);
    let naming = naming(state, &fits)?;
    let mut mask = fits.iter().fold(Mask::default(), |m, f| m.with(f.mask));
    // Idle connections from before the watch, of a cohort that grows: the same leak.
    let grows = matches!(naming.ground, Ground::Growth(_) | Ground::Sawtooth(_));
    if grows && tally.reused * 10 <= tally.open {
        mask = mask.with(Mask::of(&[Class::Old]));
    }
    let all = tally.gather(mask);
    let connections = Connections {
        outlived: u64::from(all.count),
        ..connections(state)
    };
    let requests = tally.turns + state.closed_turns;
    let burst_period_seconds = burst_period(&tally.births).or_else(|| {
        burst_period(&tally.coarse_births).map(|buckets| buckets * COARSE_SECONDS as f64)
    });
    let case = Case {
        state,
        fit: naming,
        all,
        connections: &connections,
        requests,
        burst_period_seconds,
        now_ns: sight.now_ns,
        watched_seconds: sight.now_ns.saturating_sub(sight.started_ns) as f64 / 1e9,
    };
    let mut evidence = evidence::sentences(&case);
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
        evidence,
        advice: evidence::advice(naming.kind, naming.ground),
        settle_seconds: match confidence {
            Confidence::Low => naming.settle_seconds,
            _ => None,
        },
        connections,
    })
}

/// Counts of a cohort, with every class that may outlive counted as outlived.
pub fn connections(state: &State) -> Connections {
    let open = u64::from(state.tally.open);
    Connections {
        open,
        outlived: u64::from(state.tally.outlived()),
        opened: open + state.closed,
        closed: state.closed,
        peak_open: state.peak_open,
    }
}

/// The first kind, in the order of [`Kind`], that fits well enough to name the finding.
fn naming<'a>(state: &State, fits: &'a [Fit]) -> Option<&'a Fit> {
    let best = fits.iter().map(|f| f.confidence).max()?;
    let well = best.min(Confidence::Medium);
    let count = |f: &Fit| state.tally.gather(f.mask).count;
    let total: u32 = fits.iter().map(count).sum();
    fits.iter()
        .find(|f| f.confidence >= well && count(f) * NAMING_SHARE >= total)
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
