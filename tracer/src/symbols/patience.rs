//! How long answers of readers may be waited for: each process has a share, and all together have a
//! bound, so that files which take long to read hold nobody else up.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::procs::budget::{Budget, Budgets, Rate};

/// How long one answer may take at first. The first question to a file has its debug information
/// parsed, which takes seconds for the largest.
pub(super) const WHOLE: Duration = Duration::from_secs(10);
/// How long it may take for a process of which many were too slow, and the least that is waited for.
const LEAST: Duration = Duration::from_millis(500);
/// After this long without a slow answer a process has full patience again.
const FORGIVEN: Duration = Duration::from_secs(600);
/// An answer that comes within this time costs nothing.
pub(super) const FREE: Duration = Duration::from_millis(50);
/// Naming a stack within this time costs nothing.
pub(super) const FREE_SITE: Duration = Duration::from_millis(5);
/// Time for one process at once; one part in so many of the time comes back.
const OF_PROCESS: Rate = (Duration::from_secs(10), 4);
/// The same for all together.
const OF_ALL: Rate = (Duration::from_secs(20), 2);
/// The same where there is one report only, at the end: names that are missing then come never.
const WHOLE_OF_PROCESS: Rate = (Duration::from_secs(60), 1);
const WHOLE_OF_ALL: Rate = (Duration::from_secs(120), 4);
/// Processes with slow answers that are remembered.
const SLOW_MAX: usize = 4_096;

/// A process of which answers were too slow.
#[derive(Debug)]
struct Slow {
    patience: Duration,
    at: Instant,
}

/// How long may be waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowed {
    /// The time.
    pub(super) time: Duration,
    /// It is all that the process would be given for a file, and not only what is left.
    pub(super) whole: bool,
}

/// Everybody's patience.
#[derive(Debug)]
pub(super) struct Patience {
    all: Option<Budget>,
    of_all: Rate,
    shares: Budgets,
    slow: HashMap<u32, Slow>,
    /// What was spent since it was asked last.
    spent: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            all: None,
            of_all: OF_ALL,
            shares: Budgets::new(OF_PROCESS),
            slow: HashMap::new(),
            spent: Duration::ZERO,
        }
    }
}

impl Patience {
    /// For one report, at the end.
    pub(super) fn whole() -> Patience {
        Patience {
            of_all: WHOLE_OF_ALL,
            shares: Budgets::new(WHOLE_OF_PROCESS),
            ..Patience::default()
        }
    }

    /// How long an answer for a process may be waited for; `None` where it has to be asked for later.
    pub(super) fn allow(&self, tgid: u32, now: Instant) -> Option<Allowed> {
        let all = self.all.map_or(self.of_all.0, |all| all.left(now));
        let wanted = self.wanted(tgid, now);
        let time = wanted.min(self.shares.left(tgid, now)).min(all);
        (time >= LEAST).then_some(Allowed {
            time,
            whole: time >= wanted,
        })
    }

    /// An answer, or something else, took this long, of which so much is free.
    pub(super) fn spend(&mut self, tgid: u32, took: Duration, free: Duration, now: Instant) {
        let dear = took.saturating_sub(free);
        if dear.is_zero() {
            return;
        }
        self.spent += dear;
        let of_all = self.of_all;
        let all = self.all.get_or_insert_with(|| Budget::new(of_all, now));
        all.spend(dear, now);
        self.shares.spend(tgid, dear, now);
    }

    /// What was spent since this was asked last.
    pub(super) fn take_spent(&mut self) -> Duration {
        std::mem::take(&mut self.spent)
    }

    /// An answer did not come in time: the next one has half of it.
    pub(super) fn slow(&mut self, tgid: u32, now: Instant) {
        if self.slow.len() >= SLOW_MAX {
            self.slow.clear();
        }
        let patience = (self.wanted(tgid, now) / 2).max(LEAST);
        self.slow.insert(tgid, Slow { patience, at: now });
    }

    /// The process has ended.
    pub(super) fn forget(&mut self, tgid: u32) {
        self.shares.forget(tgid);
        self.slow.remove(&tgid);
    }

    fn wanted(&self, tgid: u32, now: Instant) -> Duration {
        let recent = |slow: &&Slow| now.saturating_duration_since(slow.at) <= FORGIVEN;
        let slow = self.slow.get(&tgid).filter(recent);
        slow.map_or(WHOLE, |slow| slow.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn quick_answers_cost_nothing() {
        let mut patience = Patience::default();
        let now = Instant::now();
        (0..10_000).for_each(|_| patience.spend(1, Duration::from_millis(20), FREE, now));
        let whole = Allowed {
            time: WHOLE,
            whole: true,
        };
        assert_eq!(patience.allow(1, now), Some(whole));
    }

    #[test]
    fn a_process_with_slow_files_has_less_and_less_and_others_keep_theirs() {
        let mut patience = Patience::default();
        let mut now = Instant::now();
        let (begun, mut waited) = (now, Duration::ZERO);
        for _ in 0..1_000 {
            match patience.allow(1, now) {
                Some(allowed) => {
                    now += allowed.time;
                    waited += allowed.time;
                    patience.spend(1, allowed.time, FREE, now);
                    patience.slow(1, now);
                }
                None => now += seconds(1),
            }
        }
        let passed = now - begun;
        assert!(waited < WHOLE + passed / 3, "{waited:?} of {passed:?}");
        let other = patience.allow(2, now);
        assert_eq!(other.map(|allowed| allowed.whole), Some(true), "{other:?}");
        now += FORGIVEN + seconds(1);
        assert_eq!(patience.allow(1, now).map(|a| a.time), Some(WHOLE));
    }

    #[test]
    fn many_processes_have_no_more_than_all_may() {
        let mut patience = Patience::default();
        let now = Instant::now();
        let mut waited = Duration::ZERO;
        for pid in 0..10_000 {
            if let Some(allowed) = patience.allow(pid, now) {
                waited += allowed.time;
                patience.spend(pid, allowed.time, FREE, now);
            }
        }
        assert!(waited <= OF_ALL.0 + WHOLE, "{waited:?}");
        assert_eq!(patience.allow(9_999_999, now), None);
        assert!(patience.allow(9_999_999, now + seconds(30)).is_some());
    }
}
