//! Connections without a stack that belong to a leak whose call site is known.

use super::Suspect;
use crate::model::Kind;

/// Adds suspects without a call site to the one of the same process, role, remote and kind that
/// has one, and says so: what was opened before tracing, or while a stack could not be taken, is
/// more of the same leak and not another. Where several call sites fit, or none, they stay apart.
pub fn join_siteless(suspects: Vec<Suspect>) -> Vec<Suspect> {
    let (mut sited, siteless): (Vec<Suspect>, Vec<Suspect>) =
        suspects.into_iter().partition(has_call_site);
    for lost in siteless {
        let mut fitting = sited.iter_mut().filter(|s| same_but_for_the_site(s, &lost));
        match (fitting.next(), fitting.next()) {
            (Some(known), None) => absorb(known, &lost),
            _ => sited.push(lost),
        }
    }
    sited
}

fn has_call_site(suspect: &Suspect) -> bool {
    let site = suspect.cohort.site.as_ref();
    site.is_some_and(|site| site.blamed().is_some())
}

fn same_but_for_the_site(known: &Suspect, lost: &Suspect) -> bool {
    let (a, b) = (&known.cohort, &lost.cohort);
    has_call_site(known)
        && a.process.pid == b.process.pid
        && a.process.start_ticks == b.process.start_ticks
        && a.role == b.role
        && a.remote.address == b.remote.address
        && (known.judgement.kind == lost.judgement.kind
            // The same, where the program itself could not be asked.
            || (known.judgement.kind == Kind::ResponseBodyNotClosed
                && lost.judgement.kind == Kind::ResponseNotRead))
}

fn absorb(known: &mut Suspect, lost: &Suspect) {
    let (into, from) = (
        &mut known.judgement.connections,
        &lost.judgement.connections,
    );
    into.open += from.open;
    into.outlived += from.outlived;
    into.opened += from.opened;
    into.closed += from.closed;
    into.peak_open += from.peak_open;
    let judgement = &mut known.judgement;
    judgement.requests += lost.judgement.requests;
    judgement.growth_per_minute += lost.judgement.growth_per_minute;
    judgement.oldest_opened_ns = match (judgement.oldest_opened_ns, lost.judgement.oldest_opened_ns)
    {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    judgement.evidence.push(format!(
        "{} more like them to the same remote have no call site (opened before tracing, or their \
         stacks could not be taken or named); they are counted here.",
        from.outlived
    ));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::join_siteless;
    use crate::{
        engine::Judgement,
        findings::Suspect,
        model::{
            Cohort, CohortId, Confidence, Family, Frame, Kind, Process, Remote, Role, Site,
            StackOf, StackQuality,
        },
        report::Connections,
    };

    fn suspect(function: Option<&str>, address: &str) -> Suspect {
        let site = function.map(|function| {
            Arc::new(Site {
                frames: vec![Frame {
                    function: function.to_owned(),
                    file: None,
                    line: None,
                    module: None,
                    inlined: false,
                    address: None,
                }],
                owners: Vec::new(),
                call_site: Some(0),
                own: true,
                quality: StackQuality::Complete,
                library: false,
                own_frames: Vec::new(),
                line_in_function: None,
            })
        });
        Suspect {
            judgement: Judgement {
                cohort: CohortId(0),
                kind: Kind::CloseWait,
                also: Vec::new(),
                confidence: Confidence::High,
                connections: Connections {
                    open: 5,
                    outlived: 5,
                    opened: 5,
                    closed: 0,
                    peak_open: 5,
                },
                requests: 5,
                leaked_per_request: 1.0,
                growth_per_minute: 0.0,
                burst_period_seconds: None,
                oldest_opened_ns: Some(1),
                first_seen_ns: 1,
                evidence: Vec::new(),
                advice: "",
                settle_seconds: None,
            },
            cohort: Cohort {
                process: Arc::new(Process {
                    pid: 1,
                    ns_pid: None,
                    start_ticks: 1,
                    comm: "a".to_owned(),
                    exe: None,
                    runtime: None,
                    container_id: None,
                }),
                site,
                site_of: StackOf::Connect,
                opener: None,
                remote: Arc::new(Remote {
                    family: Family::Tcp4,
                    address: address.to_owned(),
                    host: None,
                    url: None,
                }),
                role: Role::Client,
            },
            examples: Vec::new(),
            callers: Vec::new(),
            pod: None,
            go: None,
        }
    }

    #[test]
    fn one_fitting_call_site_takes_them() {
        let joined = join_siteless(vec![suspect(Some("f"), "x:1"), suspect(None, "x:1")]);
        assert_eq!(joined.len(), 1);
        assert_eq!(joined[0].judgement.connections.outlived, 10);
        assert!(joined[0].judgement.evidence[0].starts_with("5 more like them"));
    }

    #[test]
    fn the_kernels_view_of_a_body_joins_the_programs_own() {
        let (mut known, mut lost) = (suspect(Some("f"), "x:1"), suspect(None, "x:1"));
        known.judgement.kind = Kind::ResponseBodyNotClosed;
        lost.judgement.kind = Kind::ResponseNotRead;
        assert_eq!(join_siteless(vec![known, lost]).len(), 1);
    }

    #[test]
    fn an_ambiguous_or_other_remote_leaves_them_apart() {
        let two = vec![
            suspect(Some("f"), "x:1"),
            suspect(Some("g"), "x:1"),
            suspect(None, "x:1"),
        ];
        assert_eq!(join_siteless(two).len(), 3);
        let other = vec![suspect(Some("f"), "x:1"), suspect(None, "y:1")];
        assert_eq!(join_siteless(other).len(), 2);
        assert_eq!(join_siteless(vec![suspect(None, "x:1")]).len(), 1);
    }
}
