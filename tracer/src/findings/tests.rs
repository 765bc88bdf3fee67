//! From suspects to reports.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Identity, Inputs, Suspect, Watched, assemble};
use crate::{
    engine::{self, Counts, Judgement},
    model::{
        Cohort, CohortId, Confidence, Family, Frame, Kind, Process, Remote, Role, Site, StackOf,
        StackQuality,
    },
    report::{Coverage, Report, Verdict},
};

const SECOND: u64 = 1_000_000_000;

fn suspect(pid: u32, line: u32, confidence: Confidence) -> Suspect {
    let frame = Frame {
        function: "main.fetch".to_owned(),
        file: Some("/src/main.go".to_owned()),
        line: Some(line),
        module: Some("/app".to_owned()),
        inlined: false,
        address: None,
    };
    Suspect {
        judgement: Judgement {
            cohort: CohortId(pid),
            kind: Kind::NeverClosed,
            also: vec![],
            confidence,
            level: engine::Level::Leaf,
            members: vec![CohortId(pid)],
            about: engine::Mask::default(),
            back: false,
            responses: vec![],
            connections: Counts {
                open: 10 * u64::from(pid),
                outlived: 9 * u64::from(pid),
                opened: 11 * u64::from(pid),
                closed: u64::from(pid),
                peak_open: 10 * u64::from(pid),
            },
            requests: 10,
            leaked_per_request: 0.9,
            growth_per_minute: 6.0,
            burst_period_seconds: None,
            oldest_opened_ns: Some(95 * SECOND),
            first_seen_ns: 110 * SECOND,
            evidence: vec!["Numbers.".to_owned()],
            advice: "Close it.",
            settle_seconds: (confidence == Confidence::Low).then_some(12.3),
        },
        cohort: Cohort {
            process: Arc::new(Process {
                pid,
                ns_pid: None,
                start_ticks: 1,
                comm: "app".to_owned(),
                exe: Some("/app".to_owned()),
                runtime: None,
                container_id: None,
                pod_uid: None,
            }),
            site: Some(Arc::new(Site {
                frames: vec![frame],
                owners: Vec::new(),
                call_site: Some(0),
                own: true,
                quality: StackQuality::Complete,
                library: false,
                own_frames: Vec::new(),
                runs_loop: None,
                line_in_function: Some(line - 20),
                again: None,
            })),
            site_of: StackOf::Request,
            opener: None,
            remote: Arc::new(Remote {
                family: Family::Tcp4,
                address: "10.0.0.7:80".to_owned(),
                host: Some("api".to_owned()),
                url: Some("http://api/v2/{}".to_owned()),
                peer: None,
                resolved: None,
                in_cluster: None,
            }),
            role: Role::Client,
        },
        identity: Identity {
            level: engine::Level::Leaf,
            role: Role::Client,
            place: Some(crate::findings::Place {
                function: "main.fetch".to_owned(),
                file: None,
                line: Some(line),
                line_in_function: Some(line - 20),
            }),
            authority: crate::findings::Authority::Host("api".to_owned()),
        },
        examples: vec!["GET http://api/v2/7".to_owned()],
        callers: Vec::new(),
        called_by: Vec::new(),
        go: None,
        pod: None,
    }
}

fn inputs(start: Timestamp, suspects: Vec<Suspect>, watched: Vec<Watched>) -> Inputs<'static> {
    Inputs {
        started_at: start,
        duration_seconds: 20.0,
        clock: (100 * SECOND, start),
        coverage: Coverage::default(),
        node: None,
        suspects,
        now_ns: 120 * SECOND,
        watched,
        brief: Vec::new(),
        resources: Vec::new(),
        unsettled: Vec::new(),
    }
}

fn report(suspects: Vec<Suspect>, lost_events: u64, unsettled: Vec<String>) -> Report {
    let mut inputs = inputs(Timestamp::UNIX_EPOCH, suspects, Vec::new());
    inputs.coverage.lost_events = lost_events;
    inputs.unsettled = unsettled;
    assemble(inputs)
}

#[test]
fn replicas_with_one_leak_are_one_finding() {
    let r = report(
        vec![
            suspect(1, 24, Confidence::High),
            suspect(3, 24, Confidence::High),
            suspect(2, 24, Confidence::Medium),
        ],
        0,
        vec![],
    );
    assert_eq!(r.verdict, Verdict::Leak);
    let [f] = r.findings.as_slice() else {
        panic!("{r:?}");
    };
    assert_eq!(f.process.pid, 3);
    let instances: Vec<(u32, u64)> = f.instances.iter().map(|i| (i.pid, i.connections)).collect();
    assert_eq!(instances, [(3, 30), (1, 10), (2, 20)]);
    assert_eq!(f.connections.outlived, 54);
    assert_eq!((f.requests, f.leaked_per_request), (30, 1.8));
    assert_eq!(f.growth_per_minute, 18.0);
    assert_eq!(f.remote.examples, ["GET http://api/v2/7"]);
    assert_eq!(
        f.oldest_opened_at.map(|t| t.to_string()).as_deref(),
        Some("1969-12-31T23:59:55Z")
    );
    assert_eq!(
        f.instances[0].first_seen_at.to_string(),
        "1970-01-01T00:00:10Z"
    );
}

#[test]
fn worst_comes_first() {
    let r = report(
        vec![
            suspect(9, 24, Confidence::Low),
            suspect(1, 25, Confidence::Medium),
            suspect(1, 26, Confidence::High),
        ],
        0,
        vec![],
    );
    let lines: Vec<Option<u32>> = r
        .findings
        .iter()
        .map(|f| f.call_site.as_ref().and_then(|c| c.line))
        .collect();
    assert_eq!(lines, [Some(26), Some(25), Some(24)]);
    // A proven leak beside it settles the verdict.
    assert_eq!((r.verdict, r.settle_seconds), (Verdict::Leak, None));
}

#[test]
fn without_a_stack_it_is_reported_with_less_confidence() {
    let mut s = suspect(1, 24, Confidence::High);
    s.cohort.site = None;
    let r = report(vec![s], 0, vec![]);
    let f = &r.findings[0];
    assert_eq!(r.verdict, Verdict::Leak);
    assert_eq!(f.confidence, Confidence::Medium);
    assert_eq!(f.stack_quality, StackQuality::None);
    assert_eq!((&f.call_site, f.stack_of), (&None, None));
}

#[test]
fn verdicts() {
    assert_eq!(report(vec![], 0, vec![]).verdict, Verdict::Clean);
    let low = report(vec![suspect(1, 24, Confidence::Low)], 0, vec![]);
    assert_eq!(low.verdict, Verdict::Inconclusive);
    assert_eq!(low.settle_seconds, Some(13.0));
    assert_eq!(low.inconclusive_because.len(), 1);
    let lost = report(vec![], 7, vec!["It ended.".to_owned()]);
    assert_eq!(lost.verdict, Verdict::Inconclusive);
    assert_eq!(lost.inconclusive_because.len(), 2);
    let leak = report(vec![suspect(1, 24, Confidence::Medium)], 7, vec![]);
    assert_eq!(leak.verdict, Verdict::Leak);
    assert!(leak.inconclusive_because.is_empty());
}

/// What was open before the watch has no call site.
fn siteless(pid: u32, growth_per_minute: f64) -> Suspect {
    let mut suspect = suspect(pid, 24, Confidence::Medium);
    suspect.cohort.site = None;
    suspect.identity.place = None;
    suspect.judgement.growth_per_minute = growth_per_minute;
    suspect.judgement.connections.outlived = 5;
    suspect
}

#[test]
fn what_was_open_before_is_more_of_what_grows_beside_it() {
    let known = suspect(1, 24, Confidence::High);
    let r = report(vec![known.clone(), siteless(1, 0.0)], 0, vec![]);
    let [f] = r.findings.as_slice() else {
        panic!("{r:?}");
    };
    assert_eq!(f.connections.outlived, 9 + 5);
    assert_eq!(f.call_site.as_ref().and_then(|c| c.line), Some(24));
    assert!(
        f.evidence
            .iter()
            .any(|e| e.starts_with("5 more to the same remote have no call site")),
        "{:?}",
        f.evidence
    );
    // what grows by itself, belongs to another process, or goes elsewhere is a finding of its own
    let mut elsewhere = siteless(1, 0.0);
    elsewhere.cohort.remote = Arc::new(Remote {
        address: "10.0.0.8:80".to_owned(),
        ..(*elsewhere.cohort.remote).clone()
    });
    for other in [siteless(1, 3.0), siteless(2, 0.0), elsewhere] {
        let r = report(vec![known.clone(), other], 0, vec![]);
        assert_eq!(r.findings.len(), 2, "{r:?}");
    }
}

#[test]
fn what_a_client_opens_by_itself_is_more_of_what_it_was_told_to() {
    let known = suspect(1, 24, Confidence::High);
    let of_a_thread = |growth_per_minute| {
        let mut other = siteless(1, growth_per_minute);
        let mut site = known.cohort.site.as_deref().cloned();
        if let Some(site) = &mut site {
            (site.own, site.library) = (false, true);
            site.frames[0].function = "monitor.run".to_owned();
        }
        other.cohort.site = site.map(Arc::new);
        other
    };
    let r = report(vec![known.clone(), of_a_thread(12.0)], 0, vec![]);
    let [f] = r.findings.as_slice() else {
        panic!("{r:?}");
    };
    assert_eq!(f.call_site.as_ref().and_then(|c| c.line), Some(24));
    assert!(
        (f.evidence.iter()).any(|e| e.starts_with("5 more to the same remote are opened by")),
        "{:?}",
        f.evidence
    );
    let r = report(vec![known.clone(), of_a_thread(30.0)], 0, vec![]);
    assert_eq!(r.findings.len(), 2, "{r:?}");
}

#[test]
fn another_line_of_the_same_function_is_no_other_leak_unless_it_grows() {
    let known = suspect(1, 24, Confidence::High);
    let mut other = suspect(1, 25, Confidence::Medium);
    let r = report(vec![known.clone(), other.clone()], 0, vec![]);
    assert_eq!(r.findings.len(), 2);
    other.judgement.growth_per_minute = 0.0;
    let r = report(vec![known, other], 0, vec![]);
    let [f] = r.findings.as_slice() else {
        panic!("{r:?}");
    };
    assert_eq!(f.call_site.as_ref().and_then(|c| c.line), Some(24));
    assert!(
        f.evidence.iter().any(|e| e.contains("at line 25")),
        "{:?}",
        f.evidence
    );
}

#[test]
fn what_may_be_of_a_leak_is_not_called_healthy() {
    let watched = |site: Option<Arc<Site>>, reused| {
        let mut cohort = suspect(1, 24, Confidence::High).cohort;
        cohort.site = site;
        Watched {
            watched: engine::Watched {
                cohort: CohortId(7),
                role: Role::Client,
                counts: Counts {
                    open: 189,
                    ..Counts::default()
                },
                reused,
                because: "189 from before the watch, no more since".to_owned(),
            },
            cohort,
        }
    };
    let known = suspect(1, 24, Confidence::High);
    let site = known.cohort.site.clone();
    let of = |watched| {
        let start = Timestamp::UNIX_EPOCH;
        let inputs = inputs(start, vec![known.clone()], vec![watched]);
        let report = assemble(inputs);
        let said = report.findings[0].evidence.iter();
        let said = said
            .filter(|e| e.starts_with("189 more connections to the same remote have no call site"));
        (report.populations.len(), said.count())
    };
    assert_eq!(of(watched(None, 0)), (0, 1));
    // a pool that is used, and what has a call site, stand for themselves
    assert_eq!(of(watched(None, 5)), (1, 0));
    assert_eq!(of(watched(site, 0)), (1, 0));
}
