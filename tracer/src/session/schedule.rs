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

/// When the next sweep and the next scan are due, monotonic nanoseconds.
#[derive(Debug, Default)]
pub struct Schedule {
    next_sweep_ns: u64,
    next_scan_ns: u64,
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

    /// A scan began then, and took so much CPU time.
    pub fn scanned(&mut self, began_ns: u64, cost_ns: u64) {
        self.next_scan_ns = began_ns + SCAN_EVERY_NS.max(cost_ns * DUTY);
    }

    /// A sweep (with the scan before it, if any) began then, and took so much CPU time; `lasting`:
    /// there are connections that last.
    pub fn swept(&mut self, began_ns: u64, cost_ns: u64, lasting: bool) {
        let within_ns = match lasting {
            false => IDLE_SWEEP_WITHIN_NS,
            true => SWEEP_WITHIN_NS,
        };
        let leisurely = (cost_ns * LEISURE).clamp(SWEEP_EVERY_NS, within_ns);
        self.next_sweep_ns = began_ns + leisurely.max(cost_ns * DUTY / 4);
    }
}

#[cfg(test)]
mod tests {
    use super::{SECOND_NS, Schedule};

    #[test]
    fn what_costs_more_comes_less_often() {
        let mut schedule = Schedule::default();
        assert!(schedule.sweep_is_due(0) && schedule.scan_is_due(0));
        let wait = |schedule: &mut Schedule, cost_ns, lasting| {
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
        schedule.scanned(SECOND_NS, 100_000_000);
        assert!(!schedule.scan_is_due(10 * SECOND_NS));
        assert!(schedule.scan_is_due(11 * SECOND_NS));
    }
}
