//! What findings are in numbers.

use std::collections::{BTreeMap, HashMap};

use prometheus::Result;

use super::{Labels, Page, capped, label};
use crate::report::{Finding, Report};

/// Series of findings that keep their own labels.
pub const FINDINGS_MAX: usize = 50;

/// Sums of the findings that share their labels.
#[derive(Debug, Default, Clone)]
struct Leak {
    outlived: f64,
    growth_per_second: f64,
    oldest: Option<f64>,
    first_seen: Option<f64>,
}

impl Leak {
    fn add(&mut self, other: &Leak) {
        self.outlived += other.outlived;
        self.growth_per_second += other.growth_per_second;
        self.oldest = earlier(self.oldest, other.oldest);
        self.first_seen = earlier(self.first_seen, other.first_seen);
    }
}

fn earlier(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Labels of a finding. A label that is empty is none to Prometheus.
pub const FINDING: [&str; 6] = [
    "program",
    "namespace",
    "workload",
    "kind",
    "call_site",
    "remote",
];

/// The leaks, by finding and in numbers.
pub fn findings(page: &Page, report: &Report, labels: Labels) -> Result<()> {
    let mut by_confidence = BTreeMap::from([("high", 0.0), ("low", 0.0), ("medium", 0.0)]);
    let texts: Vec<[String; 6]> = report
        .findings
        .iter()
        .map(|finding| finding_labels(finding, labels))
        .collect();
    let mut by_site: HashMap<[&str; 6], Leak> = HashMap::new();
    for (finding, labels) in report.findings.iter().zip(&texts) {
        *by_confidence.entry(finding.confidence.name()).or_default() += 1.0;
        let first_seen = finding.instances.iter().map(|i| i.first_seen_at).min();
        by_site
            .entry(labels.each_ref().map(String::as_str))
            .or_default()
            .add(&Leak {
                outlived: finding.connections.outlived as f64,
                growth_per_second: finding.growth_per_minute / 60.0,
                oldest: finding.oldest_opened_at.map(|at| at.as_second() as f64),
                first_seen: first_seen.map(|at| at.as_second() as f64),
            });
    }
    page.gauge(
        "findings",
        "Findings by confidence.",
        ["confidence"],
        by_confidence.iter().map(|(name, &count)| ([*name], count)),
    )?;
    page.gauge(
        "findings_ignored",
        "Findings hidden by the ignore list.",
        [],
        [([], report.ignored as f64)],
    )?;
    page.gauge(
        "findings_resolved",
        "Findings that are over, of those that are remembered.",
        [],
        [([], report.resolved.len() as f64)],
    )?;
    let leaks = capped(by_site, FINDINGS_MAX, |leak| leak.outlived, Leak::add);
    let sample = |value: fn(&Leak) -> Option<f64>| {
        let leaks = leaks.iter();
        leaks.filter_map(move |(labels, leak)| Some((*labels, value(leak)?)))
    };
    page.gauge(
        "leaked_connections",
        "Open connections past the end of their request, by finding.",
        FINDING,
        sample(|leak| Some(leak.outlived)),
    )?;
    page.gauge(
        "leaked_connections_growth_per_second",
        "Growth of leaked connections, by finding.",
        FINDING,
        sample(|leak| Some(leak.growth_per_second)),
    )?;
    page.gauge(
        "leaked_connections_oldest_timestamp_seconds",
        "When the oldest of them was opened, seconds since 1970.",
        FINDING,
        sample(|leak| leak.oldest),
    )?;
    page.gauge(
        "leaked_connections_first_seen_timestamp_seconds",
        "When the leak was first told of, seconds since 1970.",
        FINDING,
        sample(|leak| leak.first_seen),
    )
}

fn finding_labels(finding: &Finding, labels: Labels) -> [String; 6] {
    let kind = finding.kind.name().to_owned();
    let process = &finding.process;
    let workload = process.workload.as_ref().map(|of| of.name.as_str());
    let [program, namespace, workload, remote] = match labels {
        Labels::Former => [const { String::new() }; 4],
        Labels::Present => [
            label(&process.comm),
            label(process.namespace.as_deref().unwrap_or_default()),
            label(workload.unwrap_or_default()),
            label(remote(finding)),
        ],
    };
    [program, namespace, workload, kind, site(finding), remote]
}

/// The authority at the other end, or the path of a UNIX socket; of a server where it listens.
fn remote(finding: &Finding) -> &str {
    let remote = &finding.remote;
    let of_url = || {
        let (_, rest) = remote.url.as_deref()?.split_once("://")?;
        rest.split('/')
            .next()
            .filter(|authority| !authority.is_empty())
    };
    let local = finding.local.as_deref().or(remote.path.as_deref());
    let named = local.or_else(of_url).or(remote.host.as_deref());
    named.unwrap_or(&remote.address)
}

/// The call site as a label.
fn site(finding: &Finding) -> String {
    let site = finding.call_site.as_ref();
    site.map_or("unknown".to_owned(), |site| label(&site.function))
}
