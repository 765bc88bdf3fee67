//! A result against an earlier one: `check --baseline`.

use std::{fs, path::Path};

use super::{Failure, finding};
use crate::{
    findings,
    report::{Comparison, Finding, GoneFinding, Report, SCHEMA, Verdict},
};

/// Growth must differ by this factor to be called faster or slower: within it, two watches of the
/// same leak differ by chance.
const FACTOR: f64 = 1.5;
/// And by this many connections per minute.
const DIFFERENCE_PER_MINUTE: f64 = 1.0;

/// Reads an earlier result.
///
/// # Errors
/// [`Failure`] (status 2) when it can't be read or is no result of `check --save`.
pub fn load(path: &Path) -> Result<Report, Failure> {
    let wrong = |what: String| Failure::usage(format!("--baseline {}: {what}", path.display()));
    let bytes = fs::read(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let report: Report = serde_json::from_slice(&bytes).map_err(|e| {
        wrong(format!(
            "is no result kept by `tracer check --save`: {e}; keep one with --save first"
        ))
    })?;
    if report.schema != SCHEMA {
        return Err(wrong(format!(
            "has schema {}, this version of tracer reads schema {SCHEMA}; keep a new one",
            report.schema
        )));
    }
    Ok(report)
}

/// What of a result is kept for later: no examples of requests.
#[must_use]
pub fn kept(report: &Report) -> Report {
    let mut kept = report.clone();
    for finding in kept.findings.iter_mut().chain(&mut kept.resolved) {
        finding.remote.examples.clear();
    }
    kept
}

/// Compares `now` with `then`.
#[must_use]
pub fn compare(now: &Report, then: &Report, file: &str) -> Comparison {
    let mut comparison = Comparison {
        file: file.to_owned(),
        ..Comparison::default()
    };
    for finding in &now.findings {
        let id = finding.id.clone();
        match then.findings.iter().find(|earlier| earlier.id == id) {
            None => comparison.new.push(id),
            Some(earlier) => {
                let (before, after) = (earlier.growth_per_minute, finding.growth_per_minute);
                if grew(before, after) {
                    comparison.faster.push(id);
                } else if grew(after, before) {
                    comparison.slower.push(id);
                } else {
                    comparison.unchanged.push(id);
                }
            }
        }
    }
    let gone = then
        .findings
        .iter()
        .filter(|earlier| now.findings.iter().all(|finding| finding.id != earlier.id));
    comparison.gone_findings = gone.map(was).collect();
    let ids = comparison.gone_findings.iter();
    comparison.gone = ids.map(|gone| gone.id.clone()).collect();
    comparison
}

fn was(finding: &Finding) -> GoneFinding {
    GoneFinding {
        id: finding.id.clone(),
        kind: finding.kind,
        call_site: finding.call_site.clone(),
        remote: finding::remote(finding),
        outlived: finding.connections.outlived,
    }
}

fn grew(before: f64, after: f64) -> bool {
    after - before >= DIFFERENCE_PER_MINUTE && after >= before.max(0.0) * FACTOR
}

/// What `--exit-code` should say: without a baseline the verdict itself; with one, a leak is only
/// what is new or faster.
#[must_use]
pub fn verdict(report: &Report) -> Verdict {
    let Some(comparison) = &report.baseline else {
        return report.verdict;
    };
    let worse = report.findings.iter().filter(|finding| {
        comparison.new.contains(&finding.id) || comparison.faster.contains(&finding.id)
    });
    findings::verdict(worse, &report.unsettled).0
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;
    use crate::{model::Confidence, samples};

    #[test]
    fn findings_are_told_apart_by_id_and_growth() {
        let with = |findings: &[(&str, f64)]| {
            let mut report = samples::report();
            report.findings = findings
                .iter()
                .map(|&(id, growth)| Finding {
                    id: id.to_owned(),
                    growth_per_minute: growth,
                    ..samples::finding()
                })
                .collect();
            report
        };
        let then = with(&[
            ("same", 10.0),
            ("up", 10.0),
            ("down", 10.0),
            ("gone", 1.0),
            ("flat", 0.0),
        ]);
        let now = with(&[
            ("same", 14.0),
            ("up", 15.0),
            ("down", 4.0),
            ("new", 1.0),
            ("flat", 0.5),
        ]);
        let comparison = compare(&now, &then, "base.json");
        assert_eq!(comparison.new, ["new"]);
        assert_eq!(comparison.gone, ["gone"]);
        assert_eq!(comparison.gone_findings[0].id, "gone");
        assert_eq!(
            comparison.gone_findings[0].call_site,
            then.findings[3].call_site
        );
        assert_eq!(comparison.faster, ["up"]);
        assert_eq!(comparison.slower, ["down"]);
        assert_eq!(comparison.unchanged, ["same", "flat"]);
    }

    #[test]
    fn no_examples_are_kept() {
        let mut report = samples::report();
        report.resolved = report.findings.clone();
        assert!(!report.findings[0].remote.examples.is_empty());
        let kept = kept(&report);
        for finding in kept.findings.iter().chain(&kept.resolved) {
            assert_eq!(finding.remote.examples, [""; 0]);
            assert_eq!(finding.id, report.findings[0].id);
        }
    }

    #[test]
    fn only_what_is_new_or_faster_is_a_leak() {
        let then = samples::report();
        let mut now = samples::report();
        assert_eq!(verdict(&now), Verdict::Leak);
        now.baseline = Some(compare(&now, &then, "base.json"));
        assert_eq!(verdict(&now), Verdict::Clean);
        now.findings[0].growth_per_minute *= 2.0;
        now.baseline = Some(compare(&now, &then, "base.json"));
        assert_eq!(verdict(&now), Verdict::Leak);
        now.findings[0].confidence = Confidence::Low;
        now.verdict = Verdict::Inconclusive;
        assert_eq!(verdict(&now), Verdict::Inconclusive);
    }

    #[test]
    fn a_damaged_baseline_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("base.json");
        assert_eq!(load(&path).unwrap_err().status, 2);
        fs::write(&path, "{\"schema\": 1").unwrap();
        let failure = load(&path).unwrap_err();
        assert!(failure.to_string().contains("base.json"), "{failure}");
        let mut report = samples::report();
        report.schema = 99;
        fs::write(&path, serde_json::to_string(&report).unwrap()).unwrap();
        let failure = load(&path).unwrap_err();
        assert!(failure.to_string().contains("schema 99"), "{failure}");
        fs::write(&path, serde_json::to_string(&samples::report()).unwrap()).unwrap();
        assert_eq!(load(&path).unwrap(), samples::report());
    }
}
