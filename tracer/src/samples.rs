//! A report as tests like it: every field filled in.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    model::{Confidence, Family, Frame, Kind, Owner, Role, StackOf, StackQuality, Workload},
    report::{
        CallSite, Connections, Coverage, EphemeralPorts, Finding, FindingState, Instance, NamedBy,
        ProcessInfo, Refused, RemoteInfo, Report, Resources, SCHEMA, StackFrame, Verdict,
    },
};

/// 2026-01-02T03:04:05Z.
pub fn start() -> Timestamp {
    Timestamp::constant(1_767_323_045, 0)
}

fn frame(function: &str, line: u32) -> StackFrame {
    let frame = Frame {
        function: function.to_owned(),
        file: Some("/src/main.go".to_owned()),
        line: Some(line),
        module: Some("/app".to_owned()),
        inlined: false,
        address: None,
    };
    StackFrame {
        frame,
        owner: Some(Owner::Own),
    }
}

/// A leak of high confidence.
pub fn finding() -> Finding {
    Finding {
        id: "3f9a1c2b4d5e6f70".to_owned(),
        kind: Kind::ResponseBodyNotClosed,
        also: vec![Kind::NeverClosed],
        confidence: Confidence::High,
        role: Role::Client,
        process: ProcessInfo {
            pid: 4711,
            ns_pid: Some(7),
            comm: "app".to_owned(),
            exe: Some("/app".to_owned()),
            runtime: Some("go1.27.3".to_owned()),
            container_id: None,
            container: None,
            pod: None,
            namespace: Some("shop".to_owned()),
            workload: Some(Workload {
                kind: "Deployment".to_owned(),
                name: "web".to_owned(),
            }),
            labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        },
        call_site: Some(CallSite {
            function: "main.fetch".to_owned(),
            file: Some("/src/main.go".to_owned()),
            line: Some(24),
            module: Some("/app".to_owned()),
        }),
        stack: vec![frame("main.fetch", 24), frame("main.main", 40)],
        library: None,
        callers: vec![],
        called_by: vec![],
        opener_stack: vec![],
        instances: vec![Instance {
            node: None,
            pod: None,
            pid: 4711,
            connections: 820,
            first_seen_at: start(),
        }],
        local: None,
        stack_quality: StackQuality::Complete,
        stack_of: Some(StackOf::Request),
        remote: RemoteInfo {
            family: Family::Tcp4,
            address: "127.0.0.1:8080".to_owned(),
            host: Some("127.0.0.1".to_owned()),
            path: None,
            url: Some("http://127.0.0.1:8080/v2/{}/tags/list".to_owned()),
            named_by: NamedBy::Url,
            not_higher_because: None,
            peer: None,
            examples: vec!["GET http://127.0.0.1:8080/v2/app/tags/list".to_owned()],
        },
        connections: Connections {
            open: 820,
            outlived: 820,
            opened: 900,
            closed: 80,
            peak_open: 820,
        },
        requests: 900,
        leaked_per_request: 0.911,
        growth_per_minute: 16.4,
        burst_period_seconds: None,
        oldest_opened_at: Some(start()),
        responses: vec![],
        state: FindingState::Growing,
        resolved_at: None,
        resolved_because: None,
        evidence: vec![
            "820 responses began and none of their bodies was finished or closed.".into(),
        ],
        advice: "Close the response body on every path: `defer resp.Body.Close()`.".to_owned(),
        snippet: Some("defer resp.Body.Close()".to_owned()),
        go: None,
    }
}

/// A report of one leak.
pub fn report() -> Report {
    Report {
        schema: SCHEMA,
        verdict: Verdict::Leak,
        started_at: start(),
        duration_seconds: 60.0,
        coverage: Some(Coverage {
            backend: "tracepoint".to_owned(),
            hooks: BTreeMap::from([("tcp_open".to_owned(), "tracepoint".to_owned())]),
            attached: vec!["inet_sock_set_state".to_owned()],
            degraded: vec!["UNIX closes are seen at sweeps only: fentry is refused.".to_owned()],
            refused: vec![Refused {
                what: "executable".to_owned(),
                reason: "too_many_segments".to_owned(),
                count: 2,
            }],
            lost_events: 0,
            losses: BTreeMap::from([("ring_full".to_owned(), 3)]),
            sockets_seen: 912,
            sockets_folded: 80,
            sockets_tracked: 832,
            sockets_unattributed: 1,
        }),
        nodes: None,
        inconclusive_because: vec![],
        settle_seconds: None,
        findings: vec![finding()],
        unsettled: vec![],
        resolved: vec![],
        populations: vec![],
        ignored: 0,
        resources: vec![Resources {
            node: None,
            pid: 4711,
            comm: "app".to_owned(),
            pod: None,
            namespace: None,
            workload: None,
            fds_open: 752,
            fds_limit: 1024,
            exhausted_in_seconds: Some(5100),
            ephemeral_ports: vec![EphemeralPorts {
                destination: "10.0.0.7:443".to_owned(),
                used: 28_232,
                available: 28_232,
                exhausted_in_seconds: Some(0),
            }],
            connect_errors: BTreeMap::from([("EADDRNOTAVAIL".to_owned(), 16)]),
        }],
        baseline: None,
    }
}
