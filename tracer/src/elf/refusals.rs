//! Files that are not read, or not all of them, and why.

use std::collections::BTreeMap;

/// Files that are named; more are counted.
const NAMED_MAX: usize = 8;
/// Files that are remembered, so that each is counted once.
const FILES_MAX: usize = 1_024;

/// A list of refused files, with a bound.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    reasons: BTreeMap<String, String>,
    beyond: u64,
}

impl Refusals {
    /// Notes that a file is refused, once for each path.
    pub fn add(&mut self, path: &str, reason: &str) {
        if self.reasons.len() >= FILES_MAX && !self.reasons.contains_key(path) {
            self.beyond += 1;
        } else {
            self.reasons.insert(path.to_owned(), reason.to_owned());
        }
    }

    /// Files refused.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.reasons.len() as u64 + self.beyond
    }

    /// As sentences: what was refused of which file, and why.
    pub fn sentences(&self, what: &str) -> impl Iterator<Item = String> {
        let named = self.reasons.iter().take(NAMED_MAX);
        let more = self.count().saturating_sub(NAMED_MAX as u64);
        let more = (more > 0).then(|| format!("{what} of {more} more files is not read"));
        let sentences =
            named.map(move |(path, why)| format!("{what} of {path} is not read: {why}"));
        sentences.chain(more)
    }
}

#[cfg(test)]
mod tests {
    use super::{FILES_MAX, NAMED_MAX, Refusals};

    #[test]
    fn many_are_counted_and_few_are_named() {
        let mut refusals = Refusals::default();
        for number in 0..2 * FILES_MAX {
            for _ in 0..2 {
                refusals.add(&format!("/lib/{number:05}"), "it is too large");
            }
        }
        let sentences: Vec<String> = refusals.sentences("debug information").collect();
        assert_eq!(sentences.len(), NAMED_MAX + 1);
        assert_eq!(
            sentences[0],
            "debug information of /lib/00000 is not read: it is too large"
        );
        assert!(refusals.count() >= 2 * FILES_MAX as u64);
    }
}
