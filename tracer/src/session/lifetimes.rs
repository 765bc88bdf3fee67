//! Lifetimes of connections that ended, as a histogram.

use serde::{Deserialize, Serialize};
use tracer_ebpf::{AggValue, LIFETIME_BUCKETS};

/// The kernel's buckets are powers of two of 1024 ns.
const UNIT_SECONDS: f64 = 1024e-9;

/// A histogram: what was kept when the kernel's map was emptied, plus what is in it now.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Lifetimes {
    kept: Sums,
    now: Sums,
}

#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
struct Sums {
    buckets: [u64; LIFETIME_BUCKETS],
    total_ns: u64,
}

impl Sums {
    fn add(&mut self, value: &AggValue) {
        for (sum, &count) in self.buckets.iter_mut().zip(&value.lifetimes) {
            *sum += u64::from(count);
        }
        self.total_ns = self.total_ns.saturating_add(value.lifetime_ns);
    }
}

impl Lifetimes {
    /// Keeps a value that leaves the kernel's map.
    pub fn keep(&mut self, value: &AggValue) {
        self.kept.add(value);
        self.now = Sums::default();
    }

    /// Sets what the kernel's map holds now.
    pub fn current<'a>(&mut self, values: impl Iterator<Item = &'a AggValue>) {
        self.now = Sums::default();
        values.for_each(|value| self.now.add(value));
    }

    /// Upper bound in seconds of every bucket, and how many fell into it.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let mut bound = UNIT_SECONDS * 2.0;
        (self.kept.buckets.iter().zip(&self.now.buckets))
            .map(|(kept, now)| {
                let entry = (bound, kept + now);
                bound *= 2.0;
                entry
            })
            .collect()
    }

    /// Sum of all lifetimes, seconds.
    pub fn sum_seconds(&self) -> f64 {
        (self.kept.total_ns as f64 + self.now.total_ns as f64) / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::{AggValue, Lifetimes};

    #[test]
    fn what_was_kept_and_what_is_there_add_up() {
        let mut value = AggValue {
            lifetime_ns: 3_000_000_000,
            ..AggValue::default()
        };
        value.lifetimes[0] = 2;
        value.lifetimes[5] = 1;
        let mut lifetimes = Lifetimes::default();
        lifetimes.keep(&value);
        lifetimes.current([value].iter());
        let buckets = lifetimes.buckets();
        assert_eq!(buckets[0].1, 4);
        assert_eq!(buckets[5].1, 2);
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 6);
        assert!((lifetimes.sum_seconds() - 6.0).abs() < 1e-9);
    }
}
