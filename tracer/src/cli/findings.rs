//! A list of findings: its columns, and which it shows in which order.

use std::{
    cmp::{Ordering, Reverse},
    collections::BTreeSet,
};

use jiff::{SignedDuration, Timestamp};
use kube::core::SelectorExt as _;

use super::{
    args::{NamespaceArgs, SortBy, Top},
    columns::{Cell, Column},
    finding,
};
use crate::report::{Finding, Report};

/// Digits of an id in the narrow table; `describe` takes any unambiguous beginning.
const ID_DIGITS: usize = 12;

/// The columns of a list of findings.
pub const COLUMNS: &[Column<Finding>] = &[
    Column::<Finding>::new("ID", |f, _| {
        Cell::Text(f.id.chars().take(ID_DIGITS).collect())
    })
    .not_live(),
    Column::<Finding>::new("LEAKED", |f, _| Cell::Count(f.connections.outlived)),
    Column::<Finding>::new("OPEN", |f, _| Cell::Count(f.connections.open)).leaves(3),
    Column::<Finding>::new("PER MINUTE", |f, _| Cell::Number(f.growth_per_minute)).short("/MIN"),
    Column::<Finding>::new("OLDEST", |f, now| {
        age(f, now).map_or(Cell::None, Cell::Seconds)
    })
    .leaves(2),
    Column::<Finding>::new("KIND", |f, _| Cell::Text(f.kind.name().to_owned())),
    Column::<Finding>::new("CONFIDENCE", |f, _| {
        Cell::Text(f.confidence.name().to_owned())
    })
    .leaves(1),
    Column::<Finding>::new("PROCESS", |f, _| Cell::Text(f.process.comm.clone())).leaves(4),
    Column::<Finding>::new("PID", |f, _| Cell::Count(u64::from(f.process.pid)))
        .leaves(0)
        .not_live(),
    Column::<Finding>::new("CALL SITE", |f, _| Cell::site(f.call_site.as_ref())).elastic(32),
    Column::<Finding>::new("REMOTE", |f, _| Cell::remote(&finding::remote(f))).elastic(30),
    Column::<Finding>::new("OPENED", |f, _| Cell::Count(f.connections.opened)).wide(),
    Column::<Finding>::new("CLOSED", |f, _| Cell::Count(f.connections.closed)).wide(),
    Column::<Finding>::new("REQUESTS", |f, _| Cell::Count(f.requests)).wide(),
    Column::<Finding>::new("LEAKED PER REQUEST", |f, _| {
        Cell::Number(f.leaked_per_request)
    })
    .wide(),
    Column::<Finding>::new("ROLE", |f, _| Cell::Text(f.role.name().to_owned())).wide(),
    Column::<Finding>::new("RUNTIME", |f, _| Cell::text(f.process.runtime.as_deref())).wide(),
    Column::<Finding>::new("NAMESPACE", |f, _| {
        Cell::text(f.process.namespace.as_deref())
    })
    .where_known(),
    Column::<Finding>::new("WORKLOAD", |f, _| {
        Cell::text(f.process.workload.as_ref().map(|of| of.name.as_str()))
    })
    .where_known(),
    Column::<Finding>::new("POD", |f, _| Cell::text(f.process.pod.as_deref())).where_known(),
    Column::<Finding>::new("CONTAINER", |f, _| {
        Cell::text(f.process.container_id.as_deref())
    })
    .where_known(),
    Column::<Finding>::new("NODES", |f, _| {
        distinct(f.instances.iter().map(|instance| &instance.node))
    })
    .where_known(),
    Column::<Finding>::new("PODS", |f, _| {
        distinct(f.instances.iter().map(|instance| &instance.pod))
    })
    .where_known(),
    Column::<Finding>::new("INSTANCES", |f, _| Cell::Count(f.instances.len() as u64)).wide(),
    Column::<Finding>::new("ADDRESS", |f, _| Cell::Text(f.remote.address.clone())).wide(),
    Column::<Finding>::new("FULL ID", |f, _| Cell::Text(f.id.clone())).wide(),
];

/// How many names there are.
fn distinct<'a>(names: impl Iterator<Item = &'a Option<String>>) -> Cell {
    match names.flatten().collect::<BTreeSet<_>>().len() {
        0 => Cell::None,
        count => Cell::Count(count as u64),
    }
}

/// Seconds since the oldest open connection was opened.
fn age(finding: &Finding, now: Timestamp) -> Option<f64> {
    let oldest = finding.oldest_opened_at?;
    Some(now.duration_since(oldest).as_secs_f64().max(0.0))
}

/// Why a choice of namespace or labels can't be met, where nothing in the report has a pod's name.
#[must_use]
pub fn no_pods(report: &Report, chosen: &NamespaceArgs) -> Option<String> {
    let asked = if let Some(namespace) = &chosen.namespace {
        format!("nothing can be said of namespace {namespace}")
    } else if let Some(selector) = &chosen.selector {
        let labelled = |f: &Finding| !f.process.labels.is_empty();
        return (!report.findings.iter().any(labelled)).then(|| {
            format!(
                "nothing can be said of pods with {selector}: labels are known to the API server only, \
                 which a daemon asks with --kube, and nothing that was found runs in a pod with labels; -n \
                 chooses a namespace"
            )
        });
    } else if chosen.all_namespaces {
        "all findings are shown, without namespaces".to_owned()
    } else {
        return None;
    };
    let known = |f: &Finding| f.process.namespace.is_some() || f.process.pod.is_some();
    (!report.findings.iter().any(known)).then(|| {
        format!(
            "{asked}: no pod names are known here, because nothing that was found runs in a pod whose \
             folder the kubelet has in /var/log/pods; `-o wide` shows containers"
        )
    })
}

/// When the report was made.
#[must_use]
pub fn end(report: &Report) -> Timestamp {
    SignedDuration::try_from_secs_f64(report.duration_seconds)
        .ok()
        .and_then(|watched| report.started_at.checked_add(watched).ok())
        .unwrap_or(report.started_at)
}

/// Filters by `args`, sorts by `sort_by` and cuts.
pub fn select(report: &mut Report, args: &Top, sort_by: SortBy) {
    for findings in [&mut report.findings, &mut report.resolved] {
        if let Some(pid) = args.pid {
            findings.retain(|f| f.process.pid == pid || f.instances.iter().any(|i| i.pid == pid));
        }
        if let Some(namespace) = &args.namespaces.namespace {
            findings.retain(|f| f.process.namespace.as_ref() == Some(namespace));
        }
        findings.retain(|f| chosen(f, args));
        if let Some(selector) = &args.namespaces.selector {
            // who is in no pod is chosen by no labels
            findings.retain(|f| f.process.pod.is_some() && selector.matches(&f.process.labels));
        }
    }
    sort(&mut report.findings, sort_by);
    report.findings.truncate(args.limit);
}

/// Whether a finding has the process, pod, kind and remote that were asked for.
fn chosen(finding: &Finding, args: &Top) -> bool {
    let has = |text: &str, wanted: &Option<String>| {
        let wanted = wanted.as_deref().map(str::to_lowercase);
        wanted.is_none_or(|wanted| text.to_lowercase().contains(&wanted))
    };
    let pod = finding.process.pod.as_deref().unwrap_or_default();
    let remote = format!("{} {}", finding::remote(finding), finding.remote.address);
    let kind = args.kind.is_empty() || args.kind.iter().any(|kind| kind == finding.kind.name());
    kind && has(&finding.process.comm, &args.process)
        && has(pod, &args.pod)
        && has(&remote, &args.remote)
}

/// Sorts, worst first; equals by id, so that lists do not jump.
pub fn sort(findings: &mut [Finding], by: SortBy) {
    findings.sort_by(|a, b| {
        let order = match by {
            SortBy::Leaked => Reverse(a.connections.outlived).cmp(&Reverse(b.connections.outlived)),
            SortBy::Open => Reverse(a.connections.open).cmp(&Reverse(b.connections.open)),
            SortBy::Rate => b.growth_per_minute.total_cmp(&a.growth_per_minute),
            SortBy::Age => match (a.oldest_opened_at, b.oldest_opened_at) {
                (Some(a), Some(b)) => a.cmp(&b),
                (a, b) => a.is_none().cmp(&b.is_none()),
            },
        };
        order.then_with(|| a.id.cmp(&b.id)).then(Ordering::Equal)
    });
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{
        args::{Cli, Command, ListForm},
        columns,
    };
    use crate::samples;

    fn args(words: &[&str]) -> Top {
        let cli = Cli::try_parse_from([&["tracer", "top"], words].concat()).unwrap();
        match cli.command {
            Command::Top(top) => top,
            other => panic!("{other:?}"),
        }
    }

    fn report() -> Report {
        let mut report = samples::report();
        report.findings = [
            ("a", 5, 50, 9.0, 300),
            ("b", 50, 5, 1.0, 200),
            ("c", 7, 7, 30.0, 100),
        ]
        .into_iter()
        .map(|(id, outlived, open, growth, age)| {
            let mut finding = samples::finding();
            finding.id = id.to_owned();
            finding.connections.outlived = outlived;
            finding.connections.open = open;
            finding.growth_per_minute = growth;
            finding.oldest_opened_at = Some(samples::start() - SignedDuration::from_secs(age));
            finding.process.pid = outlived.try_into().unwrap();
            finding.instances.clear();
            finding
        })
        .collect();
        report
    }

    fn ids(words: &[&str]) -> String {
        let mut report = report();
        let args = args(words);
        select(&mut report, &args, args.sort_by);
        report.findings.iter().map(|f| f.id.as_str()).collect()
    }

    #[test]
    fn findings_are_sorted_filtered_and_cut() {
        assert_eq!(ids(&[]), "bca");
        assert_eq!(ids(&["--sort-by", "rate"]), "cab");
        assert_eq!(ids(&["--sort-by", "age"]), "abc");
        assert_eq!(ids(&["--sort-by", "open"]), "acb");
        assert_eq!(ids(&["--limit", "1"]), "b");
        assert_eq!(ids(&["--pid", "7"]), "c");
        assert_eq!(ids(&["--kind", "response_body_not_closed"]), "bca");
        assert_eq!(ids(&["--kind", "close_wait"]), "");
        assert_eq!(
            ids(&["--kind", "close_wait", "--kind", "response_body_not_closed"]),
            "bca"
        );
        assert_eq!(ids(&["--process", "AP"]), "bca");
        assert_eq!(ids(&["--process", "other"]), "");
        assert_eq!(ids(&["--remote", "tags/list"]), "bca");
        assert_eq!(ids(&["--remote", "other"]), "");
        assert_eq!(ids(&["--pod", "web"]), "");
        assert_eq!(ids(&["-n", "shop"]), "bca");
        assert_eq!(ids(&["-n", "other"]), "");
        assert_eq!(ids(&["-A"]), "bca");
    }

    #[test]
    fn labels_choose_pods() {
        let chosen = |selector: &str| {
            let mut report = report();
            report.findings[0].process.pod = Some("web-1".to_owned());
            let args = args(&["-l", selector]);
            select(&mut report, &args, args.sort_by);
            report.findings.len()
        };
        assert_eq!(
            (chosen("app=web"), chosen("app!=web"), chosen("app,!x")),
            (1, 0, 1)
        );
        assert!(Cli::try_parse_from(["tracer", "top", "-l", "a b"]).is_err());
    }

    #[test]
    fn without_pod_names_a_choice_of_pods_says_why_it_can_not_be_met() {
        let mut report = report();
        let reason = |report: &Report, words: &[&str]| no_pods(report, &args(words).namespaces);
        assert_eq!(reason(&report, &["-n", "shop"]), None);
        for finding in &mut report.findings {
            finding.process.pod = None;
            finding.process.namespace = None;
        }
        assert_eq!(reason(&report, &[]), None);
        assert_eq!(reason(&report, &["-l", "app=web"]), None);
        for finding in &mut report.findings {
            finding.process.labels.clear();
        }
        let said = reason(&report, &["-l", "app=web"]).unwrap();
        assert!(
            said.contains("labels are known to the API server only"),
            "{said}"
        );
        for words in [&["-n", "shop"][..], &["-A"]] {
            let said = reason(&report, words).unwrap();
            assert!(
                said.contains("no pod names are known here, because"),
                "{said}"
            );
        }
    }

    #[test]
    fn the_table_names_what_the_reader_needs() {
        let report = samples::report();
        let shown = columns::write(
            ListForm::Table,
            COLUMNS,
            &report.findings,
            &report,
            end(&report),
            None,
        )
        .unwrap();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 2, "{shown}");
        for word in [
            "3f9a1c2b4d5e",
            "820",
            "16.4",
            "60s",
            "response_body_not_closed",
            "high",
            "app",
            "4711",
            "main.fetch /src/main.go:24",
            "http://127.0.0.1:8080/v2/{}/tags/list",
        ] {
            assert!(lines[1].contains(word), "{word} is missing:\n{shown}");
        }
    }

    #[test]
    fn csv_has_all_columns_in_base_units() {
        let report = samples::report();
        let shown = columns::write(
            ListForm::Csv,
            COLUMNS,
            &report.findings,
            &report,
            end(&report),
            None,
        )
        .unwrap();
        assert!(
            shown.starts_with("id,leaked,open,per_minute,oldest,kind,confidence,process,pid,"),
            "{shown}"
        );
        assert!(
            shown.contains("820,820,16.4,60,response_body_not_closed"),
            "{shown}"
        );
        assert!(shown.ends_with("3f9a1c2b4d5e6f70\n"), "{shown}");
    }
}
