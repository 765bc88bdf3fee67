//! One finding as people read it: what leaks, where, to what, how fast, until when, why we believe
//! it, and what to change; everything else where it is asked for.

mod facts;

use std::fmt::Write as _;

use jiff::Timestamp;
use textwrap::core::display_width;

pub use self::facts::{remote, time_to_limit};
use super::{
    fit,
    output::{Paint, clean, wrap},
    stack,
    stack::{Frames, Parted},
    units,
    words::{confidence, seconds},
};
use crate::report::{Finding, FindingState, Resources};

/// Lines shown of a stack, and of who called the call site; `describe` has all.
const FRAMES_SHORT: usize = 8;
/// The same of who called the call site, where that is known.
const CALLERS_SHORT: usize = 2;
/// Reasons shown.
const REASONS_SHORT: usize = 2;
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
    /// Columns for sentences.
    pub width: usize,
    /// Columns of the terminal, for what stands side by side.
    pub columns: usize,
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
            columns: width,
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

    /// Two stacks beside each other from where they part, below each other where that is too wide.
    fn both(&mut self, label: &str, first: &str, parted: Parted) {
        let second = labelled("of connect or accept:", parted.second);
        let first = labelled(first, parted.first);
        match beside(&first, &second, self.style.columns.saturating_sub(INDENT)) {
            Some(lines) => self.lines(label, &lines),
            None => {
                self.lines(label, &first);
                self.lines("", &second);
            }
        }
        self.lines("", &labelled("both of them from:", parted.both));
    }

    fn lines(&mut self, label: &str, lines: &[String]) {
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            let label = self.style.paint.dim(&format!("{label:<8}"));
            let _ = writeln!(self.out, "   {label}{line}");
        }
    }
}

/// Two texts beside each other, where both fit `room` columns.
fn beside(left: &[String], right: &[String], room: usize) -> Option<Vec<String>> {
    let width = |lines: &[String]| lines.iter().map(|line| display_width(line)).max();
    let column = width(left)? + fit::GAP;
    if column + width(right)? > room {
        return None;
    }
    let rows = (0..left.len().max(right.len())).map(|row| {
        let cell = |lines: &[String]| lines.get(row).cloned().unwrap_or_default();
        let line = fit::pad(&cell(left), column, false) + &cell(right);
        line.trim_end().to_owned()
    });
    Some(rows.collect())
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
    field.line("at", &facts::site_line(finding, style));
    from(&mut field, finding);
    if let Some(library) = &finding.library {
        field.line("library", &facts::library_line(library, style));
    }
    field.lines("to", &facts::remote_lines(finding, style));
    field.line("by", &facts::process_line(finding, detail));
    field.line("count", &facts::counts(finding, now));
    if let Some(text) = facts::errors(finding) {
        field.line("errors", &text);
    }
    if let Some(text) = time_to_limit(finding, limits) {
        field.line("until", &text);
    }
    if !finding.also.is_empty() && detail == Detail::Full {
        let also: Vec<&str> = finding.also.iter().map(|kind| kind.name()).collect();
        field.line("also", &also.join(", "));
    }
    reasons(&mut field, finding);
    let notes = finding.go.iter().flat_map(|go| &go.notes);
    for (index, sentence) in notes.enumerate() {
        field.item(if index == 0 { "in Go" } else { "" }, &clean(sentence));
    }
    stacks(&mut field, finding);
    if !finding.advice.is_empty() {
        field.line("do", &clean(&finding.advice));
    }
    if let Some(code) = &finding.snippet {
        let lines: Vec<String> = code.lines().map(|line| clean(line).into_owned()).collect();
        field.lines("e.g.", &lines);
    }
    if detail == Detail::Full {
        field.lines("where", &facts::instance_lines(finding));
    }
}

/// Who called the call site: with counts where a helper leaks for several, else from its stack.
fn from(field: &mut Field<'_>, finding: &Finding) {
    let Style {
        paint,
        detail,
        frames,
        ..
    } = field.style;
    let mut callers = facts::caller_lines(finding, field.style);
    if callers.len() < 2 {
        callers = match (detail, &finding.call_site) {
            (Detail::Short, Some(site)) if !frames.all => {
                stack::callers(&finding.stack, site, frames, paint)
            }
            _ => return,
        };
    }
    if detail == Detail::Short && callers.len() > CALLERS_SHORT {
        let more = callers.split_off(CALLERS_SHORT).len();
        callers.push(paint.dim(&format!("… {more} more with -v")));
    }
    field.lines("called", &callers);
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

/// The stack, and where it differs the one that opened the connection beside it.
fn stacks(field: &mut Field<'_>, finding: &Finding) {
    let Style {
        paint,
        detail,
        frames,
        ..
    } = field.style;
    let site = finding.call_site.as_ref();
    if detail == Detail::Short && site.is_some() && !frames.all {
        return;
    }
    let label = facts::stack_label(finding);
    if detail == Detail::Full
        && let Some(parted) =
            stack::parted(&finding.stack, &finding.opener_stack, site, frames, paint)
    {
        return field.both("stack", label, parted);
    }
    let mut shown = stack::lines(&finding.stack, site, frames, paint);
    if detail == Detail::Short && !frames.all && shown.len() > FRAMES_SHORT {
        let more = shown.split_off(FRAMES_SHORT).len();
        shown.push(paint.dim(&format!("… {more} more with -v")));
    }
    field.lines("stack", &labelled(label, shown));
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
