//! What the rules of the kinds are made from: growth, and standing proof.
//!
//! *Growth*: enough survivors, opened at separate times, whose number rises steadily to the end of
//! the watch and is not merely replaced. *Standing proof*: connections in a condition that no
//! healthy program leaves them in for so long.

use super::{
    classify::Class,
    history::{BUCKETS, ClassTally, EVERY, History, IDLE, Mask, OUTLIVED},
    population::{Level, State},
    settings::{Growing, Settings},
    trend::{Sample, Sawtooth, Trend, sawtooth, spread, trend},
};
use crate::model::{Confidence, Kind};

/// Why a kind fits.
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

/// What a judgement may know beside the population.
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

/// A population under its rules.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    pub sight: &'a Sight<'a>,
    pub state: &'a State,
    /// The larger populations that this one is a part of.
    pub above: &'a [&'a State],
}

impl Rules<'_> {
    /// The thresholds.
    pub fn settings(&self) -> &Settings {
        self.sight.settings
    }

    /// Members of the classes in `mask`.
    pub fn gather(&self, mask: Mask) -> ClassTally {
        self.state.tally.gather(mask)
    }

    /// Whether connections that were used for a while and then no more are passed over: others were
    /// opened although they were idle, for longer than any of those in use ever is.
    pub fn passed_over(&self) -> bool {
        let parked = self.settings().parked;
        let tally = &self.state.tally;
        let longest = tally.class(Class::Parked).stuck_max_ns;
        self.parked_beyond_chance()
            && tally.passed_over(self.sight.now_ns) >= parked.passed_over
            && longest as f64 / 1e9 >= parked.longest_s
            && tally.parked_for(parked.long_s) >= parked.long_share
    }

    /// Whether more are idle for longer than before than where every gap is as long as chance will.
    fn parked_beyond_chance(&self) -> bool {
        let parked = self.settings().parked;
        let tally = &self.state.tally;
        let count = tally.class(Class::Parked).count;
        let all = tally.class(Class::Reused).count + count;
        let by_chance = f64::from(all) * (-(parked.gaps as f64)).exp();
        f64::from(count) > by_chance + parked.deviations * by_chance.sqrt()
    }

    /// Growth, or a standing stock of connections whose condition is proof by itself.
    pub fn proof(&self, kind: Kind, mask: Mask) -> Option<Fit> {
        let all = self.gather(mask);
        let growing = self.scanned(kind, mask);
        if growing.is_some_and(|f| f.confidence > Confidence::Low) {
            return growing;
        }
        self.standing(kind, mask, &all)
            .or_else(|| self.few(kind, mask, &all))
            .or(growing)
    }

    /// Growth of a class that only scans of the kernel's lists can tell (holders, unread bytes,
    /// the close of a UNIX peer). Scans are rare, so its own series may jump; then the growth of
    /// everything idle stands in, by the share that this class has of it now.
    pub fn scanned(&self, kind: Kind, mask: Mask) -> Option<Fit> {
        let rule = self.settings().ordinary;
        let own = self.growth(kind, mask, rule);
        if own.is_some_and(|f| f.confidence > Confidence::Low) {
            return own;
        }
        let (all, idle) = (self.gather(mask), self.gather(IDLE));
        if all.count < self.settings().min_survivors || all.count * 4 < idle.count {
            return own;
        }
        let share = f64::from(all.count) / f64::from(idle.count);
        self.grown(kind, mask, IDLE, rule)
            .map(|mut fit| {
                if let Ground::Growth(trend) = &mut fit.ground {
                    trend.per_minute *= share;
                    trend.between = (trend.between.0 * share, trend.between.1 * share);
                    trend.net *= share;
                }
                fit
            })
            .or(own)
    }

    /// A stock that is proof by its condition and its age, growing or not.
    pub fn standing(&self, kind: Kind, mask: Mask, all: &ClassTally) -> Option<Fit> {
        let settings = self.settings();
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
                && all.count >= settings.shape.high_survivors
            {
                true => Confidence::High,
                false => Confidence::Medium,
            },
            settle_seconds: None,
        })
    }

    /// One or a few connections in a condition that only patience can prove. Ends of a socket pair
    /// don't count: a runtime parks one whose other end it closed.
    pub fn few(&self, kind: Kind, mask: Mask, all: &ClassTally) -> Option<Fit> {
        let standing = self.settings().standing_ns;
        let count = all.count - all.pairs.min(all.count);
        // Five at once are less of a coincidence than one.
        let medium = match count >= self.settings().min_survivors {
            true => 6 * standing,
            false => 12 * standing,
        };
        let low = 3 * standing;
        if count == 0 || all.stuck_max_ns < low {
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

    /// Connections of one use that pile up, are never reused, and end only by some timeout.
    pub fn plateau(&self, kind: Kind, mask: Mask) -> Option<Fit> {
        let plateau = self.settings().plateau;
        let all = self.gather(mask);
        let oldest_s = all.stuck_max_ns as f64 / 1e9;
        let older = all.older_than(oldest_s / 2.0);
        let history = &self.state.history;
        let fits = all.count >= plateau.least
            && oldest_s >= plateau.idle_s
            // Some are young and some are old: they are opened all the time.
            && (0.2..=0.8).contains(&older)
            && all.birth_seconds() >= plateau.intervals
            && history.recently_closed(self.state.closed) >= plateau.closed
            && history.held(mask, plateau.least / 2, plateau.held_s);
        fits.then_some(Fit {
            kind,
            mask,
            ground: Ground::Plateau,
            confidence: Confidence::Medium,
            settle_seconds: None,
        })
    }

    /// The rule of growth on the classes of `mask`.
    pub fn growth(&self, kind: Kind, mask: Mask, rule: Growing) -> Option<Fit> {
        self.grown(kind, mask, mask, rule)
    }

    /// The rule of growth on the classes of `mask`, with the series of `counted`.
    fn grown(&self, kind: Kind, mask: Mask, counted: Mask, rule: Growing) -> Option<Fit> {
        let settings = self.settings();
        let all = self.gather(mask);
        // of a sawtooth nothing need be left right after a collection
        let some = all.count + 2 >= settings.min_survivors;
        let mut best: Option<Fit> = None;
        for (level, series) in self.series(&self.state.history, counted) {
            let fit = some
                .then(|| self.steady(kind, mask, rule, &all, &series))
                .flatten()
                .filter(|fit| !self.replaced(level, fit))
                .or_else(|| self.sawtooth(kind, mask, rule, &all, &series));
            if let Some(fit) = fit
                && best.is_none_or(|b| fit.confidence > b.confidence)
            {
                best = Some(fit);
            }
        }
        best.filter(|f| rule.speak_low || f.confidence > Confidence::Low)
            .or_else(|| some.then(|| self.born(kind, mask, rule, &all)).flatten())
    }

    fn series<'s>(
        &'s self,
        history: &'s History,
        mask: Mask,
    ) -> impl Iterator<Item = (usize, Vec<Sample>)> + 's {
        history.series(mask, self.sight.started_ns).enumerate()
    }

    /// Whether a population above stayed as it was while this part of it grew: then deaths
    /// elsewhere in it explain the births here. A pool or a set of streams whose members are
    /// replaced one by one looks so when they were opened before the watch, or at another place.
    fn replaced(&self, level: usize, fit: &Fit) -> bool {
        let Ground::Growth(trend) = fit.ground else {
            return false;
        };
        let shape = &self.settings().shape;
        let most = shape.replaced_least.max(shape.replaced_share * trend.net);
        self.above.iter().any(|above| {
            let series = self.series(&above.history, EVERY).nth(level);
            series.is_some_and(|(_, series)| {
                spread(&series, trend.from, trend.from + trend.seconds)
                    .is_some_and(|moved| moved <= most)
            })
        })
    }

    /// The rule of growth where too few sweeps were taken for a series, or the population is new:
    /// the ages of its members tell how their number rose, if none were closed meanwhile.
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
            || self
                .above
                .iter()
                .any(|s| s.closed * 3 > u64::from(all.count) * 2)
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
        let settings = self.settings();
        let shape = &settings.shape;
        let trend = trend(series, shape)?;
        let born_since = 1.0 - all.older_than(trend.seconds + shape.ripening_s);
        let grows = trend.concordance >= shape.min_concordance
            && trend.per_minute > 0.0
            && trend.rising_to_the_end
            && all.older_than(trend.seconds / 3.0) >= shape.old_share
            && f64::from(all.count) * born_since >= shape.born_share * trend.net;
        if !grows || self.ends_in_time(all) {
            return None;
        }
        let survivors = settings
            .min_survivors
            .max(rule.medium_survivors)
            .max(self.least_of_level());
        let long_enough = rule.medium_seconds.max(self.seconds_of_level());
        let enough = all.count >= survivors
            && trend.net >= f64::from(settings.min_survivors) - 1.5
            && all.birth_seconds() >= settings.min_intervals
            && trend.seconds >= long_enough;
        let plenty = enough
            && all.count >= shape.high_survivors
            && trend.seconds >= rule.high_seconds
            && trend.concordance >= shape.high_concordance
            && self.state.level != Level::Process;
        let confidence = match (plenty, enough) {
            (true, _) => Confidence::High,
            (_, true) => Confidence::Medium,
            _ => Confidence::Low,
        };
        // Too little so far; what is steep and steady is still worth saying.
        if confidence == Confidence::Low
            && (trend.concordance < shape.low_concordance
                || all.birth_seconds() < settings.min_intervals)
        {
            return None;
        }
        let missing = f64::from(survivors.saturating_sub(all.count));
        let settle = (long_enough - trend.seconds)
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

    /// Whether most members end, and none is older than those become: then more of them are more
    /// work, not a leak.
    fn ends_in_time(&self, all: &ClassTally) -> bool {
        let shape = &self.settings().shape;
        let closed = self.state.closed;
        if closed < shape.lifetimes_least || closed < u64::from(all.count) {
            return false;
        }
        let usual_ns = self.state.closed_lifetime_ns as f64 / closed as f64;
        let oldest_ns = self.sight.now_ns.saturating_sub(all.oldest_ns) as f64;
        oldest_ns < shape.lifetimes * usual_ns
    }

    fn least_of_level(&self) -> u32 {
        match self.state.level {
            Level::Process => self.settings().process.survivors,
            _ => 0,
        }
    }

    fn seconds_of_level(&self) -> f64 {
        match self.state.level {
            Level::Process => self.settings().process.seconds,
            _ => 0.0,
        }
    }

    fn sawtooth(
        &self,
        kind: Kind,
        mask: Mask,
        rule: Growing,
        all: &ClassTally,
        series: &[Sample],
    ) -> Option<Fit> {
        let settings = self.settings();
        let teeth = sawtooth(series, &settings.shape)?;
        // right after a collection few are left: what fell away then is proof as well
        let left =
            all.count >= settings.min_survivors && all.birth_seconds() >= settings.min_intervals;
        let enough = teeth.seconds >= rule.medium_seconds
            && (left || teeth.teeth >= 3)
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

/// Classes of connections that a collector closes when the program has lost them.
pub const LOST: Mask = Mask::of(&[
    Class::Unused,
    Class::OneShot,
    Class::Quiet,
    Class::Reused,
    Class::Parked,
    Class::Shut,
    Class::Failed,
    Class::PeerClosed,
]);
