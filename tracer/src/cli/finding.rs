//! One finding as people read it: what leaks, where, to what, how fast, until when, why we believe
//! it, and what to change; everything else where it is asked for.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{
    output::{Paint, clean, wrap},
    stack,
    stack::Frames,
    units,
    words::{call_site, confidence, place, seconds},
};
use crate::{
    model::{StackOf, StackQuality},
    report::{Finding, FindingState, LibrarySite, NamedBy, Resources},
};

/// Lines shown of a stack; `describe` has all.
const FRAMES_SHORT: usize = 8;
/// Requests shown as examples.
const EXAMPLES_SHORT: usize = 3;
/// Reasons shown.
const REASONS_SHORT: usize = 3;
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

/// How to show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Colour or none.
    pub paint: Paint,
    /// Columns of the terminal.
    pub width: usize,
    /// How much.
    pub detail: Detail,
    /// Which frames of stacks.
    pub frames: Frames,
}

impl Style {
    /// Without colour.
    #[must_use]
    pub fn plain(detail: Detail, width: usize) -> Style {
        Style {
            paint: Paint::OFF,
            width,
            detail,
            frames: Frames::default(),
        }
    }
}

struct Field<'a> {
    out: &'a mut String,
    style: Style,
}

impl Field<'_> {
    /// A labelled line; long text goes on below itself.
    fn line(&mut self, label: &str, text: &str) {
        let lines = wrap(text, self.style.width.saturating_sub(INDENT).max(40));
        self.lines(label, &lines);
    }

    /// As [`Field::line`], one of several.
    fn item(&mut self, label: &str, text: &str) {
        let mut lines = wrap(text, self.style.width.saturating_sub(INDENT + 2).max(40));
        for (index, line) in lines.iter_mut().enumerate() {
            line.insert_str(0, if index == 0 { "- " } else { "  " });
        }
        self.lines(label, &lines);
    }

    fn lines(&mut self, label: &str, lines: &[String]) {
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            let label = self.style.paint.dim(&format!("{label:<8}"));
            let _ = writeln!(self.out, "   {label}{line}");
        }
    }
}

/// Renders one finding; `now` is what ages are measured against, `limits` those of its processes.
pub fn finding(
    out: &mut String,
    finding: &Finding,
    number: Option<usize>,
    now: Timestamp,
    limits: &[Resources],
    style: Style,
) {
    let Style { paint, detail, .. } = style;
    let number = number.map_or(String::new(), |n| format!("{n}. "));
    let _ = writeln!(
        out,
        "{number}{}, {}  {}",
        paint.bold(finding.kind.name()),
        confidence(finding.confidence, paint),
        paint.dim(&format!("id {}", clean(&finding.id)))
    );
    let mut field = Field { out, style };
    if let Some(text) = life(finding, detail) {
        field.line("life", &text);
    }
    field.line("at", &site_line(finding, style));
    if let Some(library) = &finding.library {
        field.line("library", &library_line(library, style));
    }
    field.lines("to", &remote_lines(finding, detail));
    field.line("by", &process_line(finding, detail));
    field.line("count", &counts(finding, now));
    if let Some(text) = time_to_limit(finding, limits) {
        field.line("until", &text);
    }
    if !finding.also.is_empty() && detail == Detail::Full {
        let also: Vec<&str> = finding.also.iter().map(|kind| kind.name()).collect();
        field.line("also", &also.join(", "));
    }
    reasons(&mut field, finding);
    let callers = caller_lines(finding, style);
    if callers.len() > 1 {
        field.lines("callers", &callers);
    }
    let notes = finding.go.iter().flat_map(|go| &go.notes);
    for (index, sentence) in notes.enumerate() {
        field.item(if index == 0 { "in Go" } else { "" }, &clean(sentence));
    }
    stacks(&mut field, finding);
    if !finding.advice.is_empty() {
        field.line("do", &clean(&finding.advice));
    }
    if detail == Detail::Full {
        field.lines("where", &instance_lines(finding));
    }
}

fn reasons(field: &mut Field<'_>, finding: &Finding) {
    let most = match field.style.detail {
        Detail::Short => REASONS_SHORT,
        Detail::Full => usize::MAX,
    };
    for (index, sentence) in finding.evidence.iter().take(most).enumerate() {
        let label = if index == 0 { "because" } else { "" };
        field.item(label, &clean(sentence));
    }
    let more = finding.evidence.len().saturating_sub(most) as u64;
    if more > 0 {
        let text = format!("… {} with -v", units::count(more, "more reason"));
        let text = field.style.paint.dim(&text);
        field.lines("", &[text]);
    }
}

/// The stack, and where it differs the one that opened the connection, from where both part.
fn stacks(field: &mut Field<'_>, finding: &Finding) {
    let Style {
        paint,
        detail,
        frames,
        ..
    } = field.style;
    let site = finding.call_site.as_ref();
    let mut shown = stack::lines(&finding.stack, site, frames, paint);
    if detail == Detail::Short && !frames.all && shown.len() > FRAMES_SHORT {
        let more = shown.split_off(FRAMES_SHORT).len();
        shown.push(paint.dim(&format!("… {more} more with -v")));
    }
    field.lines("stack", &labelled(stack_label(finding), shown));
    if detail == Detail::Short && !finding.stack.is_empty() {
        return;
    }
    let (opener, stack) = (&finding.opener_stack, &finding.stack);
    let both = opener.iter().rev().zip(stack.iter().rev());
    let shared = both.take_while(|(one, two)| one == two).count();
    let own = &opener[..opener.len() - shared];
    if own.is_empty() {
        return;
    }
    let mut lines = stack::lines(own, None, frames, paint);
    if shared > 0 {
        lines.push(paint.dim("… the rest as above"));
    }
    field.lines("opened", &labelled("by connect or accept:", lines));
}

/// What became of it, where that is more than its numbers say.
fn life(finding: &Finding, detail: Detail) -> Option<String> {
    let because = finding.resolved_because.as_deref().unwrap_or_default();
    Some(match (finding.state, finding.resolved_at) {
        (FindingState::Resolved, Some(at)) => {
            format!("resolved at {}: {}", seconds(at), clean(because))
        }
        (FindingState::Back, _) => "back: it was resolved before".to_owned(),
        _ if detail == Detail::Short => return None,
        (FindingState::New, _) => "new: found less than a minute ago".to_owned(),
        (FindingState::Growing, _) => "growing".to_owned(),
        (FindingState::Steady | FindingState::Resolved, _) => {
            "steady: what there is stays, and no more comes".to_owned()
        }
    })
}

fn labelled(label: &str, lines: Vec<String>) -> Vec<String> {
    let label = (!label.is_empty() && !lines.is_empty()).then(|| label.to_owned());
    let lines = lines.into_iter().map(|line| format!("  {line}"));
    label.into_iter().chain(lines).collect()
}

/// When something runs out at the present growth: descriptors, or ports towards the remote.
fn time_to_limit(finding: &Finding, limits: &[Resources]) -> Option<String> {
    let concerned = |one: &&Resources| {
        one.pid == finding.process.pid || finding.instances.iter().any(|i| i.pid == one.pid)
    };
    let descriptors = |one: &Resources| {
        let left = one.exhausted_in_seconds?;
        let what = format!("descriptors ({} of {} used)", one.fds_open, one.fds_limit);
        Some((left, what))
    };
    let ports = |one: &Resources| {
        let all = one.ephemeral_ports.iter();
        all.filter(|ports| ports.destination == finding.remote.address)
            .filter_map(|ports| {
                let what = format!("local ports ({} of {} used)", ports.used, ports.available);
                Some((ports.exhausted_in_seconds?, what))
            })
            .min()
    };
    let (left, what) = limits
        .iter()
        .filter(concerned)
        .flat_map(|one| [descriptors(one), ports(one)])
        .flatten()
        .min()?;
    #[expect(clippy::cast_precision_loss, reason = "shown in two units at most")]
    Some(match left {
        0 => format!("now: no {what} left"),
        left => format!(
            "{what} run out in {} at this growth",
            units::duration(left as f64)
        ),
    })
}

fn site_line(finding: &Finding, style: Style) -> String {
    match &finding.call_site {
        Some(site) => {
            let mut site = site.clone();
            if !style.frames.full_paths {
                site.file = site.file.map(|file| stack::short_path(&file).to_owned());
            }
            style.paint.bold(&call_site(Some(&site)))
        }
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
        (None, None) => match &remote.peer {
            Some(peer) => format!(
                "unix:{} ({}, pid {})",
                clean(address),
                clean(&peer.comm),
                peer.pid
            ),
            None => match (&remote.host, remote.named_by) {
                (Some(name), NamedBy::Dns) => format!("{} ({})", clean(name), clean(address)),
                _ => clean(address).into_owned(),
            },
        },
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
    if let (Detail::Full, Some(because)) = (detail, &known.not_higher_because) {
        lines.push(format!(
            "(by {}: {})",
            known.named_by.name(),
            clean(because)
        ));
    }
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

/// Who called the function of the call site, with the number of connections that each of them
/// leaked, where that is known.
fn caller_lines(finding: &Finding, style: Style) -> Vec<String> {
    let shown = |function: &str, file: Option<&str>, line: Option<u32>| {
        let file = file.map(|file| match style.frames.full_paths {
            true => file,
            false => stack::short_path(file),
        });
        format!("{} {}", clean(function), place(file, line, None))
    };
    if !finding.called_by.is_empty() {
        let all = finding.called_by.iter();
        return all
            .map(|caller| {
                let place = shown(&caller.function, caller.file.as_deref(), caller.line);
                format!("{} by {place}", caller.count)
            })
            .collect();
    }
    let callers = finding.callers.iter();
    callers
        .map(|caller| shown(&caller.function, caller.file.as_deref(), caller.line))
        .collect()
}

/// The library's function that opened it.
fn library_line(library: &LibrarySite, style: Style) -> String {
    let frame = &library.frame;
    let file = frame.file.as_deref();
    let file = file.map(|file| match style.frames.full_paths {
        true => file,
        false => stack::short_path(file),
    });
    let place = place(file, frame.line, frame.module.as_deref());
    format!(
        "{}: {} {place}",
        clean(&library.name),
        clean(&frame.function)
    )
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
