//! When to sweep and when to scan: the more one costs, the more seldom.

use std::time::Duration;

const SECOND_NS: u64 = 1_000_000_000;
/// Shortest time between sweeps.
const SWEEP_EVERY_NS: u64 = SECOND_NS / 2;
/// Shortest time between descriptor scans.
const SCAN_EVERY_NS: u64 = 3 * SECOND_NS;
/// Longest time between sweeps that are cheap.
const SWEEP_WITHIN_NS: u64 = SECOND_NS;
/// The same while no connection lasts.
const IDLE_SWEEP_WITHIN_NS: u64 = 2 * SECOND_NS;
/// Scans may take one part in this many of the time, and sweeps four times as much.
const DUTY: u64 = 100;
/// Sweeps that take more than one part in this many of the time are put off, up to
/// [`SWEEP_WITHIN_NS`] or [`IDLE_SWEEP_WITHIN_NS`]: they walk over the kernel's whole table, however few sockets are in it.
const LEISURE: u64 = 1000;

/// A sweep that comes so much later than it was due ends a stretch of them: samples are missing of a trend.
const LATE_NS: u64 = 4 * SECOND_NS;
/// A stretch of this length settles every pattern that is common, whatever lies beside it.
const STRETCH_ENOUGH_NS: u64 = 20 * SECOND_NS;

/// When the next sweep and the next scan are due, monotonic nanoseconds.
#[derive(Debug, Default)]
pub struct Schedule {
    next_sweep_ns: u64,
    next_scan_ns: u64,
    last_cost_ns: u64,
    stretch_began_ns: u64,
    longest_stretch_ns: u64,
    gaps: u32,
}

impl Schedule {
    /// Whether it is time for a sweep.
    pub fn sweep_is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.next_sweep_ns
    }

    /// Whether it is time for a descriptor scan.
    pub fn scan_is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.next_scan_ns
    }

    /// How long it is to the next sweep.
    pub fn wait(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(self.next_sweep_ns.saturating_sub(now_ns))
    }

    /// Why a watch of this length can't be called clean, where too little of it was looked at in a row.
    pub fn looked_away(&self, watched_ns: u64) -> Option<String> {
        let stretch_ns = self.longest_stretch_ns;
        let short = stretch_ns < STRETCH_ENOUGH_NS.min(watched_ns / 4 * 3);
        (self.gaps > 0 && short).then(|| {
            format!(
                "Of the {:.1} s watched no more than {:.1} s were looked at in a row: tracer was stopped, or \
                 this machine had no time for it. Watch again, or longer.",
                watched_ns as f64 / 1e9,
                stretch_ns as f64 / 1e9,
            )
        })
    }

    /// A scan began then, and took so much CPU time.
    pub fn scanned(&mut self, began_ns: u64, cost_ns: u64) {
        self.next_scan_ns = began_ns + SCAN_EVERY_NS.max(cost_ns * DUTY);
    }

    /// A sweep (with the scan before it, if any) began then, and took so much CPU time; `lasting`:
    /// there are connections that last. What one sweep alone costs, such as the reading of names when a
    /// call site is new, puts off none.
    pub fn swept(&mut self, began_ns: u64, cost_ns: u64, lasting: bool) {
        let is_first = self.next_sweep_ns == 0;
        let is_late = began_ns.saturating_sub(self.next_sweep_ns) > LATE_NS;
        if is_first || is_late {
            self.stretch_began_ns = began_ns;
            self.gaps += u32::from(!is_first);
        }
        let stretch_ns = began_ns - self.stretch_began_ns;
        self.longest_stretch_ns = self.longest_stretch_ns.max(stretch_ns);
        let within_ns = match lasting {
            false => IDLE_SWEEP_WITHIN_NS,
            true => SWEEP_WITHIN_NS,
        };
        let usual_ns = cost_ns.min(std::mem::replace(&mut self.last_cost_ns, cost_ns));
        let leisurely = (usual_ns * LEISURE).clamp(SWEEP_EVERY_NS, within_ns);
        self.next_sweep_ns = began_ns + leisurely.max(usual_ns * DUTY / 4);
    }
}

#[cfg(test)]
mod tests {
    use super::{SECOND_NS, Schedule};

    #[test]
    fn a_watch_that_was_hardly_looked_at_says_so() {
        let mut schedule = Schedule::default();
        let mut look = |seconds: std::ops::Range<u64>| {
            for at in seconds {
                schedule.swept(at * SECOND_NS, 0, true);
            }
            schedule.looked_away(30 * SECOND_NS)
        };
        assert_eq!(look(5..7), None, "no gap so far");
        let said = look(16..23).unwrap_or_default();
        assert!(
            said.starts_with("Of the 30.0 s watched no more than 6.0 s"),
            "{said}"
        );
        assert!(look(23..35).is_some());
        assert_eq!(look(35..37), None, "20 s in a row");
        // those that come seldom because each is dear are not late
        let mut schedule = Schedule::default();
        for at in [5, 6, 16, 26] {
            schedule.swept(at * SECOND_NS, 400_000_000, true);
        }
        assert_eq!(schedule.looked_away(30 * SECOND_NS), None);
    }

    #[test]
    fn what_costs_more_comes_less_often() {
        let mut schedule = Schedule::default();
        assert!(schedule.sweep_is_due(0) && schedule.scan_is_due(0));
        let wait = |schedule: &mut Schedule, cost_ns, lasting| {
            schedule.swept(SECOND_NS, cost_ns, lasting);
            schedule.swept(SECOND_NS, cost_ns, lasting);
            schedule.wait(SECOND_NS).as_millis()
        };
        assert_eq!(wait(&mut schedule, 0, true), 500);
        assert_eq!(wait(&mut schedule, 2_000_000, true), 1_000, "put off");
        assert_eq!(
            wait(&mut schedule, 2_000_000, false),
            2_000,
            "nothing lasts"
        );
        assert_eq!(wait(&mut schedule, 400_000_000, true), 10_000, "dear");
        let mut schedule = Schedule::default();
        schedule.swept(SECOND_NS, 3 * SECOND_NS, true);
        assert_eq!(schedule.wait(SECOND_NS).as_millis(), 500, "dear once");
        schedule.scanned(SECOND_NS, 100_000_000);
        assert!(!schedule.scan_is_due(10 * SECOND_NS));
        assert!(schedule.scan_is_due(11 * SECOND_NS));
    }
}
