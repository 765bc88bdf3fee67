//! The metrics, by example.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

use super::{
    leaks::{FINDING, FINDINGS_MAX},
    *,
};
use crate::{report::CallSite, samples};

fn health() -> Health {
    Health {
        maps: vec![("SOCKS".to_owned(), 832, 262_144)],
        programs: vec![("set_state".to_owned(), 1_500_000_000, 7)],
        lifetimes: vec![(0.001, 70), (1.0, 10)],
        lifetime_sum_seconds: 3.5,
    }
}

fn encoded(report: &Report) -> String {
    let mut totals = Totals::default();
    totals.add(report);
    encode(report, &health(), &totals, Labels::Present).unwrap()
}

#[test]
fn a_report_becomes_series() {
    let text = encoded(&samples::report());
    for line in [
        "tracer_connections_open 832",
        "tracer_connections_opened_total 912",
        "tracer_findings{confidence=\"high\"} 1",
        "tracer_findings{confidence=\"low\"} 0",
        "tracer_leaked_connections{call_site=\"main.fetch\",kind=\"response_body_not_closed\",\
         namespace=\"shop\",program=\"app\",remote=\"127.0.0.1:8080\",workload=\"web\"} 820",
        "tracer_process_open_fds{namespace=\"\",pid=\"\",program=\"app\"} 752",
        "tracer_process_max_fds{namespace=\"\",pid=\"\",program=\"app\"} 1024",
        "tracer_ephemeral_ports_used{destination=\"10.0.0.7:443\"} 28232",
        "tracer_connect_errors_total{errno=\"EADDRNOTAVAIL\"} 16",
        "tracer_lost_events_total{cause=\"ring_full\"} 3",
        "tracer_map_entries{map=\"SOCKS\"} 832",
        "tracer_map_max_entries{map=\"SOCKS\"} 262144",
        "tracer_program_run_seconds_total{program=\"set_state\"} 1.5",
        "tracer_connection_lifetime_seconds_bucket{le=\"1\"} 80",
        "tracer_connection_lifetime_seconds_bucket{le=\"+Inf\"} 80",
        "tracer_connection_lifetime_seconds_sum 3.5",
        "tracer_attached_programs 1",
    ] {
        assert!(
            text.lines().any(|known| known == line),
            "{line} is missing:\n{text}"
        );
    }
}

#[test]
fn many_call_sites_are_folded_and_the_sum_stays_right() {
    let mut report = samples::report();
    report.findings = (0..200)
        .map(|number| {
            let mut finding = samples::finding();
            finding.call_site = Some(CallSite {
                function: format!("f{number}"),
                file: None,
                line: None,
                module: None,
            });
            finding.connections.outlived = number;
            finding
        })
        .collect();
    let text = encoded(&report);
    let values: Vec<f64> = text
        .lines()
        .filter(|line| line.starts_with("tracer_leaked_connections{"))
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(values.len(), FINDINGS_MAX + 1);
    assert_eq!(values.iter().sum::<f64>(), f64::from((0..200).sum::<u32>()));
    let other = FINDING.map(|label| format!("{label}=\"other\""));
    assert!(other.iter().all(|label| text.contains(label)), "{text}");
    assert!(text.contains("call_site=\"f199\""), "{text}");
}

#[test]
fn counters_do_not_fall_when_a_process_ends() {
    let mut totals = Totals::default();
    let mut report = samples::report();
    totals.add(&report);
    totals.add(&report);
    assert_eq!(totals.connect_errors["EADDRNOTAVAIL"], 16);
    report.resources.clear();
    totals.add(&report);
    assert_eq!(totals.connect_errors["EADDRNOTAVAIL"], 16);
    // The pid again, another process.
    totals.add(&samples::report());
    assert_eq!(totals.connect_errors["EADDRNOTAVAIL"], 32);
}

#[test]
fn hostile_names_stay_inside_their_quotes() {
    let mut report = samples::report();
    report.findings[0].call_site.as_mut().unwrap().function = "a\"} 1\nx{y=\"\\".repeat(40);
    let text = encoded(&report);
    assert!(
        text.lines()
            .all(|line| line.starts_with("tracer_") || line.starts_with("# "))
    );
}

#[test]
fn long_names_stay_apart() {
    let mut report = samples::report();
    report.findings = ["one", "two"]
        .map(|end| {
            let mut finding = samples::finding();
            let function = "generic<".repeat(40) + end;
            finding.call_site.as_mut().unwrap().function = function;
            finding
        })
        .to_vec();
    let text = encoded(&report);
    let names: std::collections::HashSet<&str> = text
        .lines()
        .filter(|line| line.starts_with("tracer_leaked_connections{"))
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    assert_eq!(names.len(), 2, "{text}");
}

#[test]
fn former_labels_are_there_for_who_asks() {
    let text = encode(
        &samples::report(),
        &health(),
        &Totals::default(),
        Labels::Former,
    )
    .unwrap();
    for line in [
        "tracer_leaked_connections{call_site=\"main.fetch\",kind=\"response_body_not_closed\",\
         namespace=\"\",program=\"\",remote=\"\",workload=\"\"} 820",
        "tracer_process_open_fds{namespace=\"\",pid=\"4711\",program=\"\"} 752",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}:\n{text}");
    }
}

#[test]
fn of_many_processes_the_one_nearest_to_its_limit_is_shown() {
    let mut report = samples::report();
    for (pid, fds_open) in [(1, 1_000), (2, 20)] {
        let mut other = report.resources[0].clone();
        (other.pid, other.fds_open) = (pid, fds_open);
        report.resources.push(other);
    }
    let text = encoded(&report);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("tracer_process_open_fds{"))
        .collect();
    assert_eq!(
        lines,
        ["tracer_process_open_fds{namespace=\"\",pid=\"\",program=\"app\"} 1000"]
    );
}

/// What the metrics are, in Markdown.
fn document() -> String {
    let mut totals = Totals::default();
    totals.add(&samples::report());
    totals.note([(["webhook", "sent"], 1)].into_iter());
    let registry = registry(&samples::report(), &health(), &totals, Labels::Present).unwrap();
    let mut text = include_str!("about.md").to_owned();
    for family in registry.gather() {
        let labels: Vec<String> = family.get_metric()[0]
            .get_label()
            .iter()
            .filter(|label| label.name() != "pid")
            .map(|label| format!("`{}`", label.name()))
            .collect();
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        text.push_str(&format!(
            "| `{}` | {kind} | {} | {} |\n",
            family.name(),
            labels.join(", "),
            family.help()
        ));
    }
    text
}

/// With `UPDATE_DOCS=1` in the environment the file is written instead.
#[test]
fn the_document_lists_every_metric() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let document = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &document).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == document,
        "docs/metrics.md is not what the daemon serves; UPDATE_DOCS=1 cargo test writes it"
    );
}
