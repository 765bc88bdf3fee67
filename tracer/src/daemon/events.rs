//! What happened to findings between two reports: for the daemon's log, and for whoever is to be told.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use crate::{
    model::Confidence,
    report::{Change, Finding, FindingState, Report},
};

/// A finding has become worse when it has so many times the connections that were last told of,
const WORSE_FACTOR: u64 = 2;
/// and so many more.
const WORSE_MORE: u64 = 10;
/// Findings remembered; the daemon keeps fewer itself.
const KEPT_MAX: usize = 4096;

/// Tells each change in a finding's life once, however often its confidence falls and rises.
#[derive(Debug)]
pub struct Teller {
    begun: Timestamp,
    told: HashMap<String, Told>,
}

/// What was last told of a finding.
#[derive(Debug, Clone, Copy)]
struct Told {
    over: bool,
    confidence: Confidence,
    outlived: u64,
}

impl Told {
    fn of(finding: &Finding) -> Told {
        Told {
            over: finding.state == FindingState::Resolved,
            confidence: finding.confidence,
            outlived: finding.connections.outlived,
        }
    }

    fn is_worse_than(self, before: Told) -> bool {
        let more = self.outlived >= before.outlived.saturating_mul(WORSE_FACTOR)
            && self.outlived - before.outlived >= WORSE_MORE;
        more || self.confidence > before.confidence
    }
}

impl Teller {
    /// One that has told nothing; what was over before `begun` is not told of.
    #[must_use]
    pub fn new(begun: Timestamp) -> Teller {
        Teller {
            begun,
            told: HashMap::new(),
        }
    }

    /// What has changed since the last report: findings that are new, worse or back, and those that are
    /// over. What is of low confidence only is nobody's business.
    pub fn changes<'a>(&mut self, now: &'a Report) -> Vec<(Change, &'a Finding)> {
        let mut changes = Vec::new();
        for finding in &now.findings {
            if finding.confidence == Confidence::Low {
                continue;
            }
            let present = Told::of(finding);
            let change = match self.told.get(&finding.id).copied() {
                None if finding.state == FindingState::Back => Change::Back,
                None => Change::New,
                Some(before) if before.over => Change::Back,
                Some(before) if present.is_worse_than(before) => Change::Worse,
                Some(_) => continue,
            };
            self.told.insert(finding.id.clone(), present);
            changes.push((change, finding));
        }
        for finding in &now.resolved {
            let tell = match self.told.get(&finding.id) {
                Some(before) => !before.over,
                None => finding.resolved_at.is_some_and(|at| at >= self.begun),
            };
            if tell {
                let over = Told {
                    over: true,
                    ..Told::of(finding)
                };
                self.told.insert(finding.id.clone(), over);
                changes.push((Change::Resolved, finding));
            }
        }
        if self.told.len() > KEPT_MAX {
            let present = now.findings.iter().chain(&now.resolved);
            let present: HashSet<&str> = present.map(|finding| finding.id.as_str()).collect();
            self.told.retain(|id, _| present.contains(id.as_str()));
        }
        changes
    }
}

/// A change as a line for the daemon's log. It carries routes and call sites, never requests.
#[must_use]
pub fn line(change: Change, finding: &Finding) -> String {
    let word = match change {
        Change::New => "found",
        Change::Worse => "worse",
        Change::Resolved => "over",
        Change::Back => "back",
    };
    let (id, pid) = (&finding.id, finding.process.pid);
    let what = summary(finding);
    let line = format!("finding {id} {word}: {what} in process {pid}");
    match (change, &finding.resolved_because) {
        (Change::Resolved, Some(because)) => format!("{line}: {because}"),
        _ => line,
    }
}

/// Kind and place of a finding in a few words.
pub(super) fn summary(finding: &Finding) -> String {
    let kind = finding.kind.name();
    match &finding.call_site {
        Some(site) => format!("{kind} at {}", site.function),
        None => kind.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::samples;

    fn finding(state: FindingState, confidence: Confidence, outlived: u64) -> Finding {
        let mut finding = samples::finding();
        (finding.state, finding.confidence) = (state, confidence);
        finding.connections.outlived = outlived;
        if state == FindingState::Resolved {
            finding.resolved_because = Some("All were closed.".to_owned());
            finding.resolved_at = Some(samples::start());
        }
        finding
    }

    /// What is told of one finding in reports one after the other.
    fn told(begun: Timestamp, lives: &[Option<Finding>]) -> Vec<&'static str> {
        let mut teller = Teller::new(begun);
        let mut names = Vec::new();
        for finding in lives {
            let mut report = samples::report();
            report.findings.clear();
            match finding {
                Some(finding) if finding.state == FindingState::Resolved => {
                    report.resolved.push(finding.clone());
                }
                Some(finding) => report.findings.push(finding.clone()),
                None => {}
            }
            let changes = teller.changes(&report);
            assert!(changes.len() < 2, "{changes:?}");
            names.push(changes.first().map_or("", |(change, _)| change.name()));
        }
        names
    }

    #[test]
    fn each_change_is_told_once() {
        use Confidence::{High, Low, Medium};
        use FindingState::{Back, Growing, New, Resolved};
        let one = |state, confidence, outlived| Some(finding(state, confidence, outlived));
        let begun = samples::start();
        let life = [
            (one(New, Low, 4), ""),
            (one(New, Medium, 6), "new"),
            (one(Growing, Medium, 11), ""),
            (one(Growing, Low, 12), ""),
            (one(Growing, Medium, 13), ""),
            (one(Growing, Medium, 16), "worse"),
            (one(Growing, Medium, 31), ""),
            (one(Growing, High, 31), "worse"),
            (one(Growing, Medium, 32), ""),
            (one(Growing, High, 33), ""),
            (None, ""),
            (one(Resolved, High, 33), "resolved"),
            (one(Resolved, High, 33), ""),
            (one(Back, High, 5), "back"),
            (one(Back, High, 6), ""),
            (one(Resolved, High, 6), "resolved"),
            // not over after all
            (one(Growing, High, 7), "back"),
        ];
        let (lives, expected): (Vec<_>, Vec<_>) = life.into_iter().unzip();
        assert_eq!(told(begun, &lives), expected);
    }

    #[test]
    fn what_was_over_before_is_nobody_s_news() {
        use Confidence::High;
        use FindingState::{Back, Resolved};
        let lives = [
            Some(finding(Resolved, High, 9)),
            Some(finding(Back, High, 9)),
        ];
        let later = samples::start() + SignedDuration::from_secs(1);
        assert_eq!(told(later, &lives), ["", "back"]);
        assert_eq!(told(samples::start(), &lives), ["resolved", "back"]);
    }

    #[test]
    fn lines_tell_place_and_reason() {
        let found = line(Change::New, &samples::finding());
        assert!(
            found.contains(" found: response_body_not_closed at main.fetch in process 4711"),
            "{found}"
        );
        let over = finding(FindingState::Resolved, Confidence::High, 9);
        let over = line(Change::Resolved, &over);
        assert!(
            over.contains(" over: ") && over.ends_with(": All were closed."),
            "{over}"
        );
    }
}
