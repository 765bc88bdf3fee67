//! Several daemons' reports as one: the same leak on ten nodes is one finding.

use std::cmp::Reverse;

use super::client::Answer;
use crate::{
    findings::settle,
    report::{Finding, Node, Report, SCHEMA},
};

/// Merges the answers of several daemons; `None` when none answered. With a single daemon asked,
/// its report stays as it is.
#[must_use]
pub fn merge(answers: Vec<Answer<Report>>) -> Option<Report> {
    let several = answers.len() > 1;
    let mut merged: Option<Report> = None;
    let mut nodes = Vec::new();
    for Answer { endpoint, result } in answers {
        let endpoint = endpoint.to_string();
        let mut report = match result {
            Ok(report) => report,
            Err(error) => {
                nodes.push(Node {
                    endpoint,
                    coverage: None,
                    error: Some(error.to_string()),
                });
                continue;
            }
        };
        if !several {
            return Some(report);
        }
        nodes.push(Node {
            endpoint: endpoint.clone(),
            coverage: report.coverage.take(),
            error: None,
        });
        for finding in &mut report.findings {
            for instance in &mut finding.instances {
                instance.node.get_or_insert_with(|| endpoint.clone());
            }
        }
        match &mut merged {
            Some(merged) => add(merged, report),
            None => merged = Some(report),
        }
    }
    let mut merged = merged?;
    let there: Vec<String> = merged.findings.iter().map(|f| f.id.clone()).collect();
    merged.resolved.retain(|over| !there.contains(&over.id));
    merged
        .resolved
        .sort_by_key(|over| (Reverse(over.resolved_at), over.id.clone()));
    merged.resolved.dedup_by(|one, two| one.id == two.id);
    merged.schema = SCHEMA;
    for node in &nodes {
        if let Some(error) = &node.error {
            let reason = format!("{} did not answer: {error}", node.endpoint);
            merged.unsettled.push(reason);
        }
    }
    merged.nodes = Some(nodes);
    settle(&mut merged);
    Some(merged)
}

fn add(merged: &mut Report, report: Report) {
    merged.started_at = merged.started_at.min(report.started_at);
    merged.duration_seconds = merged.duration_seconds.max(report.duration_seconds);
    merged.ignored += report.ignored;
    merged.unsettled.extend(report.unsettled);
    merged.populations.extend(report.populations);
    merged.settle_seconds = match (merged.settle_seconds, report.settle_seconds) {
        (Some(one), Some(two)) => Some(one.max(two)),
        (one, two) => one.or(two),
    };
    merged.resources.extend(report.resources);
    merged.resolved.extend(report.resolved);
    for finding in report.findings {
        match merged
            .findings
            .iter_mut()
            .find(|known| known.id == finding.id)
        {
            Some(known) => add_finding(known, finding),
            None => merged.findings.push(finding),
        }
    }
}

/// Adds another node's instances to a finding. The words are those of the worse one.
fn add_finding(known: &mut Finding, mut other: Finding) {
    if other.connections.outlived > known.connections.outlived {
        std::mem::swap(known, &mut other);
    }
    known.confidence = known.confidence.max(other.confidence);
    for kind in other.also.into_iter().chain([other.kind]) {
        if kind != known.kind && !known.also.contains(&kind) {
            known.also.push(kind);
        }
    }
    known.also.sort_unstable();
    known.instances.extend(other.instances);
    known
        .instances
        .sort_by_key(|instance| Reverse(instance.connections));
    let (all, more) = (&mut known.connections, &other.connections);
    all.open += more.open;
    all.outlived += more.outlived;
    all.opened += more.opened;
    all.closed += more.closed;
    // The peaks need not have been at the same time; their sum is an upper bound.
    all.peak_open += more.peak_open;
    known.requests += other.requests;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    if known.requests > 0 {
        known.leaked_per_request = known.connections.outlived as f64 / known.requests as f64;
    }
    known.growth_per_minute += other.growth_per_minute;
    known.oldest_opened_at = match (known.oldest_opened_at, other.oldest_opened_at) {
        (Some(one), Some(two)) => Some(one.min(two)),
        (one, two) => one.or(two),
    };
    for example in other.remote.examples {
        if !known.remote.examples.contains(&example) {
            known.remote.examples.push(example);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;
    use crate::{
        cli::client::{AskError, Endpoint},
        report::Verdict,
        samples,
    };

    fn answer(name: &str, result: Result<Report, &str>) -> Answer<Report> {
        Answer {
            endpoint: Endpoint::Tcp(name.to_owned(), None),
            result: result.map_err(|said| AskError::Refused(said.to_owned())),
        }
    }

    #[test]
    fn a_single_daemon_keeps_its_words() {
        let merged = merge(vec![answer("a:1", Ok(samples::report()))]).unwrap();
        assert_eq!(merged, samples::report());
        assert_eq!(merge(vec![answer("a:1", Err("gone"))]), None);
    }

    #[test]
    fn one_leak_on_two_nodes_is_one_finding() {
        let mut worse = samples::report();
        worse.findings[0].connections.outlived = 900;
        worse.findings[0].process.pid = 1;
        let merged = merge(vec![
            answer("a:1", Ok(samples::report())),
            answer("b:1", Err("refused")),
            answer("c:1", Ok(worse)),
        ])
        .unwrap();
        assert_eq!(merged.findings.len(), 1);
        let finding = &merged.findings[0];
        assert_eq!(finding.connections.outlived, 1720);
        assert_eq!(finding.connections.open, 1640);
        assert_eq!(finding.process.pid, 1);
        assert_eq!(finding.growth_per_minute, 32.8);
        let nodes: Vec<_> = finding
            .instances
            .iter()
            .map(|i| i.node.as_deref())
            .collect();
        assert_eq!(nodes.len(), 2);
        assert!(nodes.contains(&Some("http://a:1")) && nodes.contains(&Some("http://c:1")));
        assert_eq!(merged.coverage, None);
        let nodes = merged.nodes.unwrap();
        assert_eq!(nodes.len(), 3);
        assert_eq!(nodes[1].error.as_deref(), Some("refused"));
        assert_eq!(merged.resources.len(), 2);
    }

    #[test]
    fn what_one_node_could_not_see_is_not_clean() {
        let clean = || {
            let mut report = samples::report();
            report.findings.clear();
            settle(&mut report);
            report
        };
        let both = |one: Report, two: Report| {
            merge(vec![answer("a:1", Ok(one)), answer("b:1", Ok(two))])
                .unwrap()
                .verdict
        };
        assert_eq!(both(clean(), clean()), Verdict::Clean);
        assert_eq!(both(clean(), samples::report()), Verdict::Leak);
        let mut lossy = clean();
        lossy.unsettled.push("Events were lost.".to_owned());
        settle(&mut lossy);
        assert_eq!(both(clean(), lossy), Verdict::Inconclusive);
        let silent = merge(vec![
            answer("a:1", Ok(clean())),
            answer("b:1", Err("refused")),
        ]);
        assert_eq!(silent.unwrap().verdict, Verdict::Inconclusive);
    }
}
