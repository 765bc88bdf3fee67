//! What is kept of a cohort: the last sweep's tallies, and a series of counts that thins out with
//! age.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    classify::{ALL, CLASSES, Class, Seen},
    trend::Sample,
};
use crate::model::{Connection, Holder};

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
]);

/// Everything but [`Class::Active`].
pub const IDLE: Mask = OUTLIVED.with(Mask::of(&[Class::Waiting, Class::Reused, Class::Old]));

/// Members of one class at one sweep.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClassTally {
    /// How many.
    pub count: u32,
    /// Of these, stuck for at least ten seconds.
    pub long_stuck: u32,
    /// Of these, with the peer gone.
    pub peer_gone: u32,
    /// Of these, entries of a pool as far as one can see.
    pub pool_like: u32,
    /// Of these, idle after one use when the peer closed.
    pub idle_when_closed: u32,
    /// Hash set of the seconds they were opened in.
    born: u64,
    /// Opening time of the oldest.
    pub oldest_ns: u64,
    /// Longest time one of them has been stuck.
    pub stuck_max_ns: u64,
    /// Members by age: bucket `i` holds ages below 2^i seconds.
    ages: [u32; 16],
}

/// One sweep's view of a cohort.
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
        class.pool_like += u32::from(seen.pool_like);
        class.idle_when_closed += u32::from(seen.idle_when_closed);
        class.stuck_max_ns = class.stuck_max_ns.max(seen.stuck_ns);
        let second = c.opened_ns / SECOND_NS;
        class.born |= 1 << (second.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58);
        class.ages[(64 - age_s.leading_zeros()).min(15) as usize] += 1;
        if OUTLIVED.has(seen.class) {
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
            let one = self.class(*class);
            if one.count == 0 {
                continue;
            }
            all.oldest_ns = match all.count {
                0 => one.oldest_ns,
                _ => all.oldest_ns.min(one.oldest_ns),
            };
            all.count += one.count;
            all.long_stuck += one.long_stuck;
            all.peer_gone += one.peer_gone;
            all.pool_like += one.pool_like;
            all.idle_when_closed += one.idle_when_closed;
            all.born |= one.born;
            all.stuck_max_ns = all.stuck_max_ns.max(one.stuck_max_ns);
            for (sum, n) in all.ages.iter_mut().zip(one.ages) {
                *sum += n;
            }
        }
        all
    }
}

impl ClassTally {
    /// Separate seconds its members were opened in, at least (hashed into 64).
    pub fn birth_seconds(&self) -> u32 {
        self.born.count_ones()
    }

    /// Share of the members that are at least `seconds` old, from buckets that double in width.
    pub fn older_than(&self, seconds: f64) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let mut older = 0.0;
        for (i, &n) in self.ages.iter().enumerate() {
            let (low, high) = match i {
                0 => (0.0, 1.0),
                _ => (f64::from(1u32 << (i - 1)), f64::from(1u32 << i)),
            };
            let part = ((high - seconds) / (high - low)).clamp(0.0, 1.0);
            older += part * f64::from(n);
        }
        older / f64::from(self.count)
    }
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

/// The series of a cohort at four resolutions.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct History {
    levels: [VecDeque<Point>; 4],
}

impl History {
    /// Adds the counts of a sweep.
    pub fn push(&mut self, now_ns: u64, tally: &Tally, closed: u64) {
        let running = !self.levels[0].is_empty();
        if !running && tally.open < WORTH_A_SERIES {
            return;
        }
        let point = Point {
            at_ns: now_ns,
            counts: tally.classes.map(|c| c.count),
            closed,
        };
        for (level, spacing) in self.levels.iter_mut().zip(SPACING_NS) {
            // A quarter of slack: sweeps are not exactly a second apart.
            let due = level
                .back()
                .is_none_or(|last| now_ns.saturating_sub(last.at_ns) >= spacing - spacing / 4);
            if due {
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
            .map_or(0, |first| closed - first.closed)
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
