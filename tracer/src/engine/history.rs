//! What is kept of a population: the last sweep's tallies, and a series of counts that thins out with
//! age.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    classify::{ALL, CLASSES, Class, Seen},
    trend::Sample,
};
use crate::model::{Connection, Holder, PoolState, Protocol};

const SECOND_NS: u64 = 1_000_000_000;
/// Width of the coarse birth buckets, seconds.
pub const COARSE_SECONDS: u64 = 16;
/// Birth buckets of each width.
pub const BUCKETS: usize = 64;

/// A set of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mask(u16);

impl Mask {
    /// The set of these classes.
    pub const fn of(classes: &[Class]) -> Mask {
        let mut bits = 0;
        let mut i = 0;
        while i < classes.len() {
            bits |= 1 << classes[i] as u16;
            i += 1;
        }
        Mask(bits)
    }

    /// Whether `class` is in the set.
    pub const fn has(self, class: Class) -> bool {
        self.0 & (1 << class as u16) != 0
    }

    /// Whether all classes of `other` are in the set.
    pub const fn contains(self, other: Mask) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    pub const fn with(self, other: Mask) -> Mask {
        Mask(self.0 | other.0)
    }

    fn sum(self, counts: &[u32; CLASSES]) -> u32 {
        ALL.iter()
            .filter(|&&c| self.has(c))
            .map(|&c| counts[c as usize])
            .sum()
    }
}

/// Classes whose members have done nothing for a while and are not simply waiting or pooled.
pub const OUTLIVED: Mask = Mask::of(&[
    Class::Inherited,
    Class::Body,
    Class::Stream,
    Class::Unread,
    Class::PeerClosed,
    Class::Shut,
    Class::Failed,
    Class::Unused,
    Class::OneShot,
    Class::Quiet,
]);

/// All classes.
pub const EVERY: Mask = Mask::of(&ALL);

/// Everything but [`Class::Active`].
pub const IDLE: Mask = OUTLIVED.with(Mask::of(&[
    Class::Waiting,
    Class::Reused,
    Class::Parked,
    Class::Old,
]));

/// Members of one class at one sweep.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClassTally {
    /// How many.
    pub count: u32,
    /// Of these, stuck for at least ten seconds.
    pub long_stuck: u32,
    /// Of these, with the peer gone.
    pub peer_gone: u32,
    /// Of these, connections of a server that nobody listens to or answered.
    pub abandoned: u32,
    /// Of these, entries of a pool as far as one can see.
    pub pool_like: u32,
    /// Of these, idle after one use when the peer closed.
    pub idle_when_closed: u32,
    /// Of these, ends of a socket pair.
    pub pairs: u32,
    /// Of these, with a response that the program has not received in full.
    pub incomplete: u32,
    /// Of these, upgraded to another protocol.
    pub upgraded: u32,
    /// Of these, in a transaction of a database.
    pub in_transaction: u32,
    /// Of these, with requests of HTTP in the clear, whose client can't be asked.
    pub http: u32,
    /// Of these, requests that share a connection.
    pub streams: u32,
    /// Hash set of the seconds they were opened in.
    born: u64,
    /// Opening time of the oldest.
    pub oldest_ns: u64,
    /// Longest time one of them has been stuck.
    pub stuck_max_ns: u64,
    /// Members by age: bucket `i` holds ages below 2^i seconds.
    ages: [u32; 16],
}

/// Status codes and how often each was seen; the rarest are dropped beyond [`STATUSES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statuses([(u16, u32); STATUSES]);

/// Status codes kept of a population: a service answers with few.
const STATUSES: usize = 6;

impl Statuses {
    fn add(&mut self, status: u16, count: u32) {
        let known = self.0.iter().position(|&(s, n)| n > 0 && s == status);
        let free = || self.0.iter().position(|&(_, n)| n == 0);
        if let Some(slot) = known.or_else(free).and_then(|i| self.0.get_mut(i)) {
            *slot = (status, slot.1 + count);
        }
    }

    /// Adds those of another population.
    pub fn merge(&mut self, other: &Statuses) {
        for &(status, count) in &other.0 {
            if count > 0 {
                self.add(status, count);
            }
        }
    }

    /// All, the most frequent first.
    pub fn counts(&self) -> Vec<(u16, u32)> {
        let mut counts: Vec<_> = self.0.iter().copied().filter(|&(_, n)| n > 0).collect();
        counts.sort_by_key(|&(status, n)| (std::cmp::Reverse(n), status));
        counts
    }
}

/// One sweep's view of a population.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Open connections.
    pub open: u32,
    /// Of these, used again after their first moments, whatever they do now.
    pub reused: u32,
    /// Of these, older than the watch.
    pub preexisting: u32,
    /// Requests the live ones have carried.
    pub turns: u64,
    /// Unread bytes (or messages) of the live ones.
    pub unread: u64,
    /// Of the open ones, reset by the peer.
    pub reset: u32,
    /// A process that holds a descriptor it did not open.
    pub other_holder: Option<u32>,
    /// By class.
    pub classes: [ClassTally; CLASSES],
    /// Status codes of the responses on outlived members.
    pub statuses: Statuses,
    /// The same on [`Class::Parked`] ones.
    pub parked_statuses: Statuses,
    /// [`Class::Parked`] members by how long they have been idle: bucket `i` holds times below 2^i
    /// seconds.
    parked_idle: [u32; 16],
    /// When the youngest was opened that is not older than the watch.
    newest_ns: u64,
    /// Outlived members by second of age, youngest first.
    pub births: [u32; BUCKETS],
    /// Outlived members by [`COARSE_SECONDS`] of age, youngest first.
    pub coarse_births: [u32; BUCKETS],
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            open: 0,
            reused: 0,
            preexisting: 0,
            turns: 0,
            unread: 0,
            reset: 0,
            other_holder: None,
            classes: [ClassTally::default(); CLASSES],
            statuses: Statuses::default(),
            parked_statuses: Statuses::default(),
            parked_idle: [0; 16],
            newest_ns: 0,
            births: [0; BUCKETS],
            coarse_births: [0; BUCKETS],
        }
    }
}

impl Tally {
    /// Adds a connection.
    pub fn add(&mut self, now_ns: u64, c: &Connection, seen: &Seen) {
        self.open += 1;
        self.reused += u32::from(seen.reused);
        self.preexisting += u32::from(c.preexisting);
        self.turns += u64::from(c.turns);
        self.unread += u64::from(c.unread);
        self.reset += u32::from(c.reset);
        if let Holder::Other(pid) = c.holder {
            // The lowest, so that the order in which a sweep lists sockets does not matter.
            self.other_holder = Some(self.other_holder.map_or(pid, |p| p.min(pid)));
        }
        let age_s = now_ns.saturating_sub(c.opened_ns) / SECOND_NS;
        let class = &mut self.classes[seen.class as usize];
        class.oldest_ns = match class.count {
            0 => c.opened_ns,
            _ => class.oldest_ns.min(c.opened_ns),
        };
        class.count += 1;
        class.long_stuck += u32::from(seen.stuck_ns >= 10 * SECOND_NS);
        class.peer_gone += u32::from(seen.peer_gone);
        class.abandoned += u32::from(seen.abandoned);
        class.pool_like += u32::from(seen.pool_like);
        class.idle_when_closed += u32::from(seen.idle_when_closed);
        class.pairs += u32::from(c.pair);
        class.incomplete += u32::from(c.response.is_some_and(|r| !r.complete));
        class.http += u32::from(c.protocol == Protocol::Http && c.pool == PoolState::Unknown);
        class.streams += u32::from(c.protocol == Protocol::Stream);
        class.in_transaction += u32::from(c.in_transaction);
        class.upgraded += u32::from(c.response.is_some_and(|r| r.upgraded));
        class.stuck_max_ns = class.stuck_max_ns.max(seen.stuck_ns);
        let second = c.opened_ns / SECOND_NS;
        class.born |= 1 << (second.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58);
        class.ages[(64 - age_s.leading_zeros()).min(15) as usize] += 1;
        if !c.preexisting {
            self.newest_ns = self.newest_ns.max(c.opened_ns);
        }
        if seen.class == Class::Parked {
            let idle_s = seen.stuck_ns / SECOND_NS;
            self.parked_idle[(64 - idle_s.leading_zeros()).min(15) as usize] += 1;
            if let Some(response) = c.response {
                self.parked_statuses.add(response.status, 1);
            }
        }
        if OUTLIVED.has(seen.class) {
            if let Some(response) = c.response {
                self.statuses.add(response.status, 1);
            }
            if let Some(bucket) = self.births.get_mut(age_s as usize) {
                *bucket += 1;
            }
            if let Some(bucket) = self
                .coarse_births
                .get_mut((age_s / COARSE_SECONDS) as usize)
            {
                *bucket += 1;
            }
        }
    }

    /// Adds what another population holds.
    pub fn merge(&mut self, other: &Tally) {
        self.open += other.open;
        self.reused += other.reused;
        self.preexisting += other.preexisting;
        self.turns += other.turns;
        self.unread += other.unread;
        self.reset += other.reset;
        self.other_holder = match (self.other_holder, other.other_holder) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        for (sum, one) in self.classes.iter_mut().zip(&other.classes) {
            sum.add(one);
        }
        self.statuses.merge(&other.statuses);
        self.parked_statuses.merge(&other.parked_statuses);
        for (sum, n) in self.parked_idle.iter_mut().zip(other.parked_idle) {
            *sum += n;
        }
        self.newest_ns = self.newest_ns.max(other.newest_ns);
        for (sums, ones) in [
            (&mut self.births, &other.births),
            (&mut self.coarse_births, &other.coarse_births),
        ] {
            for (sum, one) in sums.iter_mut().zip(ones) {
                *sum += one;
            }
        }
    }

    /// Share of the [`Class::Parked`] members that were idle already when the youngest was opened:
    /// whoever opened it could not, or would not, use them.
    pub fn passed_over(&self, now_ns: u64) -> f64 {
        /// A pool needs a moment from its decision to the opening.
        const MOMENT_S: f64 = 2.0;
        let youngest_s = now_ns.saturating_sub(self.newest_ns) as f64 / 1e9;
        self.parked_for(youngest_s + MOMENT_S)
    }

    /// Share of the [`Class::Parked`] members that have been idle for at least `seconds`.
    pub fn parked_for(&self, seconds: f64) -> f64 {
        older(&self.parked_idle, seconds)
    }

    /// Members of one class.
    pub fn class(&self, class: Class) -> &ClassTally {
        &self.classes[class as usize]
    }

    /// Members of the [`OUTLIVED`] classes.
    pub fn outlived(&self) -> u32 {
        self.gather(OUTLIVED).count
    }

    /// The classes of `mask` together.
    pub fn gather(&self, mask: Mask) -> ClassTally {
        let mut all = ClassTally::default();
        for class in ALL.iter().filter(|&&c| mask.has(c)) {
            all.add(self.class(*class));
        }
        all
    }
}

impl ClassTally {
    /// Adds the members of another.
    fn add(&mut self, one: &ClassTally) {
        if one.count == 0 {
            return;
        }
        self.oldest_ns = match self.count {
            0 => one.oldest_ns,
            _ => self.oldest_ns.min(one.oldest_ns),
        };
        self.count += one.count;
        self.long_stuck += one.long_stuck;
        self.peer_gone += one.peer_gone;
        self.abandoned += one.abandoned;
        self.pool_like += one.pool_like;
        self.idle_when_closed += one.idle_when_closed;
        self.pairs += one.pairs;
        self.incomplete += one.incomplete;
        self.upgraded += one.upgraded;
        self.in_transaction += one.in_transaction;
        self.http += one.http;
        self.streams += one.streams;
        self.born |= one.born;
        self.stuck_max_ns = self.stuck_max_ns.max(one.stuck_max_ns);
        for (sum, n) in self.ages.iter_mut().zip(one.ages) {
            *sum += n;
        }
    }

    /// Separate seconds its members were opened in, at least (hashed into 64).
    pub fn birth_seconds(&self) -> u32 {
        self.born.count_ones()
    }

    /// Share of the members that are at least `seconds` old, from buckets that double in width.
    pub fn older_than(&self, seconds: f64) -> f64 {
        older(&self.ages, seconds)
    }
}

/// Share of what is in buckets that double in width, from one second on, that is at least `seconds`.
fn older(buckets: &[u32; 16], seconds: f64) -> f64 {
    let count: u32 = buckets.iter().sum();
    if count == 0 {
        return 0.0;
    }
    let mut older = 0.0;
    for (i, &n) in buckets.iter().enumerate() {
        let (low, high) = match i {
            0 => (0.0, 1.0),
            _ => (f64::from(1u32 << (i - 1)), f64::from(1u32 << i)),
        };
        let part = ((high - seconds) / (high - low)).clamp(0.0, 1.0);
        older += part * f64::from(n);
    }
    older / f64::from(count)
}

/// Counts at one time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Point {
    at_ns: u64,
    counts: [u32; CLASSES],
    closed: u64,
}

/// Points kept per level.
const POINTS: usize = 64;
/// Spacing of the levels' points, nanoseconds: they reach back 1 minute, 8.5 minutes, 68 minutes
/// and 9 hours.
const SPACING_NS: [u64; 4] = [SECOND_NS, 8 * SECOND_NS, 64 * SECOND_NS, 512 * SECOND_NS];
/// Fewer open connections than this need no series: no rule concludes anything from them.
const WORTH_A_SERIES: u32 = 3;

/// Which levels get a point at a sweep: the same for all populations, so that their series can be
/// held against each other point by point.
#[derive(Debug, Clone, Copy, Default)]
pub struct Due([bool; 4]);

/// When the levels got their last points.
#[derive(Debug, Default)]
pub struct Schedule([Option<u64>; 4]);

impl Schedule {
    /// The levels that are due at `now_ns`.
    pub fn due(&mut self, now_ns: u64) -> Due {
        let mut due = Due::default();
        for ((last, spacing), due) in self.0.iter_mut().zip(SPACING_NS).zip(&mut due.0) {
            // A quarter of slack: sweeps are not exactly a second apart.
            *due = last.is_none_or(|last| now_ns.saturating_sub(last) >= spacing - spacing / 4);
            if *due {
                *last = Some(now_ns);
            }
        }
        due
    }
}

/// Walks a series: a population that is new has its first point when it begins, between those of
/// the others, so the latest one stands for the moment.
struct Until<'a> {
    rest: std::iter::Peekable<std::collections::vec_deque::Iter<'a, Point>>,
    latest: Option<&'a Point>,
}

impl<'a> Until<'a> {
    fn new(points: &'a VecDeque<Point>) -> Until<'a> {
        Until {
            rest: points.iter().peekable(),
            latest: None,
        }
    }

    /// The latest point at or before `at_ns`, which never goes back.
    fn at(&mut self, at_ns: u64) -> Option<&'a Point> {
        while let Some(point) = self.rest.next_if(|p| p.at_ns <= at_ns) {
            self.latest = Some(point);
        }
        self.latest
    }
}

/// The series of a population at four resolutions.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct History {
    levels: [VecDeque<Point>; 4],
}

impl History {
    /// Adds the counts of a sweep to the levels that are due.
    pub fn push(&mut self, now_ns: u64, tally: &Tally, closed: u64, due: Due) {
        let running = !self.levels[0].is_empty();
        if !running && tally.open < WORTH_A_SERIES {
            return;
        }
        let point = Point {
            at_ns: now_ns,
            counts: tally.classes.map(|c| c.count),
            closed,
        };
        for (level, due) in self.levels.iter_mut().zip(due.0) {
            if due || level.is_empty() {
                if level.len() == POINTS {
                    level.pop_front();
                }
                level.push_back(point);
            }
        }
        // A minute without any connection: start afresh and give the memory back.
        if tally.open == 0 && self.levels[0].iter().all(|p| p.counts == [0; CLASSES]) {
            self.levels = Default::default();
        }
    }

    /// This and another population's together, at the times that this one has.
    pub fn plus(&self, other: &History) -> History {
        let mut sum = self.clone();
        for (level, other) in sum.levels.iter_mut().zip(&other.levels) {
            let mut other = Until::new(other);
            for point in level {
                let Some(same) = other.at(point.at_ns) else {
                    continue;
                };
                point.closed += same.closed;
                for (count, more) in point.counts.iter_mut().zip(same.counts) {
                    *count += more;
                }
            }
        }
        sum
    }

    /// Takes away what a part of the population contributed.
    pub fn subtract(&mut self, part: &History) {
        for (level, part) in self.levels.iter_mut().zip(&part.levels) {
            let mut part = Until::new(part);
            for point in level {
                let Some(same) = part.at(point.at_ns) else {
                    continue;
                };
                point.closed = point.closed.saturating_sub(same.closed);
                for (count, less) in point.counts.iter_mut().zip(same.counts) {
                    *count = count.saturating_sub(less);
                }
            }
        }
    }

    /// The series of the classes in `mask` per level, as (seconds since `origin_ns`, count).
    pub fn series(&self, mask: Mask, origin_ns: u64) -> impl Iterator<Item = Vec<Sample>> {
        self.levels.iter().map(move |level| {
            level
                .iter()
                .map(|p| Sample {
                    at: p.at_ns.saturating_sub(origin_ns) as f64 / 1e9,
                    value: f64::from(mask.sum(&p.counts)),
                })
                .collect()
        })
    }

    /// Points of one level at present.
    pub fn points(&self, level: usize) -> usize {
        self.levels.get(level).map_or(0, VecDeque::len)
    }

    /// Connections closed in the time that the finest series covers.
    pub fn recently_closed(&self, closed: u64) -> u64 {
        self.levels[0]
            .front()
            .map_or(0, |first| closed.saturating_sub(first.closed))
    }

    /// Seconds from the first to the last point of the finest series.
    pub fn recent_seconds(&self) -> f64 {
        match (self.levels[0].front(), self.levels[0].back()) {
            (Some(first), Some(last)) => (last.at_ns - first.at_ns) as f64 / 1e9,
            _ => 0.0,
        }
    }

    /// Whether the classes in `mask` have had at least `count` members for at least `seconds`, at
    /// every point of the finest series in that time.
    pub fn held(&self, mask: Mask, count: u32, seconds: f64) -> bool {
        let level = &self.levels[0];
        let Some(now_ns) = level.back().map(|p| p.at_ns) else {
            return false;
        };
        let since_ns = now_ns.saturating_sub((seconds * 1e9) as u64);
        level.front().is_some_and(|p| p.at_ns <= since_ns)
            && level
                .iter()
                .rev()
                .take_while(|p| p.at_ns >= since_ns)
                .all(|p| mask.sum(&p.counts) >= count)
    }
}
