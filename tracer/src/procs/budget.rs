//! Time that may be spent, and comes back: what one process costs must not be all of ours.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Processes that are remembered; beyond that those that owe nothing are forgotten.
const PROCESSES_MAX: usize = 4_096;

/// So much at once; one part in so many of the time comes back.
pub type Rate = (Duration, u32);

/// Time that is used up and comes back.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    used: Duration,
    at: Instant,
    rate: Rate,
}

impl Budget {
    /// All of it is left.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Budget {
        Budget {
            used: Duration::ZERO,
            at: now,
            rate,
        }
    }

    /// What is left.
    #[must_use]
    pub fn left(&self, now: Instant) -> Duration {
        let (most, one_in) = self.rate;
        let back = now.saturating_duration_since(self.at) / one_in;
        most.saturating_sub(self.used.saturating_sub(back))
    }

    /// Takes time, and more than is left at most once.
    pub fn spend(&mut self, time: Duration, now: Instant) {
        self.used = self.rate.0.saturating_sub(self.left(now)) + time;
        self.at = now;
    }
}

/// A budget for each process.
#[derive(Debug)]
pub struct Budgets {
    rate: Rate,
    processes: HashMap<u32, Budget>,
}

impl Budgets {
    /// Each has this one.
    #[must_use]
    pub fn new(rate: Rate) -> Budgets {
        Budgets {
            rate,
            processes: HashMap::new(),
        }
    }

    /// What a process has left.
    #[must_use]
    pub fn left(&self, pid: u32, now: Instant) -> Duration {
        let budget = self.processes.get(&pid);
        budget.map_or(self.rate.0, |budget| budget.left(now))
    }

    /// A process has cost time.
    pub fn spend(&mut self, pid: u32, time: Duration, now: Instant) {
        if self.processes.len() >= PROCESSES_MAX && !self.processes.contains_key(&pid) {
            let whole = self.rate.0;
            self.processes.retain(|_, budget| budget.left(now) < whole);
            if self.processes.len() >= PROCESSES_MAX {
                self.processes.clear();
            }
        }
        let rate = self.rate;
        let budget = self.processes.entry(pid);
        budget
            .or_insert_with(|| Budget::new(rate, now))
            .spend(time, now);
    }

    /// The process has ended.
    pub fn forget(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_comes_back() {
        let second = Duration::from_secs(1);
        let mut now = Instant::now();
        let mut budgets = Budgets::new((4 * second, 4));
        (0..4).for_each(|_| budgets.spend(1, second, now));
        assert!(budgets.left(1, now).is_zero());
        assert_eq!(budgets.left(2, now), 4 * second);
        now += 8 * second;
        assert_eq!(budgets.left(1, now), 2 * second);
        budgets.spend(1, 9 * second, now);
        now += 100 * second;
        assert_eq!(budgets.left(1, now), 4 * second);
        (0..2 * PROCESSES_MAX as u32).for_each(|pid| budgets.spend(pid, second, now));
        assert!(budgets.processes.len() <= PROCESSES_MAX);
    }
}
