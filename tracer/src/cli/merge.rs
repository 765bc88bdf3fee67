//! Several daemons' reports as one: the same leak on ten nodes is one finding.
//!
//! They are added up as they come, and what a list may hold of all nodes together is bounded.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    mem,
};

use super::{
    Failure,
    fleet::{Asked, Fleet, Who},
};
use crate::{
    findings::settle,
    report::{
        Coverage, Finding, FindingDetail, Instance, Node, Population, Report, Resources, SCHEMA,
    },
};

/// Most findings kept of all nodes, those with the most outlived connections.
const FINDINGS_MAX: usize = 5_000;
/// Most instances listed of a finding; its sums have them all.
const INSTANCES_MAX: usize = 10_000;
/// Most populations, resolved findings, and processes with limits kept of all nodes.
const BESIDE_MAX: usize = 2_000;
/// Redacted requests of a finding.
const EXAMPLES_MAX: usize = 5;

/// Reports that are added up.
#[derive(Debug, Default)]
pub struct Merge {
    sum: Option<Report>,
    nodes: Vec<(usize, Node)>,
    /// Of each id where it is in the sum, and what the worst node has of it.
    known: HashMap<String, (usize, u64)>,
    unsettled: BTreeSet<String>,
    left_out: usize,
}

impl Merge {
    /// Adds one daemon's report.
    pub fn add(&mut self, who: Who, mut report: Report) {
        if who.alone {
            self.sum = Some(report);
            return;
        }
        for finding in &mut report.findings {
            name_instances(finding, &who.name);
        }
        name_resources(&mut report.resources, &who.name);
        for population in &mut report.populations {
            population.node.get_or_insert_with(|| who.name.clone());
        }
        self.nodes.push(answered(who, report.coverage.take()));
        self.unsettled.extend(report.unsettled.drain(..));
        let findings = mem::take(&mut report.findings);
        let sum = match &mut self.sum {
            Some(sum) => {
                add(sum, report);
                sum
            }
            None => self.sum.insert(report),
        };
        for finding in findings {
            let outlived = finding.connections.outlived;
            match self.known.get_mut(&finding.id) {
                Some((index, worst)) => {
                    let known = &mut sum.findings[*index];
                    add_finding(known, finding, outlived > *worst);
                    *worst = outlived.max(*worst);
                }
                None => {
                    let index = sum.findings.len();
                    self.known.insert(finding.id.clone(), (index, outlived));
                    sum.findings.push(finding);
                }
            }
        }
        if sum.findings.len() > 2 * FINDINGS_MAX {
            self.left_out += sum.findings.len() - FINDINGS_MAX;
            (sum.findings).sort_by_key(|finding| Reverse(finding.connections.outlived));
            let worst: HashMap<String, u64> = (self.known.drain())
                .map(|(id, (_, worst))| (id, worst))
                .collect();
            sum.findings.truncate(FINDINGS_MAX);
            let kept = sum.findings.iter().enumerate();
            self.known = kept
                .map(|(index, finding)| {
                    let worst = worst.get(&finding.id).copied().unwrap_or(0);
                    (finding.id.clone(), (index, worst))
                })
                .collect();
        }
    }

    /// The report of all who were asked; `None` when none answered. With a single daemon asked, its
    /// report stays as it is.
    #[must_use]
    pub fn finish(mut self, asked: &Asked) -> Option<Report> {
        let mut merged = self.sum?;
        if !asked.several() {
            return Some(merged);
        }
        for finding in &mut merged.findings {
            in_order(finding);
        }
        merged
            .resolved
            .retain(|over| !self.known.contains_key(&over.id));
        trim_resolved(&mut merged.resolved, BESIDE_MAX);
        trim_populations(&mut merged.populations, BESIDE_MAX);
        trim_resources(&mut merged.resources, BESIDE_MAX);
        for (who, error) in &asked.silent {
            self.unsettled
                .insert(format!("{} did not answer: {error}", who.name));
        }
        if self.left_out > 0 {
            self.unsettled.insert(format!(
                "{} findings with the fewest connections were left out: there are too many.",
                self.left_out
            ));
        }
        merged.unsettled = self.unsettled.into_iter().collect();
        merged.nodes = Some(in_places(self.nodes, asked));
        merged.schema = SCHEMA;
        settle(&mut merged);
        Some(merged)
    }
}

/// The merged report of daemons, and who they are.
///
/// # Errors
/// As [`Fleet::ask`].
pub fn ask(fleet: &Fleet) -> Result<(Option<Report>, Asked), Failure> {
    let mut merge = Merge::default();
    let asked = fleet.ask("/v1/report", |who, report| merge.add(who, report))?;
    Ok((merge.finish(&asked), asked))
}

/// What daemons know of one finding, added up.
#[derive(Debug, Default)]
pub struct Details {
    sum: Option<FindingDetail>,
    /// What the worst node has, outlived.
    worst: u64,
    /// There are other findings, too.
    pub others: bool,
    nodes: Vec<(usize, Node)>,
}

impl Details {
    /// Adds one daemon's answer.
    pub fn add(&mut self, who: Who, mut detail: FindingDetail) {
        if who.alone {
            self.sum = Some(detail);
            return;
        }
        name_instances(&mut detail.finding, &who.name);
        name_resources(&mut detail.resources, &who.name);
        self.nodes.push(answered(who, None));
        let outlived = detail.finding.connections.outlived;
        match &mut self.sum {
            None => self.sum = Some(detail),
            Some(known) if known.finding.id == detail.finding.id => {
                let worse = outlived > self.worst;
                if worse {
                    mem::swap(&mut known.timeline, &mut detail.timeline);
                }
                known.observed_at = known.observed_at.max(detail.observed_at);
                known.resources.extend(detail.resources);
                trim_resources(&mut known.resources, BESIDE_MAX);
                add_finding(&mut known.finding, detail.finding, worse);
            }
            Some(_) => self.others = true,
        }
        self.worst = self.worst.max(outlived);
    }

    /// Counts a daemon that answered that there is no such finding.
    pub fn knows_nothing(&mut self, who: Who) {
        self.nodes.push(answered(who, None));
    }

    /// The finding with the timeline of the daemon that has most of it; `None` when none knows it.
    #[must_use]
    pub fn finish(mut self, asked: &Asked) -> Option<FindingDetail> {
        let mut detail = self.sum?;
        if asked.several() {
            in_order(&mut detail.finding);
            detail.nodes = Some(in_places(mem::take(&mut self.nodes), asked));
        }
        Some(detail)
    }
}

/// An entry for a daemon that answered.
pub fn answered(who: Who, coverage: Option<Coverage>) -> (usize, Node) {
    let node = Node {
        endpoint: who.name,
        coverage,
        error: None,
    };
    (who.place, node)
}

/// Those who answered and those who did not, in the order of the endpoints.
pub fn in_places(mut answered: Vec<(usize, Node)>, asked: &Asked) -> Vec<Node> {
    answered.extend(asked.nodes());
    answered.sort_by_key(|(place, _)| *place);
    answered.into_iter().map(|(_, node)| node).collect()
}

/// Says of a finding's instances on which node they are.
fn name_instances(finding: &mut Finding, node: &str) {
    for instance in &mut finding.instances {
        instance.node.get_or_insert_with(|| node.to_owned());
    }
}

/// Says of limits of which node they are.
fn name_resources(resources: &mut [Resources], node: &str) {
    for one in resources {
        one.node.get_or_insert_with(|| node.to_owned());
    }
}

fn in_order(finding: &mut Finding) {
    (finding.instances).sort_by(|a, b| {
        let key = |i: &Instance| (Reverse(i.connections), i.node.clone(), i.pid);
        key(a).cmp(&key(b))
    });
    finding.instances.truncate(INSTANCES_MAX);
}

fn trim_resolved(resolved: &mut Vec<Finding>, most: usize) {
    resolved.sort_by_key(|over| (Reverse(over.resolved_at), over.id.clone()));
    let mut seen = BTreeSet::new();
    resolved.retain(|over| seen.insert(over.id.clone()));
    resolved.truncate(most);
}

fn trim_populations(populations: &mut Vec<Population>, most: usize) {
    populations.sort_by_key(|one| (Reverse(one.open), one.node.clone(), one.pid));
    populations.truncate(most);
}

/// Keeps those whose limits are the nearest.
fn trim_resources(resources: &mut Vec<Resources>, most: usize) {
    let left = |one: &Resources| {
        let ports = one.ephemeral_ports.iter();
        let ports = ports.filter_map(|ports| ports.exhausted_in_seconds);
        one.exhausted_in_seconds.into_iter().chain(ports).min()
    };
    let used = |one: &Resources| one.fds_open.saturating_mul(1_000) / one.fds_limit.max(1);
    resources.sort_by_key(|one| {
        let left = left(one).unwrap_or(u64::MAX);
        (left, Reverse(used(one)), one.node.clone(), one.pid)
    });
    resources.truncate(most);
}

fn add(merged: &mut Report, report: Report) {
    merged.started_at = merged.started_at.min(report.started_at);
    merged.duration_seconds = merged.duration_seconds.max(report.duration_seconds);
    merged.ignored += report.ignored;
    merged.settle_seconds = match (merged.settle_seconds, report.settle_seconds) {
        (Some(one), Some(two)) => Some(one.max(two)),
        (one, two) => one.or(two),
    };
    merged.populations.extend(report.populations);
    merged.resources.extend(report.resources);
    merged.resolved.extend(report.resolved);
    let most = 2 * BESIDE_MAX;
    if merged.populations.len() > most {
        trim_populations(&mut merged.populations, BESIDE_MAX);
    }
    if merged.resources.len() > most {
        trim_resources(&mut merged.resources, BESIDE_MAX);
    }
    if merged.resolved.len() > most {
        trim_resolved(&mut merged.resolved, BESIDE_MAX);
    }
}

/// Adds another node's instances to a finding. The words are those of the worst one.
fn add_finding(known: &mut Finding, mut other: Finding, worse: bool) {
    if worse {
        mem::swap(known, &mut other);
    }
    known.confidence = known.confidence.max(other.confidence);
    for kind in other.also.into_iter().chain([other.kind]) {
        if kind != known.kind && !known.also.contains(&kind) {
            known.also.push(kind);
        }
    }
    known.also.retain(|&kind| kind != known.kind);
    known.also.sort_unstable();
    known.instances.extend(other.instances);
    if known.instances.len() > 2 * INSTANCES_MAX {
        in_order(known);
    }
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
        let examples = &mut known.remote.examples;
        if examples.len() < EXAMPLES_MAX && !examples.contains(&example) {
            examples.push(example);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use hyper::StatusCode;

    use super::*;
    use crate::{cli::client::AskError, report::Verdict, samples};

    fn answer(name: &str, result: Result<Report, &str>) -> (String, Result<Report, AskError>) {
        let refused =
            |said: &str| AskError::Refused(StatusCode::SERVICE_UNAVAILABLE, said.to_owned());
        (format!("http://{name}"), result.map_err(refused))
    }

    fn merge(answers: Vec<(String, Result<Report, AskError>)>) -> Option<Report> {
        let mut merge = Merge::default();
        let mut asked = Asked {
            daemons: answers.len(),
            ..Asked::default()
        };
        for (place, (name, result)) in answers.into_iter().enumerate() {
            let alone = asked.daemons == 1;
            let who = Who { place, name, alone };
            match result {
                Ok(report) => merge.add(who, report),
                Err(error) => asked.silent.push((who, error)),
            }
        }
        merge.finish(&asked)
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
    fn the_words_are_those_of_the_worst_node_whoever_comes_first() {
        let of = |pid, outlived| {
            let mut report = samples::report();
            report.findings[0].process.pid = pid;
            report.findings[0].connections.outlived = outlived;
            report
        };
        let merged = merge(vec![
            answer("a:1", Ok(of(1, 400))),
            answer("b:1", Ok(of(2, 500))),
            answer("c:1", Ok(of(3, 700))),
            answer("d:1", Ok(of(4, 600))),
        ]);
        let finding = &merged.unwrap().findings[0];
        assert_eq!(
            (finding.process.pid, finding.connections.outlived),
            (3, 2200)
        );
        assert!(finding.remote.examples.len() <= EXAMPLES_MAX);
    }

    #[test]
    fn of_too_much_the_worst_is_kept_and_the_rest_is_said() {
        let mut merge = Merge::default();
        let mut number = 0;
        for place in 0..12 {
            let mut report = samples::report();
            report.findings = (0..1_000)
                .map(|_| {
                    number += 1;
                    let mut finding = samples::finding();
                    finding.id = format!("{number:016x}");
                    finding.connections.outlived = number;
                    finding
                })
                .collect();
            report.resources = vec![Resources::default(); 1_000];
            let name = format!("n{place}");
            let alone = false;
            merge.add(Who { place, name, alone }, report);
        }
        let asked = Asked {
            daemons: 12,
            ..Asked::default()
        };
        let merged = merge.finish(&asked).unwrap();
        let kept: u64 = merged
            .findings
            .iter()
            .map(|f| f.connections.outlived)
            .min()
            .unwrap();
        assert_eq!((merged.findings.len(), kept), (6_000, 6_001));
        assert_eq!(merged.resources.len(), BESIDE_MAX);
        assert!(
            merged.unsettled[0].starts_with("6000 findings"),
            "{:?}",
            merged.unsettled
        );
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
