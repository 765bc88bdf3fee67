//! A report as people read it.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{
    output::{Paint, clean, wrap},
    units,
};
use crate::{
    model::{Confidence, Frame, StackOf, StackQuality},
    report::{CallSite, Comparison, Coverage, Finding, Report, Resources, Verdict},
};

/// Frames shown of each stack; `describe` and JSON have all.
const FRAMES_SHORT: usize = 8;
/// Requests shown as examples.
const EXAMPLES_SHORT: usize = 3;
/// Width of the labels at the left.
const INDENT: usize = 11;

/// How much of a finding to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What fits a screen.
    Short,
    /// Everything.
    Full,
}

/// Renders a whole report.
#[must_use]
pub fn report(report: &Report, paint: Paint, width: usize) -> String {
    let mut out = String::new();
    headline(&mut out, report, paint, width);
    for (index, one) in report.findings.iter().enumerate() {
        let _ = writeln!(out);
        let number = Some(index + 1);
        finding(
            &mut out,
            one,
            number,
            end(report),
            Detail::Short,
            paint,
            width,
        );
    }
    if let Some(comparison) = &report.baseline {
        baseline(&mut out, comparison, report, paint);
    }
    resources(&mut out, &report.resources, paint);
    if let Some(seen) = &report.coverage {
        coverage(&mut out, seen, paint, width);
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

fn confidence(level: Confidence, paint: Paint) -> String {
    match level {
        Confidence::High => paint.bad("high confidence"),
        Confidence::Medium => paint.doubtful("medium confidence"),
        Confidence::Low => paint.dim("low confidence"),
    }
}

/// `/src/main.go:24`, as far as it is known.
#[must_use]
pub fn place(file: Option<&str>, line: Option<u32>, module: Option<&str>) -> String {
    match (file, line, module) {
        (Some(file), Some(line), _) => format!("{}:{line}", clean(file)),
        (Some(file), None, _) => clean(file).into_owned(),
        (None, _, Some(module)) => format!("in {}", clean(module)),
        (None, _, None) => String::new(),
    }
}

/// `main.fetch /src/main.go:24`.
#[must_use]
pub fn call_site(site: Option<&CallSite>) -> String {
    match site {
        Some(site) => format!(
            "{} {}",
            clean(&site.function),
            place(site.file.as_deref(), site.line, site.module.as_deref())
        )
        .trim_end()
        .to_owned(),
        None => "unknown".to_owned(),
    }
}

struct Field<'a> {
    out: &'a mut String,
    paint: Paint,
    width: usize,
}

impl Field<'_> {
    /// A labelled line; long text goes on below itself.
    fn line(&mut self, label: &str, text: &str) {
        let lines = wrap(text, self.width.saturating_sub(INDENT).max(40));
        self.lines(label, &lines);
    }

    /// As [`Field::line`], one of several.
    fn item(&mut self, label: &str, text: &str) {
        let mut lines = wrap(text, self.width.saturating_sub(INDENT + 2).max(40));
        for (index, line) in lines.iter_mut().enumerate() {
            line.insert_str(0, if index == 0 { "- " } else { "  " });
        }
        self.lines(label, &lines);
    }

    fn lines(&mut self, label: &str, lines: &[String]) {
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            let label = self.paint.dim(&format!("{label:<8}"));
            let _ = writeln!(self.out, "   {label}{line}");
        }
    }
}

/// Renders one finding; `now` is what ages are measured against.
pub fn finding(
    out: &mut String,
    finding: &Finding,
    number: Option<usize>,
    now: Timestamp,
    detail: Detail,
    paint: Paint,
    width: usize,
) {
    let number = number.map_or(String::new(), |n| format!("{n}. "));
    let _ = writeln!(
        out,
        "{number}{}, {}  {}",
        paint.bold(finding.kind.name()),
        confidence(finding.confidence, paint),
        paint.dim(&format!("id {}", clean(&finding.id)))
    );
    let mut field = Field { out, paint, width };
    field.line("at", &site_line(finding, paint));
    field.lines("to", &remote_lines(finding, detail));
    field.line("by", &process_line(finding, detail));
    field.line("count", &counts(finding, now));
    if !finding.also.is_empty() {
        let also: Vec<&str> = finding.also.iter().map(|kind| kind.name()).collect();
        field.line("also", &also.join(", "));
    }
    for (index, sentence) in finding.evidence.iter().enumerate() {
        let label = if index == 0 { "because" } else { "" };
        field.item(label, &clean(sentence));
    }
    if let [_, _, ..] = finding.callers.as_slice() {
        field.lines("callers", &caller_lines(finding));
    }
    let notes = finding.go.iter().flat_map(|go| &go.notes);
    for (index, sentence) in notes.enumerate() {
        field.item(if index == 0 { "in Go" } else { "" }, &clean(sentence));
    }
    let label = stack_label(finding);
    let site = finding.call_site.as_ref();
    let blamed = finding.stack.iter().position(|frame| {
        site.is_some_and(|site| {
            (&site.function, &site.file, site.line) == (&frame.function, &frame.file, frame.line)
        })
    });
    let lines = stack_lines(label, &finding.stack, blamed, detail);
    field.lines("stack", &lines);
    if detail == Detail::Full || finding.stack.is_empty() {
        field.lines(
            "opened",
            &stack_lines("by connect or accept:", &finding.opener_stack, None, detail),
        );
    }
    if !finding.advice.is_empty() {
        field.line("do", &clean(&finding.advice));
    }
    if detail == Detail::Full {
        field.lines("where", &instance_lines(finding));
    }
}

fn site_line(finding: &Finding, paint: Paint) -> String {
    match &finding.call_site {
        Some(site) => paint.bold(&call_site(Some(site))),
        None if finding.stack_quality == StackQuality::None => {
            "unknown: no stack could be taken".to_owned()
        }
        None => "unknown: no frame of the stack belongs to the application".to_owned(),
    }
}

/// What the process talks to, in one line: the URL where it is known.
#[must_use]
pub fn remote(finding: &Finding) -> String {
    let remote = &finding.remote;
    let address = remote.path.as_deref().unwrap_or(&remote.address);
    match (&remote.url, &finding.local) {
        (Some(url), _) => clean(url).into_owned(),
        (None, Some(local)) => format!("accepted on {}", clean(local)),
        (None, None) => clean(address).into_owned(),
    }
}

fn remote_lines(finding: &Finding, detail: Detail) -> Vec<String> {
    let mut lines = vec![remote(finding)];
    let known = &finding.remote;
    let address = known.path.as_deref().unwrap_or(&known.address);
    let url = known.url.as_deref().unwrap_or_default();
    if !url.is_empty() && !url.contains(address) {
        lines[0] = format!("{} at {}", lines[0], clean(address));
    }
    let most = match detail {
        Detail::Short => EXAMPLES_SHORT,
        Detail::Full => usize::MAX,
    };
    let examples = known.examples.iter().filter(|example| *example != url);
    lines.extend(
        examples
            .take(most)
            .map(|example| clean(example).into_owned()),
    );
    lines
}

fn process_line(finding: &Finding, detail: Detail) -> String {
    let process = &finding.process;
    let mut line = format!("{}, pid {}", clean(&process.comm), process.pid);
    if let Some(inner) = process.ns_pid {
        let _ = write!(line, " ({inner} in its container)");
    }
    if let Some(runtime) = &process.runtime {
        let _ = write!(line, ", {}", clean(runtime));
    }
    if let Some(pod) = &process.pod {
        let namespace = process.namespace.as_deref().unwrap_or("?");
        let _ = write!(line, ", pod {}/{}", clean(namespace), clean(pod));
    }
    if let Some(id) = &process.container_id {
        let short: String = match detail {
            Detail::Short => id.chars().take(12).collect(),
            Detail::Full => id.clone(),
        };
        let _ = write!(line, ", container {}", clean(&short));
    }
    if let (Detail::Full, Some(exe)) = (detail, &process.exe) {
        let _ = write!(line, ", {}", clean(exe));
    }
    let others = finding.instances.len().saturating_sub(1) as u64;
    if others > 0 {
        let _ = write!(line, " and {}", units::count(others, "more process"));
    }
    line
}

fn counts(finding: &Finding, now: Timestamp) -> String {
    let counts = &finding.connections;
    let mut line = format!("{} outlived of {} open", counts.outlived, counts.open);
    if finding.growth_per_minute != 0.0 {
        let sign = if finding.growth_per_minute > 0.0 {
            "+"
        } else {
            ""
        };
        let _ = write!(
            line,
            ", {sign}{}/min",
            units::number(finding.growth_per_minute)
        );
    } else {
        line.push_str(", not growing");
    }
    if finding.requests > 0 {
        let each = units::number(finding.leaked_per_request);
        let _ = write!(line, ", {each} per request");
    }
    if let Some(period) = finding.burst_period_seconds {
        let _ = write!(line, ", in bursts every {}", units::duration(period));
    }
    if let Some(oldest) = finding.oldest_opened_at {
        let age = now.duration_since(oldest).as_secs_f64().max(0.0);
        let _ = write!(line, ", oldest {}", units::duration(age));
    }
    let _ = write!(line, "; {} opened, {} closed", counts.opened, counts.closed);
    line
}

/// Who called the function of the call site, where there are several.
fn caller_lines(finding: &Finding) -> Vec<String> {
    let callers = finding.callers.iter();
    callers
        .map(|caller| {
            let place = place(caller.file.as_deref(), caller.line, None);
            format!("{} {place}", clean(&caller.function))
        })
        .collect()
}

fn stack_label(finding: &Finding) -> &'static str {
    match finding.stack_of {
        Some(StackOf::Request) => "of the latest request:",
        Some(StackOf::Connect) => "of connect:",
        Some(StackOf::Accept) => "of accept:",
        Some(StackOf::FirstIo) => "of the first transfer:",
        None => "",
    }
}

/// The innermost frames, or all; where the one to `blame` is further out, the innermost one and
/// those from the blamed one on.
fn stack_lines(label: &str, frames: &[Frame], blame: Option<usize>, detail: Detail) -> Vec<String> {
    if frames.is_empty() {
        return Vec::new();
    }
    let mut lines = Vec::new();
    if !label.is_empty() {
        lines.push(label.to_owned());
    }
    let most = match detail {
        Detail::Short => FRAMES_SHORT,
        Detail::Full => usize::MAX,
    };
    let skip = match blame {
        Some(blame) if blame + 1 >= most => 1..blame,
        _ => 0..0,
    };
    let end = frames.len().min(most.saturating_add(skip.len()));
    for (number, frame) in frames.iter().enumerate().take(end) {
        if skip.contains(&number) {
            if number == skip.start {
                lines.push(format!("  … {} of libraries", skip.len()));
            }
            continue;
        }
        let place = place(frame.file.as_deref(), frame.line, frame.module.as_deref());
        let inlined = if frame.inlined { " (inlined)" } else { "" };
        let line = format!("  {} {place}{inlined}", clean(&frame.function));
        lines.push(line.trim_end().to_owned());
    }
    if frames.len() > end {
        lines.push(format!("  … {} more", frames.len() - end));
    }
    lines
}

fn instance_lines(finding: &Finding) -> Vec<String> {
    let lines = finding.instances.iter().map(|instance| {
        format!(
            "{}pid {}: {}, first seen {}",
            instance
                .node
                .as_deref()
                .map_or(String::new(), |node| format!("{}, ", clean(node))),
            instance.pid,
            units::count(instance.connections, "connection"),
            seconds(instance.first_seen_at),
        )
    });
    lines.collect()
}

/// A date without fractions of a second.
#[must_use]
pub fn seconds(date: Timestamp) -> String {
    format!("{date:.0}")
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
            let known = report.findings.iter().find(|finding| finding.id == *id);
            let what = known.map_or(String::new(), |finding| {
                format!(
                    "  {} {}",
                    finding.kind,
                    call_site(finding.call_site.as_ref())
                )
            });
            let _ = writeln!(out, "  {label:<10}{}{what}", clean(id));
        }
    }
    if groups.iter().all(|(_, ids)| ids.is_empty()) {
        let _ = writeln!(out, "  no findings then, none now");
    }
}

fn resources(out: &mut String, all: &[Resources], paint: Paint) {
    let mut lines = Vec::new();
    for one in all {
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
        lines.push(format!(
            "  pid {pid}: {} of {limit} descriptors{}",
            one.fds_open,
            soon(one.exhausted_in_seconds)
        ));
        for ports in &one.ephemeral_ports {
            lines.push(format!(
                "  pid {pid}: {} of {} ports to {}{}",
                ports.used,
                ports.available,
                clean(&ports.destination),
                soon(ports.exhausted_in_seconds)
            ));
        }
        for (errno, times) in &one.connect_errors {
            lines.push(format!(
                "  pid {pid}: connect failed with {} {}",
                clean(errno),
                units::count(*times, "time")
            ));
        }
    }
    if !lines.is_empty() {
        let _ = writeln!(out, "\n{}\n{}", paint.bold("Limits"), lines.join("\n"));
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
    for sentence in &seen.degraded {
        item(out, &format!("not seen: {}", clean(sentence)), width);
    }
}

#[cfg(test)]
mod tests;
