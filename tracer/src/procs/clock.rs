//! From the kernel's clocks to dates.

use jiff::Timestamp;
use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, Timespec, clock_gettime},
};
use serde::{Deserialize, Serialize};

/// Two readings of a calendar that was not set between them differ by less.
const SAME_WITHIN_NS: i128 = 10_000_000;

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

/// Now, nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    u64::try_from(nanoseconds(clock_gettime(ClockId::Monotonic))).unwrap_or_default()
}

/// CPU time of this thread, nanoseconds: what its work costs, however busy the machine is.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    u64::try_from(nanoseconds(clock_gettime(ClockId::ThreadCPUTime))).unwrap_or_default()
}

/// Relates the monotonic clock to the calendar as of one moment. Read it anew for each report:
/// the calendar may be set while the tracer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// `CLOCK_REALTIME` minus `CLOCK_MONOTONIC`, nanoseconds.
    calendar_offset_ns: i128,
    /// `CLOCK_BOOTTIME` minus `CLOCK_MONOTONIC`, nanoseconds: the time spent suspended.
    suspended_ns: i128,
}

impl Clock {
    /// Reads the clocks.
    #[must_use]
    pub fn now() -> Self {
        let monotonic = nanoseconds(clock_gettime(ClockId::Monotonic));
        Clock {
            calendar_offset_ns: nanoseconds(clock_gettime(ClockId::Realtime)) - monotonic,
            suspended_ns: nanoseconds(clock_gettime(ClockId::Boottime)) - monotonic,
        }
    }

    /// This relation, or an earlier one where they differ by no more than reading the clocks one
    /// after the other may take: so that a date once told stays the same.
    #[must_use]
    pub fn continuing(self, earlier: Clock) -> Clock {
        let differ = (self.calendar_offset_ns - earlier.calendar_offset_ns).abs();
        if differ <= SAME_WITHIN_NS {
            Clock {
                calendar_offset_ns: earlier.calendar_offset_ns,
                ..self
            }
        } else {
            self
        }
    }

    /// The date of a moment of the monotonic clock (nanoseconds), to the microsecond.
    #[must_use]
    pub fn date(&self, monotonic_ns: u64) -> Timestamp {
        self.date_of(i128::from(monotonic_ns))
    }

    fn date_of(&self, monotonic_ns: i128) -> Timestamp {
        let micros = (monotonic_ns + self.calendar_offset_ns) / 1000;
        i64::try_from(micros)
            .ok()
            .and_then(|micros| Timestamp::from_microsecond(micros).ok())
            .unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The monotonic clock (nanoseconds) at a date; 0 for dates before it began.
    #[must_use]
    pub fn monotonic(&self, date: Timestamp) -> u64 {
        u64::try_from(date.as_nanosecond() - self.calendar_offset_ns).unwrap_or_default()
    }

    /// When a process started, from its `start_ticks` (`/proc/PID/stat` field 22, which counts
    /// `CLOCK_BOOTTIME` in units of `sysconf(_SC_CLK_TCK)`).
    #[must_use]
    pub fn started_at(&self, start_ticks: u64) -> Timestamp {
        let per_second = i128::from(clock_ticks_per_second().max(1));
        let boottime = i128::from(start_ticks) * 1_000_000_000 / per_second;
        self.date_of(boottime - self.suspended_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_back() {
        let clock = Clock {
            calendar_offset_ns: 1_000_000_000_000_000_000,
            suspended_ns: 5_000_000_000,
        };
        let date = clock.date(1_500_000);
        assert_eq!(date.to_string(), "2001-09-09T01:46:40.0015Z");
        assert_eq!(clock.monotonic(date), 1_500_000);
        assert_eq!(clock.monotonic(Timestamp::UNIX_EPOCH), 0);
    }

    #[test]
    fn a_date_once_told_stays() {
        let at = |calendar_offset_ns| Clock {
            calendar_offset_ns,
            suspended_ns: 0,
        };
        assert_eq!(at(5_000_000).continuing(at(0)), at(0));
        assert_eq!(at(5_000_000_000).continuing(at(0)), at(5_000_000_000));
    }

    #[test]
    fn suspended_time_does_not_move_a_process_start() {
        let clock = Clock {
            calendar_offset_ns: 1_000_000_000_000_000_000,
            suspended_ns: 5_000_000_000,
        };
        let ticks = 7 * clock_ticks_per_second();
        assert_eq!(clock.started_at(ticks), clock.date(2_000_000_000));
    }

    #[test]
    fn nothing_overflows() {
        let clock = Clock::now();
        assert_eq!(
            Clock {
                calendar_offset_ns: i128::from(u64::MAX) * 1_000_000,
                suspended_ns: 0
            }
            .date(u64::MAX),
            Timestamp::UNIX_EPOCH
        );
        let _ = clock.started_at(u64::MAX);
        let _ = clock.date(u64::MAX);
    }
}
