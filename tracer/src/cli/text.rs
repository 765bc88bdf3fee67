//! A report as people read it.

mod populations;

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{
    finding::{self, Detail, Style, finding},
    output::{Paint, clean, wrap},
    shorter, units, words,
};
use crate::report::{Comparison, Coverage, Finding, Report, Resources, Verdict};

/// Renders a whole report.
#[must_use]
pub fn report(report: &Report, style: Style) -> String {
    let Style { paint, width, .. } = style;
    let mut out = String::new();
    headline(&mut out, report, paint, width);
    for (index, one) in report.findings.iter().enumerate() {
        let _ = writeln!(out);
        let number = Some(index + 1);
        finding(&mut out, one, number, end(report), &report.resources, style);
    }
    resolved(&mut out, report, paint, width);
    if let Some(comparison) = &report.baseline {
        baseline(&mut out, comparison, report, paint);
    }
    populations::table(&mut out, report, paint);
    resources(&mut out, report, style);
    if let Some(seen) = &report.coverage {
        // what is not seen makes no leak less certain
        let folded = report.verdict == Verdict::Leak && style.detail == Detail::Short;
        let mut told = seen.clone();
        if folded && seen.degraded.len() > 1 {
            told.degraded = vec![format!(
                "{} kinds of events; -v and `tracer doctor` say which, and what that costs",
                seen.degraded.len()
            )];
        }
        if style.detail == Detail::Short {
            told.refused.clear();
        }
        coverage(&mut out, &told, paint, width);
    }
    for node in report.nodes.iter().flatten() {
        let _ = writeln!(out, "\n{}", paint.bold(&clean(&node.endpoint)));
        if let Some(error) = &node.error {
            let _ = writeln!(out, "  {} {}", paint.bad("no answer:"), clean(error));
        }
    }
    out
}

/// When watching ended.
fn end(report: &Report) -> Timestamp {
    let watched = jiff::SignedDuration::try_from_secs_f64(report.duration_seconds);
    watched
        .ok()
        .and_then(|watched| report.started_at.checked_add(watched).ok())
        .unwrap_or(report.started_at)
}

fn headline(out: &mut String, report: &Report, paint: Paint, width: usize) {
    let verdict = match report.verdict {
        Verdict::Leak => paint.bad("LEAK"),
        Verdict::Clean => paint.good("CLEAN"),
        Verdict::Inconclusive => paint.doubtful("INCONCLUSIVE"),
    };
    let findings = match report.findings.len() as u64 {
        0 => "no findings".to_owned(),
        n => units::count(n, "finding"),
    };
    let hidden = match report.ignored {
        0 => String::new(),
        n => format!(", {n} hidden by the ignore list"),
    };
    let _ = writeln!(
        out,
        "{verdict}  {findings}{hidden}, watched for {}",
        units::duration(report.duration_seconds)
    );
    for reason in &report.inconclusive_because {
        item(out, &clean(reason), width);
    }
    if let Some(seconds) = report.settle_seconds {
        let more = units::duration(seconds);
        item(
            out,
            &format!("watching {more} longer would settle it"),
            width,
        );
    }
}

fn item(out: &mut String, text: &str, width: usize) {
    for (index, line) in wrap(text, width.saturating_sub(4)).iter().enumerate() {
        let _ = writeln!(out, "  {} {line}", if index == 0 { '-' } else { ' ' });
    }
}

/// What was told of before and is over.
fn resolved(out: &mut String, report: &Report, paint: Paint, width: usize) {
    const MOST: usize = 8;
    if report.resolved.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{}", paint.bold("Resolved"));
    for finding in report.resolved.iter().take(MOST) {
        let since = finding
            .resolved_at
            .map(|at| end(report).duration_since(at).as_secs_f64().max(0.0));
        let ago = since.map_or(String::new(), |s| format!(", {} ago", units::duration(s)));
        let site = words::call_site(finding.call_site.as_ref());
        let because = finding.resolved_because.as_deref().unwrap_or_default();
        let text = format!(
            "{} {} at {site}{ago}: {}",
            clean(&finding.id),
            finding.kind,
            clean(because)
        );
        item(out, &text, width);
    }
    if report.resolved.len() > MOST {
        let _ = writeln!(out, "  … {} more", report.resolved.len() - MOST);
    }
}

fn baseline(out: &mut String, comparison: &Comparison, report: &Report, paint: Paint) {
    let _ = writeln!(
        out,
        "\n{}",
        paint.bold(&format!("Against {}", comparison.file))
    );
    let groups = [
        ("new", &comparison.new),
        ("faster", &comparison.faster),
        ("slower", &comparison.slower),
        ("gone", &comparison.gone),
        ("unchanged", &comparison.unchanged),
    ];
    for (label, ids) in groups {
        for id in ids {
            let now = report.findings.iter().find(|finding| finding.id == *id);
            let now = now.map(|now| (now.kind, &now.call_site));
            let mut gone = comparison.gone_findings.iter();
            let then = gone.find(|gone| gone.id == *id);
            let known = now.or(then.map(|then| (then.kind, &then.call_site)));
            let what = known.map_or(String::new(), |(kind, site)| {
                let site = site.as_ref().map(shorter::sites).unwrap_or_default();
                format!("  {kind} {}", site.first().map_or("", String::as_str))
            });
            let _ = writeln!(out, "  {label:<10}{}{what}", clean(id));
        }
    }
    if groups.iter().all(|(_, ids)| ids.is_empty()) {
        let _ = writeln!(out, "  no findings then, none now");
    }
}

fn resources(out: &mut String, report: &Report, style: Style) {
    let Style { paint, width, .. } = style;
    // what a finding has said by itself, of descriptors or of the ports to its remote
    let told = |one: &Resources, to: Option<&str>| {
        let mut findings = report
            .findings
            .iter()
            .filter(|finding| one.concern(finding));
        let says = |finding: &Finding| {
            to.is_none_or(|to| to == finding.remote.address)
                && finding::time_to_limit(finding, &report.resources).is_some()
        };
        style.detail == Detail::Short && findings.any(says)
    };
    let mut lines = Vec::new();
    for one in &report.resources {
        let pid = one.pid;
        let soon = |seconds: Option<u64>| match seconds {
            Some(0) => ", exhausted".to_owned(),
            Some(s) => {
                #[expect(clippy::cast_precision_loss, reason = "shown in two units at most")]
                let left = units::duration(s as f64);
                format!(", exhausted in {left} at this growth")
            }
            None => String::new(),
        };
        let limit = match one.fds_limit {
            u64::MAX => "unlimited".to_owned(),
            limit => limit.to_string(),
        };
        if !told(one, None) {
            lines.push(format!(
                "pid {pid}: {} of {limit} descriptors{}",
                one.fds_open,
                soon(one.exhausted_in_seconds)
            ));
        }
        let all = one.ephemeral_ports.iter();
        for ports in all.filter(|ports| !told(one, Some(&ports.destination))) {
            lines.push(format!(
                "pid {pid}: {} of {} ports to {}{}",
                ports.used,
                ports.available,
                clean(&ports.destination),
                soon(ports.exhausted_in_seconds)
            ));
        }
        for (errno, times) in &one.connect_errors {
            lines.push(format!(
                "pid {pid}: connect failed with {} {}",
                clean(errno),
                units::count(*times, "time")
            ));
        }
    }
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{}", paint.bold("Limits"));
    for line in lines {
        for (index, part) in wrap(&line, width.saturating_sub(4)).iter().enumerate() {
            let indent = if index == 0 { "  " } else { "    " };
            let _ = writeln!(out, "{indent}{part}");
        }
    }
}

/// Renders what could be seen.
pub fn coverage(out: &mut String, seen: &Coverage, paint: Paint, width: usize) {
    let _ = writeln!(out, "\n{}", paint.bold("Coverage"));
    let backend = match seen.backend.as_str() {
        "" => "nothing attached".to_owned(),
        backend => format!("hooks: {} or better", clean(backend)),
    };
    let mut line = format!(
        "{backend}; {} seen, {} tracked",
        units::count(seen.sockets_seen, "socket"),
        seen.sockets_tracked
    );
    if seen.sockets_unattributed > 0 {
        let _ = write!(
            line,
            ", {} without owner or stack",
            seen.sockets_unattributed
        );
    }
    line.push_str(&match seen.lost_events {
        0 => "; nothing lost".to_owned(),
        lost => paint.doubtful(&format!("; {} lost", units::count(lost, "event"))),
    });
    item(out, &line, width);
    for (cause, lost) in seen.losses.iter().filter(|(_, lost)| **lost > 0) {
        item(out, &format!("{}: {lost}", clean(cause)), width);
    }
    for refused in &seen.refused {
        let (what, reason) = (clean(&refused.what), clean(&refused.reason));
        let times = units::count(refused.count, "time");
        let line = format!("refused: {what}, {reason}: {times}").replace('_', " ");
        item(out, &line, width);
    }
    for sentence in &seen.degraded {
        item(out, &format!("not seen: {}", clean(sentence)), width);
    }
}

#[cfg(test)]
mod tests;
