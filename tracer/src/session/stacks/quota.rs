//! Each process's share of the stacks that are kept: one program with ever new call paths must not
//! take the room of all others.

use std::collections::HashMap;

use crate::refused::Refusal;

/// A process may have this part of all stacks, one in so many.
const SHARE: usize = 2;
/// Processes of which refusals are remembered by name.
const NAMED_MAX: usize = 64;

/// How many stacks each process has, and how often one was refused.
#[derive(Debug, Default)]
pub(super) struct Quota {
    kept: HashMap<u32, usize>,
    refused: HashMap<u32, u64>,
    refused_in_all: u64,
}

impl Quota {
    /// Takes room for one more stack of a process; `false` where there is none for it.
    pub(super) fn take(&mut self, tgid: u32, most: usize) -> bool {
        let all: usize = self.kept.values().sum();
        let kept = self.kept.entry(tgid).or_default();
        if all < most && *kept < most.div_ceil(SHARE) {
            *kept += 1;
            return true;
        }
        self.refused_in_all += 1;
        Refusal::StackRoom.count();
        if self.refused.len() < NAMED_MAX || self.refused.contains_key(&tgid) {
            *self.refused.entry(tgid).or_default() += 1;
        }
        false
    }

    /// The stacks of a process are gone.
    pub(super) fn free(&mut self, tgid: u32) {
        self.kept.remove(&tgid);
        self.refused.remove(&tgid);
    }

    /// Refusals since the start.
    pub(super) const fn refused(&self) -> u64 {
        self.refused_in_all
    }

    /// Who has no room now, as sentences.
    pub(super) fn sentences(&self) -> impl Iterator<Item = String> {
        let mut worst: Vec<(u64, u32)> = self.refused.iter().map(|(t, n)| (*n, *t)).collect();
        worst.sort_unstable_by(|a, b| b.cmp(a));
        worst.into_iter().take(3).map(|(times, tgid)| {
            format!(
                "stacks of process {tgid} are not kept, for want of room ({times} times): its \
                 connections show without call site"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Quota;

    #[test]
    fn one_process_leaves_room_for_others() {
        let mut quota = Quota::default();
        let taken = (0..100).filter(|_| quota.take(1, 10)).count();
        assert_eq!(taken, 5);
        assert!((0..3).all(|_| quota.take(2, 10)));
        assert_eq!(quota.refused(), 95);
        assert_eq!(quota.sentences().count(), 1);
        quota.free(1);
        assert!(quota.take(3, 10) && quota.sentences().next().is_none());
    }
}
