//! Prometheus metrics of a report and of the tracer itself.
//!
//! Base units, timestamps rather than ages, few labels, none of which is a process or a pod: series
//! stay what they are when those are replaced. Series per finding, program and destination are
//! capped: the largest keep their own, the rest are added up in one called `other`, so that sums stay
//! right. `docs/metrics.md` lists them all.

mod leaks;
mod limits;

use std::{
    collections::{BTreeMap, HashMap, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
};

use prometheus::{
    CounterVec, GaugeVec, Opts, Registry, Result, TextEncoder,
    core::{Collector, Desc},
    proto::{Bucket, Histogram, Metric, MetricFamily, MetricType},
};

use self::{leaks::findings, limits::limits};
use crate::{
    report::{Coverage, Report},
    session::Health,
};

/// Content type of the text format.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;
/// Longest label value; C++ and Rust names can be absurdly long.
const LABEL_MAX: usize = 120;
const OTHER: &str = "other";
/// Before the name of every metric.
const PREFIX: &str = "tracer";

/// Labels of what is told of findings and programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Labels {
    /// Program, namespace and, of a finding, workload, kind, call site and remote.
    #[default]
    Present,
    /// Those of 0.1: of a finding kind and call site, of descriptors the process.
    Former,
}

/// Counters summed over processes: a process that ends takes its numbers away, the totals stay.
#[derive(Debug, Default)]
pub struct Totals {
    connect_errors: BTreeMap<String, u64>,
    /// Latest numbers by process and errno.
    latest: HashMap<(u32, String), u64>,
    /// Events by destination and what became of them.
    events: Vec<([&'static str; 2], u64)>,
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

    /// Takes what has become of events so far, by destination.
    pub fn note(&mut self, events: impl Iterator<Item = ([&'static str; 2], u64)>) {
        self.events = events.collect();
    }
}

/// Encodes everything in the text format.
///
/// # Errors
/// [`prometheus::Error`] naming the metric that can't be encoded.
pub fn encode(report: &Report, health: &Health, totals: &Totals, labels: Labels) -> Result<String> {
    let registry = registry(report, health, totals, labels)?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn registry(report: &Report, health: &Health, totals: &Totals, labels: Labels) -> Result<Registry> {
    let page = Page {
        registry: Registry::new_custom(Some(PREFIX.to_owned()), None)?,
    };
    page.gauge(
        "build_info",
        "Version of the tracer; always 1.",
        ["version"],
        [([env!("CARGO_PKG_VERSION")], 1.0)],
    )?;
    page.gauge(
        "watch_start_timestamp_seconds",
        "When watching began, seconds since 1970.",
        [],
        [([], report.started_at.as_second() as f64)],
    )?;
    if let Some(coverage) = &report.coverage {
        connections(&page, coverage)?;
    }
    findings(&page, report, labels)?;
    limits(&page, &report.resources, labels)?;
    let errors = totals.connect_errors.iter();
    page.counter(
        "connect_errors_total",
        "Failed connects by error.",
        ["errno"],
        errors.map(|(errno, &count)| ([errno.as_str()], count as f64)),
    )?;
    let events = totals.events.iter();
    page.counter(
        "events_total",
        "Changes of findings by whom they were for (`webhook`, `otlp`) and whether they were sent, failed, \
         or were dropped for want of room.",
        ["destination", "result"],
        events.map(|&(labels, count)| (labels, count as f64)),
    )?;
    own_health(&page, report.coverage.as_ref(), health)?;
    if !health.lifetimes.is_empty() {
        page.registry.register(Box::new(Lifetimes::new(health)?))?;
    }
    Ok(page.registry)
}

/// The metrics of one answer. The registry refuses one name twice and labels that do not fit.
struct Page {
    registry: Registry,
}

impl Page {
    /// Samples with the same labels are added up.
    fn gauge<'a, const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        samples: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) -> Result<()> {
        let gauges = GaugeVec::new(Opts::new(name, help), &labels)?;
        for (values, value) in samples {
            gauges.get_metric_with_label_values(&values)?.add(value);
        }
        self.registry.register(Box::new(gauges))
    }

    /// As [`Page::gauge`].
    fn counter<'a, const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        samples: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) -> Result<()> {
        let counters = CounterVec::new(Opts::new(name, help), &labels)?;
        for (values, value) in samples {
            counters
                .get_metric_with_label_values(&values)?
                .inc_by(value);
        }
        self.registry.register(Box::new(counters))
    }
}

/// A label value of bounded length: what is cut off is told apart by a hash, so that two long
/// names don't become one.
fn label(value: &str) -> String {
    if value.chars().nth(LABEL_MAX).is_none() {
        return value.to_owned();
    }
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    let mark = format!("…{:016x}", hasher.finish());
    let kept = LABEL_MAX - mark.chars().count();
    value.chars().take(kept).collect::<String>() + &mark
}

fn connections(page: &Page, coverage: &Coverage) -> Result<()> {
    page.gauge(
        "connections_open",
        "Open connections.",
        [],
        [([], coverage.sockets_tracked as f64)],
    )?;
    page.gauge(
        "connections_unattributed",
        "Open connections whose owner or stack is unknown.",
        [],
        [([], coverage.sockets_unattributed as f64)],
    )?;
    page.counter(
        "connections_opened_total",
        "Connections that came into view: opened, accepted, or found open.",
        [],
        [([], coverage.sockets_seen as f64)],
    )?;
    page.counter(
        "connections_closed_total",
        "Connections that ended.",
        [],
        [([], coverage.sockets_folded as f64)],
    )
}

/// Keeps the largest entries and adds the others up under `other`; largest first, `other` last.
fn capped<T: Clone, const N: usize>(
    all: HashMap<[&str; N], T>,
    most: usize,
    size: impl Fn(&T) -> f64,
    add: impl Fn(&mut T, &T),
) -> Vec<([&str; N], T)> {
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
        match sorted.iter_mut().find(|(key, _)| *key == [OTHER; N]) {
            Some((_, known)) => sum.iter().for_each(|sum| add(known, sum)),
            None => sorted.extend(sum.map(|sum| ([OTHER; N], sum))),
        }
    }
    sorted
}

fn own_health(page: &Page, coverage: Option<&Coverage>, health: &Health) -> Result<()> {
    if let Some(coverage) = coverage {
        let losses = coverage.losses.iter();
        page.counter(
            "lost_events_total",
            "Events that were not recorded, by cause, healed or not.",
            ["cause"],
            losses.map(|(cause, &lost)| ([cause.as_str()], lost as f64)),
        )?;
        let refused = coverage.refused.iter();
        page.counter(
            "refused_total",
            "What programs and clients put before the tracer and was refused, by what it was and why.",
            ["what", "reason"],
            refused.map(|r| ([r.what.as_str(), r.reason.as_str()], r.count as f64)),
        )?;
        page.gauge(
            "lost_events_unhealed",
            "Events that were lost and could not be made up for.",
            [],
            [([], coverage.lost_events as f64)],
        )?;
        page.gauge(
            "attached_programs",
            "Attached eBPF programs.",
            [],
            [([], coverage.attached.len() as f64)],
        )?;
        page.gauge(
            "degraded_features",
            "Things that can't be seen on this kernel or with these privileges.",
            [],
            [([], coverage.degraded.len() as f64)],
        )?;
    }
    let maps = health.maps.iter();
    page.gauge(
        "map_entries",
        "Entries in use of the kernel maps.",
        ["map"],
        maps.map(|(map, used, _)| ([map.as_str()], *used as f64)),
    )?;
    let maps = health.maps.iter();
    page.gauge(
        "map_max_entries",
        "Capacity of the kernel maps.",
        ["map"],
        maps.map(|(map, _, most)| ([map.as_str()], *most as f64)),
    )?;
    let programs = health.programs.iter();
    page.counter(
        "program_run_seconds_total",
        "Time spent in the eBPF programs; 0 unless kernel.bpf_stats_enabled is set.",
        ["program"],
        programs.map(|(name, ns, _)| ([name.as_str()], *ns as f64 / 1e9)),
    )?;
    let programs = health.programs.iter();
    page.counter(
        "program_runs_total",
        "Runs of the eBPF programs; 0 unless kernel.bpf_stats_enabled is set.",
        ["program"],
        programs.map(|(name, _, runs)| ([name.as_str()], *runs as f64)),
    )
}

/// Lifetimes that were counted in buckets already, which the library's own histogram can't take.
struct Lifetimes {
    desc: Desc,
    histogram: Histogram,
}

impl Lifetimes {
    fn new(health: &Health) -> Result<Lifetimes> {
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
        Ok(Lifetimes {
            desc: Desc::new(
                "connection_lifetime_seconds".to_owned(),
                "Lifetimes of connections that ended.".to_owned(),
                Vec::new(),
                HashMap::new(),
            )?,
            histogram,
        })
    }
}

impl Collector for Lifetimes {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut metric = Metric::default();
        metric.set_histogram(self.histogram.clone());
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(MetricType::HISTOGRAM);
        family.set_metric(vec![metric]);
        vec![family]
    }
}

#[cfg(test)]
mod tests;
