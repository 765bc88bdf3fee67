//! The lives of findings over many reports: what is over stays told of for a day, and what comes
//! back is known again.

use std::collections::{BTreeMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    model::Confidence,
    report::{Finding, FindingState, Report},
};

/// Findings kept: the worst of those that are there, and the latest of those that are over.
const KEPT_MAX: usize = 128;
/// What is over is told of for this long.
const TOLD_FOR: SignedDuration = SignedDuration::from_hours(24);
/// What comes back within this time was never over.
const BACK_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// Every finding of more than low confidence that was ever told of, within bounds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lives {
    by_id: BTreeMap<String, Life>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Life {
    /// As it was when it was there last; when and why it is over.
    finding: Finding,
    /// It has been over before.
    back: bool,
}

impl Life {
    fn over_since(&self) -> Option<Timestamp> {
        self.finding.resolved_at
    }
}

impl Lives {
    /// Findings that were there until now and are not in this report.
    pub fn missing<'a>(&'a self, report: &Report) -> impl Iterator<Item = &'a Finding> {
        let present: HashSet<String> = report.findings.iter().map(|f| f.id.clone()).collect();
        self.by_id
            .values()
            .filter(move |life| life.over_since().is_none() && !present.contains(&life.finding.id))
            .map(|life| &life.finding)
    }

    /// Takes in a report made at `now`: marks what is back, and lists what is over, with the reason
    /// that `because` has by id.
    pub fn follow(
        &mut self,
        report: &mut Report,
        now: Timestamp,
        because: &BTreeMap<String, String>,
    ) {
        let missing: Vec<String> = self.missing(report).map(|f| f.id.clone()).collect();
        for id in missing {
            if let Some(life) = self.by_id.get_mut(&id) {
                let known = because.get(&id).cloned();
                let known = counted_in(&life.finding, report).or(known);
                life.finding.state = FindingState::Resolved;
                life.finding.resolved_at = Some(now);
                life.finding.resolved_because =
                    known.or_else(|| Some("Nothing of it is left.".to_owned()));
            }
        }
        for finding in &mut report.findings {
            self.see(finding, now);
        }
        self.make_room(now);
        let over = self.by_id.values().filter(|l| l.over_since().is_some());
        report.resolved = over.map(|life| life.finding.clone()).collect();
        report
            .resolved
            .sort_by(|a, b| (b.resolved_at, &a.id).cmp(&(a.resolved_at, &b.id)));
    }

    fn see(&mut self, finding: &mut Finding, now: Timestamp) {
        let known = self.by_id.get_mut(&finding.id);
        let back = known.is_some_and(|life| {
            let over = life.over_since();
            life.back |= over.is_some_and(|since| now.duration_since(since) >= BACK_AFTER);
            life.back
        });
        if back {
            finding.state = FindingState::Back;
        }
        if finding.confidence > Confidence::Low || self.by_id.contains_key(&finding.id) {
            let kept = Life {
                finding: finding.clone(),
                back,
            };
            self.by_id.insert(finding.id.clone(), kept);
        }
    }

    fn make_room(&mut self, now: Timestamp) {
        let told = |life: &Life| {
            life.over_since()
                .is_none_or(|since| now.duration_since(since) < TOLD_FOR)
        };
        self.by_id.retain(|_, life| told(life));
        if self.by_id.len() <= KEPT_MAX {
            return;
        }
        // those that are there before those that are over, and of these the latest
        let mut order: Vec<_> = self
            .by_id
            .iter()
            .map(|(id, life)| {
                let f = &life.finding;
                let outlived = f.connections.outlived;
                (life.over_since(), f.confidence, outlived, id.clone())
            })
            .collect();
        order.sort_by(|a, b| {
            let there = |over: Option<Timestamp>| over.map_or((true, now), |since| (false, since));
            (there(b.0), b.1, b.2, &a.3).cmp(&(there(a.0), a.1, a.2, &b.3))
        });
        for (.., id) in order.drain(KEPT_MAX..) {
            self.by_id.remove(&id);
        }
    }
}

/// Where what had no call site of its own is counted now: with those that have one.
fn counted_in(missing: &Finding, report: &Report) -> Option<String> {
    let mut same = report.findings.iter().filter(|known| {
        known.process.pid == missing.process.pid
            && known.remote.address == missing.remote.address
            && known.role == missing.role
    });
    let known = same.find(|known| missing.call_site.is_none() && known.call_site.is_some())?;
    Some(format!("It is counted in finding {} now.", known.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    fn at(seconds: i64) -> Timestamp {
        samples::start() + SignedDuration::from_secs(seconds)
    }

    fn report(ids: &[&str]) -> Report {
        let mut report = samples::report();
        report.findings = ids
            .iter()
            .map(|&id| Finding {
                id: id.to_owned(),
                ..samples::finding()
            })
            .collect();
        report
    }

    fn follow(lives: &mut Lives, seconds: i64, ids: &[&str]) -> Report {
        let mut report = report(ids);
        let closed = BTreeMap::from([("a".to_owned(), "All were closed.".to_owned())]);
        lives.follow(&mut report, at(seconds), &closed);
        report
    }

    #[test]
    fn what_is_over_is_told_with_time_and_reason() {
        let mut lives = Lives::default();
        assert_eq!(follow(&mut lives, 0, &["a", "b"]).resolved, []);
        let report = follow(&mut lives, 10, &["b"]);
        let [over] = report.resolved.as_slice() else {
            panic!("{report:?}");
        };
        assert_eq!(
            (over.id.as_str(), over.state),
            ("a", FindingState::Resolved)
        );
        assert_eq!(over.resolved_at, Some(at(10)));
        assert_eq!(over.resolved_because.as_deref(), Some("All were closed."));
        // it stays the same, and is forgotten after a day
        assert_eq!(follow(&mut lives, 70, &["b"]).resolved, report.resolved);
        assert_eq!(follow(&mut lives, 100_000, &["b"]).resolved, []);
    }

    #[test]
    fn what_comes_back_is_known_again() {
        let mut lives = Lives::default();
        follow(&mut lives, 0, &["a"]);
        follow(&mut lives, 10, &[]);
        // so soon it was never over
        let soon = follow(&mut lives, 30, &["a"]);
        assert_eq!(
            (soon.findings[0].state, soon.resolved),
            (FindingState::Growing, vec![])
        );
        follow(&mut lives, 40, &[]);
        let later = follow(&mut lives, 140, &["a"]);
        assert_eq!(later.findings[0].state, FindingState::Back);
        let again = follow(&mut lives, 150, &["a"]);
        assert_eq!(again.findings[0].state, FindingState::Back);
    }

    #[test]
    fn what_was_only_suspicious_needs_no_taking_back() {
        let mut lives = Lives::default();
        let mut low = report(&["a"]);
        low.findings[0].confidence = Confidence::Low;
        lives.follow(&mut low, at(0), &BTreeMap::new());
        assert_eq!(follow(&mut lives, 10, &[]).resolved, []);
    }

    #[test]
    fn memory_is_bounded_and_keeps_what_is_there() {
        let mut lives = Lives::default();
        for n in 0..1000 {
            follow(&mut lives, n, &["stays", &format!("{n:04}")]);
        }
        assert_eq!(lives.by_id.len(), KEPT_MAX);
        assert!(lives.by_id.contains_key("stays") && lives.by_id.contains_key("0999"));
        assert!(lives.by_id.contains_key("0998") && !lives.by_id.contains_key("0001"));
    }
}
