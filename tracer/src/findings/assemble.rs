//! From judged cohorts to the report.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{Identity, hints, library, naming, program, stragglers, verdict};
use crate::{
    engine::{
        self, Counts, Judgement,
        kinds::snippets::{self, Language},
    },
    model::{Cohort, Confidence, Family, GoPools, Pod, Process, Role, Site, StackQuality},
    report::{
        CallSite, CalledBy, Caller, Connections, Coverage, Finding, FindingState, GoInfo, Instance,
        Peer, Population, ProcessInfo, RemoteInfo, Report, Resources, ResponseCount, SCHEMA,
        StackFrame, Verdict,
    },
};

/// Examples kept per finding.
const EXAMPLES_MAX: usize = 5;

/// A judged cohort with what the report says about it beside the judgement.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspect {
    /// The judgement.
    pub judgement: Judgement,
    /// The population it is about.
    pub cohort: Cohort,
    /// What that population is.
    pub identity: Identity,
    /// Redacted requests, the latest first.
    pub examples: Vec<String>,
    /// Who called the function of the call site.
    pub callers: Vec<Caller>,
    /// The same with the number of leaked connections.
    pub called_by: Vec<CalledBy>,
    /// What a Go program's own pools say.
    pub go: Option<GoPools>,
    /// The Kubernetes pod of the process.
    pub pod: Option<Pod>,
}

/// A population that is no leak, with what is shown of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// What the engine says of it.
    pub watched: engine::Watched,
    /// What its members have in common.
    pub cohort: Cohort,
}

/// Everything a report is made from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// When watching began.
    pub started_at: Timestamp,
    /// How long was watched, seconds.
    pub duration_seconds: f64,
    /// Now, on the monotonic clock.
    pub now_ns: u64,
    /// One moment on both clocks, to turn monotonic nanoseconds into dates.
    pub clock: (u64, Timestamp),
    /// What could be seen.
    pub coverage: Coverage,
    /// Node name, when known.
    pub node: Option<&'a str>,
    /// The judged populations.
    pub suspects: Vec<Suspect>,
    /// The others.
    pub watched: Vec<Watched>,
    /// Those of which no connection lived long enough to be looked at.
    pub brief: Vec<Population>,
    /// Limits of the watched processes.
    pub resources: Vec<Resources>,
    /// Reasons of the collector's own why nothing can be concluded, as sentences: a target that
    /// ended before anything could be seen, a reconciliation that failed.
    pub unsettled: Vec<String>,
}

/// Says that the connections of a process grow although no finding explains it; `what` is the
/// engine's sentence without its subject.
#[must_use]
pub fn unexplained(process: &Process, what: &str) -> String {
    format!("Process {} ({}) {what}.", process.pid, process.comm)
}

/// Makes the report: one finding per id, worst first, with the verdict. What the configuration
/// ignores is taken out of it later, by whoever has the configuration.
#[must_use]
pub fn assemble(inputs: Inputs<'_>) -> Report {
    let mut groups: BTreeMap<String, Vec<&Suspect>> = BTreeMap::new();
    for suspect in &inputs.suspects {
        let id = suspect.identity.id(program(&suspect.cohort.process));
        groups.entry(id).or_default().push(suspect);
    }
    let mut findings: Vec<Finding> = stragglers::joined(library::merged(groups))
        .into_iter()
        .filter_map(|(id, group)| finding(id, group, &inputs))
        .collect();
    findings.sort_by(worst_first);
    let watched = stragglers::doubted(inputs.watched, &mut findings);

    let mut unsettled = inputs.unsettled;
    if inputs.coverage.lost_events > 0 {
        unsettled.push(format!(
            "{} events were lost and could not be made up for.",
            inputs.coverage.lost_events
        ));
    }
    let (verdict, inconclusive_because) = verdict(&findings, &unsettled);
    let settle_seconds = match verdict {
        Verdict::Inconclusive => inputs
            .suspects
            .iter()
            .filter_map(|s| s.judgement.settle_seconds)
            .max_by(f64::total_cmp)
            .map(f64::ceil),
        _ => None,
    };
    Report {
        schema: SCHEMA,
        verdict,
        started_at: inputs.started_at,
        duration_seconds: inputs.duration_seconds,
        coverage: Some(inputs.coverage),
        nodes: None,
        inconclusive_because,
        unsettled,
        settle_seconds,
        findings,
        resolved: Vec::new(),
        populations: (watched.iter().map(population))
            .chain(inputs.brief)
            .collect(),
        ignored: 0,
        resources: inputs.resources,
        baseline: None,
    }
}

fn worst_first(a: &Finding, b: &Finding) -> std::cmp::Ordering {
    b.confidence
        .cmp(&a.confidence)
        .then(b.growth_per_minute.total_cmp(&a.growth_per_minute))
        .then(b.connections.outlived.cmp(&a.connections.outlived))
        .then(a.id.cmp(&b.id))
}

/// One finding from all suspects with its id: the worst one gives process, stack and words.
fn finding(id: String, mut group: Vec<&Suspect>, inputs: &Inputs<'_>) -> Option<Finding> {
    group.sort_by(|a, b| {
        let own = |s: &Suspect| s.cohort.site.as_deref().is_some_and(|site| site.own);
        let key = |s: &Suspect| {
            let judgement = &s.judgement;
            (own(s), judgement.confidence, judgement.connections.outlived)
        };
        key(b)
            .cmp(&key(a))
            .then(a.cohort.process.pid.cmp(&b.cohort.process.pid))
    });
    let worst = *group.first()?;
    let (judgement, cohort) = (&worst.judgement, &worst.cohort);
    let site = cohort.site.as_deref();
    let quality = site.map_or(StackQuality::None, |s| s.quality);

    let mut connections = Counts::default();
    let mut also = judgement.also.clone();
    let mut instances: Vec<Instance> = Vec::new();
    for s in &group {
        let c = &s.judgement.connections;
        connections += *c;
        also.push(s.judgement.kind);
        also.extend(&s.judgement.also);
        let first_seen_at = inputs.date(s.judgement.first_seen_ns);
        match instances.iter_mut().find(|i| i.pid == s.cohort.process.pid) {
            Some(known) => {
                known.connections += c.open;
                known.first_seen_at = known.first_seen_at.min(first_seen_at);
            }
            None => instances.push(Instance {
                node: inputs.node.map(str::to_owned),
                pod: s.pod.as_ref().map(|pod| pod.name.clone()),
                pid: s.cohort.process.pid,
                connections: c.open,
                first_seen_at,
            }),
        }
    }
    also.sort_unstable();
    also.dedup();
    also.retain(|&k| k != judgement.kind);

    let requests: u64 = group.iter().map(|s| s.judgement.requests).sum();
    let growth: f64 = group.iter().map(|s| s.judgement.growth_per_minute).sum();
    let mut examples: Vec<String> = Vec::new();
    for example in group.iter().flat_map(|s| &s.examples) {
        if examples.len() < EXAMPLES_MAX && !examples.contains(example) {
            examples.push(example.clone());
        }
    }
    let callers = callers(&group);
    let library = site.and_then(library::library);
    let called_by = match library::callers(&group) {
        callers if library.is_some() && callers.len() > 1 => callers,
        _ => library::called_by(&group),
    };
    let mut evidence = judgement.evidence.clone();
    if instances.len() > 1 {
        evidence.push(format!(
            "{} processes have it; the numbers above are those of process {}.",
            instances.len(),
            cohort.process.pid
        ));
    }
    let mut confidence = judgement.confidence;
    if quality == StackQuality::None {
        confidence = confidence.min(Confidence::Medium);
        evidence.push("No stack could be taken, so the call site is unknown.".to_owned());
    }
    evidence.extend(site.and_then(|site| hints::explain(site, program(&cohort.process))));
    evidence.extend(stragglers::sentences(&group, worst));
    evidence.extend(site.and_then(|site| library::within(site, judgement.kind)));
    if let Some(library) = &library {
        let own = site.filter(|site| site.own).and_then(call_site);
        let again = site.is_some_and(|site| site.again.is_some());
        evidence.push(library::sentence(library, own.as_ref(), &called_by, again));
    }
    let library_leaks = library.is_some();
    let server = cohort.role == Role::Server;
    Some(Finding {
        id,
        kind: judgement.kind,
        also,
        confidence,
        role: cohort.role,
        process: process(worst),
        call_site: site.and_then(call_site),
        stack: site.map_or_else(Vec::new, StackFrame::of),
        library,
        callers,
        called_by,
        opener_stack: cohort
            .opener
            .as_deref()
            .map_or_else(Vec::new, StackFrame::of),
        instances,
        local: server.then(|| cohort.remote.address.clone()),
        stack_quality: quality,
        stack_of: site.map(|_| cohort.site_of),
        remote: remote(cohort, examples),
        leaked_per_request: match requests {
            0 => 0.0,
            n => round(connections.outlived as f64 / n as f64),
        },
        responses: responses(&group, requests),
        state: state(&group, inputs),
        resolved_at: None,
        resolved_because: None,
        connections: counts(connections),
        requests,
        growth_per_minute: round(growth),
        burst_period_seconds: judgement.burst_period_seconds.map(round),
        oldest_opened_at: group
            .iter()
            .filter_map(|s| s.judgement.oldest_opened_ns)
            .min()
            .map(|ns| inputs.date(ns)),
        evidence,
        advice: judgement.advice.to_owned(),
        snippet: site
            .filter(|_| !library_leaks)
            .and_then(|site| snippet(judgement, site, cohort)),
        go: worst.go.clone().map(GoInfo::from),
    })
}

fn call_site(site: &Site) -> Option<CallSite> {
    site.blamed().map(CallSite::from)
}

/// What to change at the call site, in its own language.
fn snippet(judgement: &Judgement, site: &Site, cohort: &Cohort) -> Option<String> {
    let file = site.blamed()?.file.as_deref();
    let language = Language::of(file, cohort.process.runtime.as_deref())?;
    snippets::of(judgement.kind, language).map(str::to_owned)
}

fn counts(c: Counts) -> Connections {
    Connections {
        open: c.open,
        outlived: c.outlived,
        opened: c.opened,
        closed: c.closed,
        peak_open: c.peak_open,
    }
}

fn population(watched: &Watched) -> Population {
    let Watched { watched, cohort } = watched;
    let remote = &cohort.remote;
    Population {
        node: None,
        pid: cohort.process.pid,
        comm: cohort.process.comm.clone(),
        call_site: cohort.site.as_deref().and_then(call_site),
        remote: match (&remote.host, cohort.role) {
            (Some(host), Role::Client) => host.clone(),
            _ => remote.address.clone(),
        },
        role: watched.role,
        open: watched.counts.open,
        opened: watched.counts.opened,
        closed: watched.counts.closed,
        reused: watched.reused,
        healthy_because: watched.because.clone(),
    }
}

/// A finding is new for its first minute.
const NEW_NS: u64 = 60_000_000_000;

/// The life of a finding, of which the eldest instance tells.
fn state(group: &[&Suspect], inputs: &Inputs<'_>) -> FindingState {
    let first_ns = group.iter().map(|s| s.judgement.first_seen_ns).min();
    let now_ns = inputs.now_ns;
    if group.iter().all(|s| s.judgement.back) {
        FindingState::Back
    } else if first_ns.is_none_or(|first| now_ns.saturating_sub(first) < NEW_NS) {
        FindingState::New
    } else if group.iter().any(|s| s.judgement.growth_per_minute > 0.0) {
        FindingState::Growing
    } else {
        FindingState::Steady
    }
}

/// Status codes of all suspects with one id, the most frequent first.
fn responses(group: &[&Suspect], requests: u64) -> Vec<ResponseCount> {
    let mut counts: BTreeMap<u16, u64> = BTreeMap::new();
    for &(status, count) in group.iter().flat_map(|s| &s.judgement.responses) {
        *counts.entry(status).or_default() += u64::from(count);
    }
    let mut all: Vec<ResponseCount> = counts
        .into_iter()
        .map(|(status, leaked)| ResponseCount {
            status,
            leaked,
            of: requests.max(leaked),
        })
        .collect();
    all.sort_by_key(|r| (std::cmp::Reverse(r.leaked), r.status));
    all
}

/// Callers of all suspects with one id.
fn callers(group: &[&Suspect]) -> Vec<Caller> {
    let mut all: Vec<Caller> = Vec::new();
    for caller in group.iter().flat_map(|s| &s.callers) {
        if !all.contains(caller) {
            all.push(caller.clone());
        }
    }
    all
}

fn process(suspect: &Suspect) -> ProcessInfo {
    let p = &suspect.cohort.process;
    let pod = suspect.pod.as_ref();
    ProcessInfo {
        pid: p.pid,
        ns_pid: p.ns_pid,
        comm: p.comm.clone(),
        exe: p.exe.clone(),
        runtime: p.runtime.clone(),
        container_id: p.container_id.clone(),
        container: pod.and_then(|pod| pod.container.clone()),
        pod: pod.map(|pod| pod.name.clone()),
        namespace: pod.map(|pod| pod.namespace.clone()),
        workload: pod.and_then(|pod| pod.workload.clone()),
        labels: pod.map(|pod| pod.labels.clone()).unwrap_or_default(),
    }
}

fn remote(cohort: &Cohort, examples: Vec<String>) -> RemoteInfo {
    let remote = &cohort.remote;
    let unix = remote.family == Family::Unix;
    let (named_by, not_higher_because) = naming::of_remote(remote, cohort.role);
    RemoteInfo {
        family: remote.family,
        address: remote.address.clone(),
        host: naming::host(remote),
        path: unix.then(|| remote.address.clone()),
        url: remote.url.clone(),
        named_by,
        not_higher_because,
        peer: (remote.peer.clone()).map(|(pid, comm)| Peer { pid, comm }),
        examples,
    }
}

impl Inputs<'_> {
    /// The date of a monotonic moment.
    fn date(&self, at_ns: u64) -> Timestamp {
        let (clock_ns, clock) = self.clock;
        let since = i128::from(at_ns) - i128::from(clock_ns);
        let since = SignedDuration::from_nanos_i128(since);
        clock.saturating_add(since).unwrap_or(clock)
    }
}

/// Two decimals are enough for people and steady enough for comparisons.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
