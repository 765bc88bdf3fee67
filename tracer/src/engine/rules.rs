//! The rules: which kinds of leak a cohort's tallies and series speak for.
//!
//! Two sorts of evidence exist. *Growth*: enough survivors, opened at separate times, whose number
//! rises steadily to the end of the watch and is not merely replaced. *Standing proof*: connections
//! in a condition that no healthy program leaves them in for so long.

use super::{
    State,
    classify::Class,
    history::{BUCKETS, ClassTally, IDLE, Mask, OUTLIVED},
    judge::Sight,
    trend::{Sample, Sawtooth, Trend, sawtooth, trend},
};
use crate::model::{Confidence, Kind, Role};

/// Why a rule fits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ground {
    /// The number rises.
    Growth(Trend),
    /// The number rises, and something takes some of it away from time to time.
    Sawtooth(Sawtooth),
    /// The garbage collector closed this many, which the program had lost.
    Collected(u64),
    /// The number need not rise.
    Standing,
    /// Used once and replaced instead of reused, at a level that timeouts hold.
    Plateau,
}

impl Ground {
    /// Growth per minute.
    pub fn per_minute(&self) -> f64 {
        match self {
            Ground::Growth(t) => t.per_minute,
            Ground::Sawtooth(s) => s.per_minute,
            Ground::Standing | Ground::Plateau | Ground::Collected(_) => 0.0,
        }
    }
}

/// One kind that fits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    pub kind: Kind,
    pub mask: Mask,
    pub ground: Ground,
    pub confidence: Confidence,
    pub settle_seconds: Option<f64>,
}

/// What a growth rule asks for beyond the survivors and intervals of the settings.
#[derive(Debug, Clone, Copy)]
struct Growing {
    /// Shorter series give low confidence.
    medium_seconds: f64,
    /// Longer ones, if steep and steady, give high confidence.
    high_seconds: f64,
    /// Fewest survivors for more than low confidence.
    medium_survivors: u32,
    /// Best confidence this rule can give.
    ceiling: Confidence,
    /// Low confidence is worth a word; otherwise it is left unsaid.
    speak_low: bool,
}

const ORDINARY: Growing = Growing {
    medium_seconds: 8.0,
    high_seconds: 12.0,
    medium_survivors: 5,
    ceiling: Confidence::High,
    speak_low: true,
};

const MIN_CONCORDANCE: f64 = 0.6;
const HIGH_CONCORDANCE: f64 = 0.75;
const HIGH_SURVIVORS: u32 = 10;
/// Share of survivors that must be at least a third of the watch old: less is mere replacement.
const MIN_OLD_SHARE: f64 = 0.25;
/// A connection enters a class up to this long after it was opened, seconds.
const RIPENING_S: f64 = 6.0;

/// All kinds that fit, in the order of [`Kind`].
pub fn fits(sight: &Sight<'_>, state: &State) -> Vec<Fit> {
    let rules = Rules { sight, state };
    let mut fits = match state.role {
        Role::Client => rules.client(),
        Role::Server => rules.server(),
    };
    let lost = state.collected;
    if lost >= u64::from(sight.settings.min_survivors)
        && fits.iter().all(|f| f.confidence < Confidence::High)
    {
        // Whatever the rest looks like: these were never closed by the program.
        fits.clear();
        fits.push(Fit {
            kind: Kind::NeverClosed,
            mask: Mask::of(&[
                Class::Unused,
                Class::OneShot,
                Class::Reused,
                Class::Shut,
                Class::Failed,
                Class::PeerClosed,
            ]),
            ground: Ground::Collected(lost),
            confidence: Confidence::High,
            settle_seconds: None,
        });
    }
    fits.sort_by_key(|f| f.kind);
    fits
}

struct Rules<'a> {
    sight: &'a Sight<'a>,
    state: &'a State,
}

impl Rules<'_> {
    fn client(&self) -> Vec<Fit> {
        let tally = &self.state.tally;
        let mut fits = Vec::new();
        fits.extend(self.inherited());
        let body = Mask::of(&[Class::Body]);
        fits.extend(self.proof(Kind::ResponseBodyNotClosed, body));
        let stream = Mask::of(&[Class::Stream]);
        let streaming = Growing {
            medium_seconds: 6.0,
            high_seconds: 30.0,
            ..ORDINARY
        };
        fits.extend(self.growth(Kind::StreamNeverCancelled, stream, streaming));
        fits.extend(self.proof(Kind::ResponseNotRead, Mask::of(&[Class::Unread])));
        fits.extend(self.close_wait());

        let one_shot = Mask::of(&[Class::OneShot]);
        let rest = Mask::of(&[Class::Unused, Class::Shut, Class::Failed]);
        // A pool that reuses some of its connections is no client per request.
        let no_reuse = tally.reused * 10 <= tally.open;
        let per_request = no_reuse
            .then(|| {
                self.growth(Kind::ClientPerRequest, one_shot, ORDINARY)
                    .or_else(|| self.plateau(one_shot))
            })
            .flatten();
        match per_request {
            Some(fit) => {
                fits.push(fit);
                fits.extend(self.growth(Kind::NeverClosed, rest, ORDINARY));
            }
            None => fits.extend(self.growth(Kind::NeverClosed, rest.with(one_shot), ORDINARY)),
        }
        let pooled = Growing {
            medium_seconds: 60.0,
            high_seconds: 600.0,
            medium_survivors: 20,
            ceiling: Confidence::Medium,
            speak_low: false,
        };
        fits.extend(self.growth(Kind::PoolUnbounded, Mask::of(&[Class::Reused]), pooled));
        if !fits.iter().any(|f| f.kind == Kind::NeverClosed) {
            fits.extend(self.waiting());
        }
        fits
    }

    fn server(&self) -> Vec<Fit> {
        let tally = &self.state.tally;
        let mut fits = Vec::new();
        fits.extend(self.inherited());
        fits.extend(self.close_wait());
        let shut = Mask::of(&[Class::Shut, Class::Failed, Class::Body]);
        if let Some(fit) = self.growth(Kind::AcceptedNeverClosed, shut, ORDINARY) {
            fits.push(fit);
            return fits;
        }
        // Idle peers that are all alive: keep-alive clients look the same until they go, so a
        // cohort whose connections do get closed or reused is explained by its clients.
        let idle = Mask::of(&[Class::Unused, Class::OneShot, Class::Shut]);
        let closed = self.state.history.recently_closed(self.state.closed);
        let coming_and_going = closed * 10 > u64::from(tally.open);
        let kept_alive = tally.reused * 10 > tally.open * 3;
        if !coming_and_going && !kept_alive {
            let accepting = Growing {
                medium_seconds: 10.0,
                high_seconds: 120.0,
                medium_survivors: 8,
                ..ORDINARY
            };
            fits.extend(self.growth(Kind::AcceptedNeverClosed, idle, accepting));
        }
        fits
    }

    fn inherited(&self) -> Option<Fit> {
        let mask = Mask::of(&[Class::Inherited]);
        let all = self.state.tally.gather(mask);
        self.scanned(Kind::InheritedFd, mask).or_else(|| {
            (all.peer_gone * 2 > all.count)
                .then(|| self.standing(Kind::InheritedFd, mask, &all))
                .flatten()
        })
    }

    /// Growth, or a standing stock of connections whose condition is proof by itself.
    fn proof(&self, kind: Kind, mask: Mask) -> Option<Fit> {
        let all = self.state.tally.gather(mask);
        let growing = self.scanned(kind, mask);
        if growing.is_some_and(|f| f.confidence > Confidence::Low) {
            return growing;
        }
        self.standing(kind, mask, &all)
            .or_else(|| {
                // A single open body may be a quiet stream that somebody waits on.
                let some = kind != Kind::ResponseBodyNotClosed
                    || all.count >= self.sight.settings.min_survivors;
                some.then(|| self.few(kind, mask, &all)).flatten()
            })
            .or(growing)
    }

    /// Growth of a class that only scans of the kernel's lists can tell (holders, unread bytes,
    /// the close of a UNIX peer). Scans are rare, so its own series may jump; then the growth of
    /// everything idle stands in, by the share that this class has of it now.
    fn scanned(&self, kind: Kind, mask: Mask) -> Option<Fit> {
        let own = self.growth(kind, mask, ORDINARY);
        if own.is_some_and(|f| f.confidence > Confidence::Low) {
            return own;
        }
        let tally = &self.state.tally;
        let (all, idle) = (tally.gather(mask), tally.gather(IDLE));
        if all.count < self.sight.settings.min_survivors || all.count * 4 < idle.count {
            return own;
        }
        let share = f64::from(all.count) / f64::from(idle.count);
        self.grown(kind, mask, IDLE, ORDINARY)
            .map(|mut fit| {
                if let Ground::Growth(trend) = &mut fit.ground {
                    trend.per_minute *= share;
                    trend.net *= share;
                }
                fit
            })
            .or(own)
    }

    fn close_wait(&self) -> Option<Fit> {
        let mask = Mask::of(&[Class::PeerClosed]);
        let all = self.state.tally.gather(mask);
        let growing = self.scanned(Kind::CloseWait, mask);
        if growing.is_some_and(|f| f.confidence > Confidence::Low) {
            return growing;
        }
        // Entries of an idle pool notice the peer's close only when they are used next: a stock
        // of them that does not grow is proof only once it is old.
        let pooled = all.pool_like * 2 > all.count;
        if pooled && all.stuck_max_ns < 6 * self.sight.settings.standing_ns {
            return growing;
        }
        self.standing(Kind::CloseWait, mask, &all)
            .or_else(|| {
                (!pooled)
                    .then(|| self.few(Kind::CloseWait, mask, &all))
                    .flatten()
            })
            .or(growing)
    }

    /// A stock that is proof by its condition and its age, growing or not.
    fn standing(&self, kind: Kind, mask: Mask, all: &ClassTally) -> Option<Fit> {
        let settings = self.sight.settings;
        let enough = all.count >= settings.min_survivors
            && all.birth_seconds() >= settings.min_intervals
            && all.stuck_max_ns >= settings.standing_ns
            // Half of them for that long: a population that is merely replaced has fewer.
            && all.long_stuck * 2 >= all.count;
        enough.then(|| Fit {
            kind,
            mask,
            ground: Ground::Standing,
            confidence: match all.stuck_max_ns >= 3 * settings.standing_ns
                && all.count >= HIGH_SURVIVORS
            {
                true => Confidence::High,
                false => Confidence::Medium,
            },
            settle_seconds: None,
        })
    }

    /// One or a few connections in a condition that only patience can prove.
    fn few(&self, kind: Kind, mask: Mask, all: &ClassTally) -> Option<Fit> {
        let standing = self.sight.settings.standing_ns;
        // Five at once are less of a coincidence than one.
        let medium = match all.count >= self.sight.settings.min_survivors {
            true => 6 * standing,
            false => 12 * standing,
        };
        let low = 3 * standing;
        if all.count == 0 || all.stuck_max_ns < low {
            return None;
        }
        let proven = all.stuck_max_ns >= medium;
        Some(Fit {
            kind,
            mask,
            ground: Ground::Standing,
            confidence: match proven {
                true => Confidence::Medium,
                false => Confidence::Low,
            },
            settle_seconds: (!proven).then(|| (medium - all.stuck_max_ns) as f64 / 1e9),
        })
    }

    /// Requests that wait for their answer: a slow server looks the same for a while.
    fn waiting(&self) -> Option<Fit> {
        let mask = Mask::of(&[Class::Waiting]);
        let patience = self.sight.settings.waiting_ns;
        let oldest_ns = self.state.tally.gather(mask).stuck_max_ns;
        let fit = self.growth(Kind::NeverClosed, mask, ORDINARY)?;
        if fit.confidence == Confidence::Low || oldest_ns >= patience {
            return Some(fit);
        }
        Some(Fit {
            confidence: Confidence::Low,
            settle_seconds: Some((patience - oldest_ns) as f64 / 1e9),
            ..fit
        })
    }

    /// One-shot connections that pile up, are never reused, and end only by some timeout.
    fn plateau(&self, mask: Mask) -> Option<Fit> {
        const MIN: u32 = 10;
        let all = self.state.tally.gather(mask);
        let oldest_s = all.stuck_max_ns as f64 / 1e9;
        let fits = all.count >= MIN
            && oldest_s >= 10.0
            // Some are young and some are old: they are opened all the time.
            && all.older_than(oldest_s / 2.0) >= 0.2
            && all.older_than(oldest_s / 2.0) <= 0.8
            && all.birth_seconds() >= self.sight.settings.min_intervals.max(6)
            && self.state.history.recently_closed(self.state.closed) >= 5
            && self.state.history.held(mask, MIN / 2, 20.0);
        fits.then_some(Fit {
            kind: Kind::ClientPerRequest,
            mask,
            ground: Ground::Plateau,
            confidence: Confidence::Medium,
            settle_seconds: None,
        })
    }

    /// The rule of growth on the classes of `mask`.
    fn growth(&self, kind: Kind, mask: Mask, rule: Growing) -> Option<Fit> {
        self.grown(kind, mask, mask, rule)
    }

    /// The rule of growth on the classes of `mask`, with the series of `counted`.
    fn grown(&self, kind: Kind, mask: Mask, counted: Mask, rule: Growing) -> Option<Fit> {
        let settings = self.sight.settings;
        let all = self.state.tally.gather(mask);
        if all.count + 2 < settings.min_survivors {
            return None;
        }
        let mut best: Option<Fit> = None;
        for series in self.state.history.series(counted, self.sight.started_ns) {
            let fit = self
                .steady(kind, mask, rule, &all, &series)
                .or_else(|| self.sawtooth(kind, mask, rule, &all, &series));
            if let Some(fit) = fit
                && best.is_none_or(|b| fit.confidence > b.confidence)
            {
                best = Some(fit);
            }
        }
        best.filter(|f| rule.speak_low || f.confidence > Confidence::Low)
            .or_else(|| self.born(kind, mask, rule, &all))
    }

    /// The rule of growth where too few sweeps were taken for a series, or the cohort is new: the
    /// ages of its members tell how their number rose, if none were closed meanwhile.
    fn born(&self, kind: Kind, mask: Mask, rule: Growing, all: &ClassTally) -> Option<Fit> {
        const POINTS: usize = 6;
        let tally = &self.state.tally;
        let idle = tally.outlived();
        let history = &self.state.history;
        let watched_enough =
            history.points(0) >= POINTS && history.recent_seconds() >= rule.medium_seconds;
        if watched_enough
            || !OUTLIVED.contains(mask)
            || self.state.closed * 3 > u64::from(tally.open) * 2
            || all.count * 4 < idle
        {
            return None;
        }
        let share = f64::from(all.count) / f64::from(idle);
        let watched_s = (self.sight.now_ns - self.sight.started_ns) / 1_000_000_000;
        let series: Vec<Sample> = (0..=watched_s.min(BUCKETS as u64 - 1))
            .rev()
            .map(|age| {
                let younger: u32 = tally.births[..age as usize].iter().sum();
                Sample {
                    at: -(age as f64),
                    value: f64::from(idle - younger) * share,
                }
            })
            .collect();
        let fit = self.steady(kind, mask, rule, all, &series)?;
        (fit.confidence > Confidence::Low).then(|| Fit {
            confidence: Confidence::Medium.min(rule.ceiling),
            ..fit
        })
    }

    fn steady(
        &self,
        kind: Kind,
        mask: Mask,
        rule: Growing,
        all: &ClassTally,
        series: &[Sample],
    ) -> Option<Fit> {
        let settings = self.sight.settings;
        let trend = trend(series)?;
        let grows = trend.concordance >= MIN_CONCORDANCE
            && trend.per_minute > 0.0
            && trend.rising_to_the_end
            && all.older_than(trend.seconds / 3.0) >= MIN_OLD_SHARE
            // What rises must have been opened meanwhile, not only have changed its condition.
            && f64::from(all.count) * (1.0 - all.older_than(trend.seconds + RIPENING_S))
                >= 0.5 * trend.net;
        if !grows {
            return None;
        }
        let enough = all.count >= settings.min_survivors.max(rule.medium_survivors)
            && trend.net >= f64::from(settings.min_survivors) - 1.5
            && all.birth_seconds() >= settings.min_intervals
            && trend.seconds >= rule.medium_seconds;
        let plenty = enough
            && all.count >= HIGH_SURVIVORS
            && trend.seconds >= rule.high_seconds
            && trend.concordance >= HIGH_CONCORDANCE;
        let confidence = match (plenty, enough) {
            (true, _) => Confidence::High,
            (_, true) => Confidence::Medium,
            _ => Confidence::Low,
        };
        // Too little so far; what is steep and steady is still worth saying.
        if confidence == Confidence::Low
            && (trend.concordance < 0.8 || all.birth_seconds() < settings.min_intervals)
        {
            return None;
        }
        let missing = f64::from(
            settings
                .min_survivors
                .max(rule.medium_survivors)
                .saturating_sub(all.count),
        );
        let settle = (rule.medium_seconds - trend.seconds)
            .max(missing * 60.0 / trend.per_minute.max(0.1))
            .clamp(5.0, 3600.0);
        Some(Fit {
            kind,
            mask,
            ground: Ground::Growth(trend),
            confidence: confidence.min(rule.ceiling),
            settle_seconds: (confidence == Confidence::Low).then_some(settle),
        })
    }

    fn sawtooth(
        &self,
        kind: Kind,
        mask: Mask,
        rule: Growing,
        all: &ClassTally,
        series: &[Sample],
    ) -> Option<Fit> {
        let settings = self.sight.settings;
        let teeth = sawtooth(series)?;
        let enough = teeth.seconds >= rule.medium_seconds
            && all.count >= settings.min_survivors
            && all.birth_seconds() >= settings.min_intervals
            && kind != Kind::PoolUnbounded;
        enough.then_some(Fit {
            kind,
            mask,
            ground: Ground::Sawtooth(teeth),
            confidence: Confidence::Medium.min(rule.ceiling),
            settle_seconds: None,
        })
    }
}
