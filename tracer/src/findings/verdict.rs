//! The verdict, for every report there is: a fresh one, one of which findings are ignored, one that
//! several daemons contributed to, one held against a baseline.

use crate::{
    model::Confidence,
    report::{Finding, Report, Verdict},
};

/// The verdict on findings, and why it is inconclusive if it is. `unsettled` are the reasons why
/// nothing could be called clean even without findings: losses, a target that ended too soon.
#[must_use]
pub fn verdict<'a>(
    findings: impl IntoIterator<Item = &'a Finding>,
    unsettled: &[String],
) -> (Verdict, Vec<String>) {
    let (mut sure, mut unsure) = (0u64, 0u64);
    for finding in findings {
        match finding.confidence {
            Confidence::Medium | Confidence::High => sure += 1,
            Confidence::Low => unsure += 1,
        }
    }
    if sure > 0 {
        return (Verdict::Leak, Vec::new());
    }
    let mut because = unsettled.to_vec();
    match unsure {
        0 => {}
        1 => because.push("1 finding is suspicious but not proven yet.".to_owned()),
        n => because.push(format!("{n} findings are suspicious but not proven yet.")),
    }
    match because.is_empty() {
        true => (Verdict::Clean, because),
        false => (Verdict::Inconclusive, because),
    }
}

/// Gives a report the verdict that its findings and its reasons call for, after either changed.
pub fn settle(report: &mut Report) {
    let (verdict, because) = verdict(&report.findings, &report.unsettled);
    report.verdict = verdict;
    report.inconclusive_because = because;
    if verdict != Verdict::Inconclusive {
        report.settle_seconds = None;
    }
}

#[cfg(test)]
mod tests {
    use super::{settle, verdict};
    use crate::{
        model::Confidence,
        report::{Finding, Verdict},
        samples,
    };

    fn of(confidence: Confidence) -> Finding {
        Finding {
            confidence,
            ..samples::finding()
        }
    }

    #[test]
    fn nothing_is_clean_that_was_not_seen() {
        let lost = ["3 events were lost.".to_owned()];
        let none: [Finding; 0] = [];
        assert_eq!(verdict(&none, &[]).0, Verdict::Clean);
        assert_eq!(
            verdict(&none, &lost),
            (Verdict::Inconclusive, lost.to_vec())
        );
        assert_eq!(verdict(&[of(Confidence::Medium)], &lost).0, Verdict::Leak);
        let (low, because) = verdict(&[of(Confidence::Low)], &lost);
        assert_eq!((low, because.len()), (Verdict::Inconclusive, 2));
    }

    #[test]
    fn a_report_is_settled_anew_when_its_findings_change() {
        let mut report = samples::report();
        settle(&mut report);
        assert_eq!(report.verdict, Verdict::Leak);
        report.findings.clear();
        settle(&mut report);
        assert_eq!(report.verdict, Verdict::Clean);
        report.unsettled.push("Events were lost.".to_owned());
        settle(&mut report);
        assert_eq!(report.verdict, Verdict::Inconclusive);
    }
}
