//! What it costs every system call of the host that tracer sits on each of them: measured, so that
//! whoever asked for it can see.

use std::{fmt, time::Instant};

/// Calls in one round; a round takes a few milliseconds.
const CALLS: u32 = 20_000;
/// Rounds; the fastest counts, the others were disturbed.
const ROUNDS: u32 = 7;

/// Time that a system call takes which has nothing to do with sockets, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SyscallOverhead {
    /// Before the probes were attached.
    pub without_ns: f64,
    /// With them.
    pub with_ns: f64,
}

impl fmt::Display for SyscallOverhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "watching by system calls was asked for: each system call of this host, whatever it \
             does, takes {:.0} ns longer meanwhile (measured: {:.0} ns before, {:.0} ns now)",
            (self.with_ns - self.without_ns).max(0.0),
            self.without_ns,
            self.with_ns
        )
    }
}

/// Measures the time of an unrelated system call, nanoseconds.
#[must_use]
pub fn unrelated_call_ns() -> f64 {
    let mut fastest = f64::INFINITY;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        for _ in 0..CALLS {
            // no C library answers it from a cache
            let _ = rustix::process::getppid();
        }
        fastest = fastest.min(began.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    fastest
}

#[cfg(test)]
mod tests {
    use super::{SyscallOverhead, unrelated_call_ns};

    #[test]
    fn the_cost_is_said_in_nanoseconds() {
        let overhead = SyscallOverhead {
            without_ns: 119.2,
            with_ns: 155.4,
        };
        let text = overhead.to_string();
        assert!(text.contains("36 ns longer"), "{text}");
        assert!(text.contains("119 ns before, 155 ns now"), "{text}");
        assert!(unrelated_call_ns() > 0.0);
    }
}
