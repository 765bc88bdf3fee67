//! Prometheus metrics of a report and of the tracer itself.
//!
//! Base units, timestamps rather than ages, few labels. Series per finding, process and
//! destination are capped: the largest keep their own, the rest are added up in one called
//! `other`, so that sums stay right.

use std::collections::{BTreeMap, HashMap};

use prometheus::{
    TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::{
    report::{Coverage, Finding, Report, Resources},
    session::Health,
};

/// Content type of the text format.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;
/// Series of findings that keep their own labels.
const FINDINGS_MAX: usize = 50;
/// Processes, and destinations, that keep their own labels.
const LIMITS_MAX: usize = 50;
/// Longest label value; C++ and Rust names can be absurdly long.
const LABEL_MAX: usize = 120;
const OTHER: &str = "other";

/// Counters summed over processes: a process that ends takes its numbers away, the totals stay.
#[derive(Debug, Default)]
pub struct Totals {
    connect_errors: BTreeMap<String, u64>,
    /// Latest numbers by process and errno.
    latest: HashMap<(u32, String), u64>,
}

impl Totals {
    /// Takes in what is new in a report.
    pub fn add(&mut self, report: &Report) {
        let mut latest = HashMap::new();
        for resources in &report.resources {
            for (errno, &count) in &resources.connect_errors {
                let key = (resources.pid, errno.clone());
                let before = self.latest.get(&key).copied().unwrap_or_default();
                // A smaller number is another process with the same pid.
                let new = count.checked_sub(before).unwrap_or(count);
                *self.connect_errors.entry(errno.clone()).or_default() += new;
                latest.insert(key, count);
            }
        }
        self.latest = latest;
    }
}

/// Encodes everything in the text format.
///
/// # Errors
/// A message naming the metric that can't be encoded.
pub fn encode(report: &Report, health: &Health, totals: &Totals) -> Result<String, String> {
    let mut families = Vec::new();
    let out = &mut families;
    gauge(
        out,
        "build_info",
        "Version of the tracer; always 1.",
        [(vec![("version", env!("CARGO_PKG_VERSION"))], 1.0)],
    );
    gauge(
        out,
        "watch_start_timestamp_seconds",
        "When watching began, seconds since 1970.",
        [(vec![], report.started_at.as_second() as f64)],
    );
    if let Some(coverage) = &report.coverage {
        connections(out, coverage);
    }
    findings(out, report);
    limits(out, &report.resources);
    let errors = totals.connect_errors.iter();
    counter(
        out,
        "connect_errors_total",
        "Failed connects by error.",
        errors.map(|(errno, &count)| (vec![("errno", errno.as_str())], count as f64)),
    );
    own_health(out, report.coverage.as_ref(), health);
    lifetimes(out, health);
    TextEncoder::new()
        .encode_to_string(&families)
        .map_err(|error| format!("the metrics cannot be encoded: {error}"))
}

type Sample<'a> = (Vec<(&'static str, &'a str)>, f64);

fn family(out: &mut Vec<MetricFamily>, name: &str, help: &str, kind: MetricType, all: Vec<Metric>) {
    // The encoder refuses families without samples.
    if all.is_empty() {
        return;
    }
    let mut family = MetricFamily::default();
    family.set_name(format!("tracer_{name}"));
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(all);
    out.push(family);
}

fn labelled(labels: &[(&'static str, &str)]) -> Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value.chars().take(LABEL_MAX).collect());
        pair
    });
    Metric::from_label(pairs.collect())
}

fn gauge<'a>(
    out: &mut Vec<MetricFamily>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = Sample<'a>>,
) {
    let metrics = samples.into_iter().map(|(labels, value)| {
        let mut metric = labelled(&labels);
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
        metric
    });
    family(out, name, help, MetricType::GAUGE, metrics.collect());
}

fn counter<'a>(
    out: &mut Vec<MetricFamily>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = Sample<'a>>,
) {
    let metrics = samples.into_iter().map(|(labels, value)| {
        let mut metric = labelled(&labels);
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
        metric
    });
    family(out, name, help, MetricType::COUNTER, metrics.collect());
}

fn connections(out: &mut Vec<MetricFamily>, coverage: &Coverage) {
    gauge(
        out,
        "connections_open",
        "Open connections.",
        [(vec![], coverage.sockets_tracked as f64)],
    );
    gauge(
        out,
        "connections_unattributed",
        "Open connections whose owner or stack is unknown.",
        [(vec![], coverage.sockets_unattributed as f64)],
    );
    counter(
        out,
        "connections_opened_total",
        "Connections that came into view: opened, accepted, or found open.",
        [(vec![], coverage.sockets_seen as f64)],
    );
    counter(
        out,
        "connections_closed_total",
        "Connections that ended.",
        [(vec![], coverage.sockets_folded as f64)],
    );
}

/// Sums of the findings that share their labels.
#[derive(Debug, Default, Clone)]
struct Leak {
    outlived: f64,
    growth_per_second: f64,
    oldest: Option<f64>,
}

impl Leak {
    fn add(&mut self, other: &Leak) {
        self.outlived += other.outlived;
        self.growth_per_second += other.growth_per_second;
        self.oldest = match (self.oldest, other.oldest) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
    }
}

fn findings(out: &mut Vec<MetricFamily>, report: &Report) {
    let mut by_confidence = BTreeMap::from([("high", 0.0), ("low", 0.0), ("medium", 0.0)]);
    let mut by_site: HashMap<(&str, &str), Leak> = HashMap::new();
    for finding in &report.findings {
        *by_confidence.entry(confidence(finding)).or_default() += 1.0;
        let site = finding.call_site.as_ref();
        let site = site.map_or("unknown", |site| site.function.as_str());
        by_site
            .entry((finding.kind.name(), site))
            .or_default()
            .add(&Leak {
                outlived: finding.connections.outlived as f64,
                growth_per_second: finding.growth_per_minute / 60.0,
                oldest: finding.oldest_opened_at.map(|at| at.as_second() as f64),
            });
    }
    gauge(
        out,
        "findings",
        "Findings by confidence.",
        by_confidence
            .iter()
            .map(|(name, &count)| (vec![("confidence", *name)], count)),
    );
    gauge(
        out,
        "findings_ignored",
        "Findings hidden by the ignore list.",
        [(vec![], report.ignored as f64)],
    );
    let leaks = capped(by_site, FINDINGS_MAX, |leak| leak.outlived, Leak::add);
    let sample = |value: fn(&Leak) -> Option<f64>| {
        leaks.iter().filter_map(move |((kind, site), leak)| {
            Some((vec![("kind", *kind), ("call_site", *site)], value(leak)?))
        })
    };
    gauge(
        out,
        "leaked_connections",
        "Open connections past the end of their request, by kind of leak and call site.",
        sample(|leak| Some(leak.outlived)),
    );
    gauge(
        out,
        "leaked_connections_growth_per_second",
        "Growth of leaked connections, by kind of leak and call site.",
        sample(|leak| Some(leak.growth_per_second)),
    );
    gauge(
        out,
        "leaked_connections_oldest_timestamp_seconds",
        "When the oldest of them was opened, seconds since 1970.",
        sample(|leak| leak.oldest),
    );
}

fn confidence(finding: &Finding) -> &'static str {
    use crate::model::Confidence::{High, Low, Medium};
    match finding.confidence {
        Low => "low",
        Medium => "medium",
        High => "high",
    }
}

/// Keeps the largest entries and adds the others up under `other`; largest first, `other` last.
fn capped<'a, T: Clone>(
    all: HashMap<(&'a str, &'a str), T>,
    most: usize,
    size: impl Fn(&T) -> f64,
    add: impl Fn(&mut T, &T),
) -> Vec<((&'a str, &'a str), T)> {
    let mut sorted: Vec<_> = all.into_iter().collect();
    sorted.sort_by(|(a_key, a), (b_key, b)| {
        size(b).total_cmp(&size(a)).then_with(|| a_key.cmp(b_key))
    });
    if sorted.len() > most {
        let rest = sorted.split_off(most);
        let mut sum: Option<T> = None;
        for (_, value) in &rest {
            match &mut sum {
                Some(sum) => add(sum, value),
                None => sum = Some(value.clone()),
            }
        }
        // A finding may itself be called so.
        match sorted.iter_mut().find(|(key, _)| *key == (OTHER, OTHER)) {
            Some((_, known)) => sum.iter().for_each(|sum| add(known, sum)),
            None => sorted.extend(sum.map(|sum| ((OTHER, OTHER), sum))),
        }
    }
    sorted
}

/// Used against limit.
#[derive(Debug, Default, Clone)]
struct Limit {
    used: f64,
    limit: f64,
}

impl Limit {
    fn add(&mut self, other: &Limit) {
        self.used += other.used;
        self.limit += other.limit;
    }

    fn fill(&self) -> f64 {
        if self.limit > 0.0 {
            self.used / self.limit
        } else {
            0.0
        }
    }
}

fn limits(out: &mut Vec<MetricFamily>, resources: &[Resources]) {
    let pids: Vec<String> = resources.iter().map(|one| one.pid.to_string()).collect();
    let mut files: HashMap<(&str, &str), Limit> = HashMap::new();
    let mut ports: HashMap<(&str, &str), Limit> = HashMap::new();
    for (one, pid) in resources.iter().zip(&pids) {
        files.insert(
            (pid, ""),
            Limit {
                used: one.fds_open as f64,
                limit: match one.fds_limit {
                    u64::MAX => f64::INFINITY,
                    limit => limit as f64,
                },
            },
        );
        for port in &one.ephemeral_ports {
            // Several processes may talk to one destination; the range of ports is the host's.
            let entry = ports.entry((&port.destination, "")).or_default();
            entry.used += port.used as f64;
            entry.limit = entry.limit.max(port.available as f64);
        }
    }
    let files = capped(files, LIMITS_MAX, Limit::fill, Limit::add);
    let ports = capped(ports, LIMITS_MAX, Limit::fill, Limit::add);
    for (name, help, value) in [
        (
            "process_open_fds",
            "Open file descriptors of watched processes.",
            (|limit: &Limit| limit.used) as fn(&Limit) -> f64,
        ),
        (
            "process_max_fds",
            "Their soft limit of file descriptors.",
            |limit: &Limit| limit.limit,
        ),
    ] {
        let samples = files
            .iter()
            .map(|((pid, _), limit)| (vec![("pid", *pid)], value(limit)));
        gauge(out, name, help, samples);
    }
    for (name, help, value) in [
        (
            "ephemeral_ports_used",
            "Ephemeral ports in use towards a destination.",
            (|limit: &Limit| limit.used) as fn(&Limit) -> f64,
        ),
        (
            "ephemeral_ports_available",
            "Size of the range of ephemeral ports.",
            |limit: &Limit| limit.limit,
        ),
    ] {
        let samples = ports.iter();
        let samples = samples.map(|((to, _), limit)| (vec![("destination", *to)], value(limit)));
        gauge(out, name, help, samples);
    }
}

fn own_health(out: &mut Vec<MetricFamily>, coverage: Option<&Coverage>, health: &Health) {
    if let Some(coverage) = coverage {
        counter(
            out,
            "lost_events_total",
            "Events that were not recorded, by cause, healed or not.",
            coverage
                .losses
                .iter()
                .map(|(cause, &lost)| (vec![("cause", cause.as_str())], lost as f64)),
        );
        gauge(
            out,
            "lost_events_unhealed",
            "Events that were lost and could not be made up for.",
            [(vec![], coverage.lost_events as f64)],
        );
        gauge(
            out,
            "attached_programs",
            "Attached eBPF programs.",
            [(vec![], coverage.attached.len() as f64)],
        );
        gauge(
            out,
            "degraded_features",
            "Things that can't be seen on this kernel or with these privileges.",
            [(vec![], coverage.degraded.len() as f64)],
        );
    }
    gauge(
        out,
        "map_entries",
        "Entries in use of the kernel maps.",
        health
            .maps
            .iter()
            .map(|(map, used, _)| (vec![("map", map.as_str())], *used as f64)),
    );
    gauge(
        out,
        "map_max_entries",
        "Capacity of the kernel maps.",
        health
            .maps
            .iter()
            .map(|(map, _, most)| (vec![("map", map.as_str())], *most as f64)),
    );
    counter(
        out,
        "program_run_seconds_total",
        "Time spent in the eBPF programs; 0 unless kernel.bpf_stats_enabled is set.",
        health
            .programs
            .iter()
            .map(|(name, ns, _)| (vec![("program", name.as_str())], *ns as f64 / 1e9)),
    );
    counter(
        out,
        "program_runs_total",
        "Runs of the eBPF programs; 0 unless kernel.bpf_stats_enabled is set.",
        health
            .programs
            .iter()
            .map(|(name, _, runs)| (vec![("program", name.as_str())], *runs as f64)),
    );
}

fn lifetimes(out: &mut Vec<MetricFamily>, health: &Health) {
    if health.lifetimes.is_empty() {
        return;
    }
    let mut total = 0;
    let mut buckets = Vec::new();
    for &(bound, count) in &health.lifetimes {
        total += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(total);
        buckets.push(bucket);
    }
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(total);
    histogram.set_sample_sum(health.lifetime_sum_seconds);
    let mut metric = labelled(&[]);
    metric.set_histogram(histogram);
    family(
        out,
        "connection_lifetime_seconds",
        "Lifetimes of connections that ended.",
        MetricType::HISTOGRAM,
        vec![metric],
    );
}

#[cfg(test)]
mod tests;
