//! `tracer describe`: everything known about one finding.

use std::fmt::Write as _;

use hyper::StatusCode;

use super::{
    Failure,
    args::{Describe, ReportForm},
    client::AskError,
    finding,
    finding::{Detail, Style},
    fleet,
    merge::Details,
    output,
    output::{Paint, clean},
    replay, words,
};
use crate::report::{FindingDetail, TimelinePoint, harmless};

/// Lines of a timeline; more do not help a reader.
const TIMELINE_LINES: usize = 24;
/// Longer lines are hard to read in an issue.
const MARKDOWN_WIDTH: usize = 100;
/// Characters of the longest bar.
const BAR: usize = 40;
/// Columns of a line before its bar.
const BESIDE_BAR: usize = 52;

/// Runs the command.
///
/// # Errors
/// [`Failure`] when no daemon answers, or none knows the finding.
pub fn run(args: &Describe) -> Result<u8, Failure> {
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if args.id.is_empty() || !args.id.chars().all(sound) {
        let id = clean(&args.id);
        return Err(Failure::usage(format!(
            "`{id}` is no id of a finding; `tracer top` lists them"
        )));
    }
    let detail = match &args.from {
        Some(path) => replay::detail(path, &args.id)?,
        None => ask(args)?,
    };
    match args.output {
        ReportForm::Json => {
            let json = serde_json::to_string_pretty(&detail).map_err(anyhow::Error::from)?;
            output::print(&format!("{}\n", harmless(json)))?;
        }
        ReportForm::Table => {
            let style = Style {
                paint: Paint::on(&std::io::stdout()),
                width: output::width(),
                columns: output::columns(),
                detail: Detail::Full,
                frames: args.frames.frames(),
            };
            output::print(&match args.markdown {
                true => markdown(&detail),
                false => render(&detail, style),
            })?;
        }
    }
    Ok(0)
}

/// What the daemons know, merged. One of several that does not know the finding is nothing to complain
/// about.
fn ask(args: &Describe) -> Result<FindingDetail, Failure> {
    let fleet = args.endpoints.fleet()?;
    let path = format!("/v1/findings/{}", args.id);
    let mut details = Details::default();
    let mut asked = fleet.ask(&path, |who, detail| details.add(who, detail))?;
    if asked.several() {
        let many = |error: &AskError| matches!(error, AskError::Refused(StatusCode::CONFLICT, _));
        if details.others || asked.silent.iter().any(|(_, error)| many(error)) {
            return Err(Failure::usage(format!(
                "several findings begin with {}; give more digits",
                args.id
            )));
        }
        for who in asked.pardon(StatusCode::NOT_FOUND) {
            details.knows_nothing(who);
        }
    }
    asked.need_one()?;
    details.finish(&asked).ok_or_else(|| {
        Failure::failed(format!(
            "no daemon knows a finding {}; `tracer top` lists them",
            args.id
        ))
    })
}

fn render(detail: &FindingDetail, style: Style) -> String {
    let mut out = String::new();
    let paint = style.paint;
    finding::finding(
        &mut out,
        &detail.finding,
        None,
        detail.observed_at,
        &detail.resources,
        style,
    );
    if detail.timeline.len() > 1 {
        let _ = writeln!(out, "\n{}", paint.bold("Leaked over time"));
        timeline(&mut out, &detail.timeline, style.width);
    }
    if let Some(nodes) = &detail.nodes {
        let _ = writeln!(out, "\n{}", fleet::answered(nodes));
    }
    out
}

/// A block to paste into an issue: the finding in words, its stack, and no colour.
fn markdown(detail: &FindingDetail) -> String {
    let finding = &detail.finding;
    let style = Style::plain(Detail::Short, MARKDOWN_WIDTH);
    let mut block = String::new();
    let limits = &detail.resources;
    finding::finding(&mut block, finding, None, detail.observed_at, limits, style);
    if detail.timeline.len() > 1 {
        let _ = writeln!(block, "\nLeaked over time");
        timeline(&mut block, &detail.timeline, MARKDOWN_WIDTH);
    }
    let mut out = String::new();
    let _ = writeln!(
        out,
        "**Connection leak: `{}` at `{}`**\n",
        finding.kind.name(),
        words::call_site(finding.call_site.as_ref()).replace('`', "´")
    );
    // no line of the block may end it
    let _ = writeln!(out, "```text\n{}```", block.replace("```", "´´´"));
    let _ = writeln!(out, "\nFound by tracer {}.", env!("CARGO_PKG_VERSION"));
    out
}

/// The past of a finding, one line for each moment.
pub fn timeline(out: &mut String, points: &[TimelinePoint], width: usize) {
    let longest = BAR.min(width.saturating_sub(BESIDE_BAR));
    let most = points
        .iter()
        .map(|point| point.outlived)
        .max()
        .unwrap_or(0)
        .max(1);
    let step = points.len().div_ceil(TIMELINE_LINES).max(1);
    // Counted from the end, so that the latest is always shown.
    let mut shown: Vec<&TimelinePoint> = points.iter().rev().step_by(step).collect();
    shown.reverse();
    for point in shown {
        let bar = usize::try_from(point.outlived * longest as u64 / most).unwrap_or(longest);
        let line = format!(
            "  {}  {:>8} of {:>8} open  {}",
            words::seconds(point.at),
            point.outlived,
            point.open,
            "#".repeat(bar)
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::{report::SCHEMA, samples};

    #[test]
    fn the_whole_finding_and_its_past_are_shown() {
        let point = |minutes, outlived| TimelinePoint {
            at: samples::start() + SignedDuration::from_mins(minutes),
            open: outlived + 2,
            outlived,
        };
        let detail = FindingDetail {
            schema: SCHEMA,
            observed_at: samples::start() + SignedDuration::from_mins(2),
            finding: samples::finding(),
            timeline: vec![point(0, 0), point(1, 10), point(2, 20)],
            resources: samples::report().resources,
            nodes: None,
        };
        let shown = render(&detail, Style::plain(Detail::Full, 100));
        for line in [
            "   until   descriptors (752 of 1024 used) run out in 1h 25m at this growth",
            "   by      app, pid 4711 (7 in its container), go1.27.3, /app",
            "   where   pid 4711: 820 connections, first seen 2026-01-02T03:04:05Z",
            "  2026-01-02T03:04:05Z         0 of        2 open",
            "  2026-01-02T03:05:05Z        10 of       12 open  ####################",
        ] {
            assert!(
                shown.lines().any(|known| known == line),
                "{line}\nis missing:\n{shown}"
            );
        }
    }

    #[test]
    fn markdown_is_one_block_that_nothing_inside_ends() {
        let mut finding = samples::finding();
        finding.evidence = vec!["```\nescaped".to_owned()];
        let shown = markdown(&FindingDetail {
            schema: SCHEMA,
            observed_at: samples::start(),
            finding,
            timeline: vec![],
            resources: vec![],
            nodes: None,
        });
        assert!(
            shown.starts_with("**Connection leak: `response_body"),
            "{shown}"
        );
        assert_eq!(shown.matches("```").count(), 2, "{shown}");
        assert!(shown.contains("main.fetch /src/main.go:24"), "{shown}");
    }

    #[test]
    fn a_long_past_is_thinned_and_ends_with_the_latest() {
        let points: Vec<TimelinePoint> = (0..100)
            .map(|number| TimelinePoint {
                at: samples::start(),
                open: number,
                outlived: number,
            })
            .collect();
        let mut out = String::new();
        timeline(&mut out, &points, 100);
        assert!(out.lines().count() <= TIMELINE_LINES);
        assert!(
            out.lines()
                .last()
                .is_some_and(|line| line.contains("99 of"))
        );
    }
}
