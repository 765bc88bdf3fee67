//! What happened to findings between two reports, as lines for the daemon's log. They carry routes
//! and call sites, never requests.

use std::collections::HashMap;

use crate::{
    model::Confidence,
    report::{Finding, FindingState, Report},
};

/// What a report has that the one before had not: findings that are new or back, and those that
/// are over.
#[must_use]
pub fn between(before: Option<&Report>, now: &Report) -> Vec<String> {
    let state = |finding: &Finding| match finding.confidence {
        Confidence::Low => None,
        _ => Some(finding.state),
    };
    let all = |report: &'_ Report| -> HashMap<String, Option<FindingState>> {
        let findings = report.findings.iter().chain(&report.resolved);
        findings.map(|f| (f.id.clone(), state(f))).collect()
    };
    let known = before.map(all).unwrap_or_default();
    let mut lines = Vec::new();
    for finding in &now.findings {
        let past = known.get(&finding.id).copied().flatten();
        let word = match (state(finding), past) {
            (None, _) => continue,
            (Some(_), None) => "found",
            (Some(FindingState::Back), Some(past)) if past != FindingState::Back => "back",
            (Some(_), Some(FindingState::Resolved)) => "not over after all",
            _ => continue,
        };
        lines.push(line(finding, word));
    }
    for finding in &now.resolved {
        if known.get(&finding.id) != Some(&Some(FindingState::Resolved)) {
            let because = finding.resolved_because.as_deref().unwrap_or_default();
            lines.push(format!("{}: {because}", line(finding, "over")));
        }
    }
    lines
}

fn line(finding: &Finding, word: &str) -> String {
    let site = match &finding.call_site {
        Some(site) => format!(" at {}", site.function),
        None => String::new(),
    };
    let (id, kind) = (&finding.id, finding.kind.name());
    format!(
        "finding {id} {word}: {kind}{site} in process {}",
        finding.process.pid
    )
}

#[cfg(test)]
mod tests {
    use super::between;
    use crate::{
        report::{FindingState, Report},
        samples,
    };

    fn report(state: Option<FindingState>) -> Report {
        let mut report = samples::report();
        report.findings.clear();
        if let Some(state) = state {
            let mut finding = samples::finding();
            finding.state = state;
            match state {
                FindingState::Resolved => {
                    finding.resolved_because = Some("All were closed.".to_owned());
                    report.resolved.push(finding);
                }
                _ => report.findings.push(finding),
            }
        }
        report
    }

    #[test]
    fn each_change_is_told_once() {
        use FindingState::{Back, Growing, New, Resolved};
        let told = |before: Option<Option<FindingState>>, now: Option<FindingState>| {
            let before = before.map(report);
            let lines = between(before.as_ref(), &report(now));
            assert!(lines.len() < 2, "{lines:?}");
            lines.first().cloned().unwrap_or_default()
        };
        let first = told(None, Some(New));
        assert!(
            first.contains(" found: response_body_not_closed at main.fetch"),
            "{first}"
        );
        assert_eq!(told(Some(Some(New)), Some(Growing)), "");
        let over = told(Some(Some(Growing)), Some(Resolved));
        assert!(
            over.contains(" over: ") && over.ends_with(": All were closed."),
            "{over}"
        );
        assert_eq!(told(Some(Some(Resolved)), Some(Resolved)), "");
        assert!(told(Some(Some(Resolved)), Some(Back)).contains(" back: "));
        assert_eq!(told(Some(Some(Back)), Some(Back)), "");
        assert_eq!(told(Some(Some(Resolved)), None), "");
    }
}
