//! Drawing the live view.

use jiff::Timestamp;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style, Stylize as _},
    text::{Line, Text},
    widgets::{List, ListItem, Paragraph},
};

use super::view::{Over, View};
use crate::{
    cli::{columns, finding, finding::Detail, findings, fit, output::clean, units},
    report::Verdict,
};

/// Width of a sparkline.
const SPARK: usize = 10;
/// Narrower screens have no room for sparklines.
const SPARK_FROM: u16 = 120;

const HELP: &str = "\
Keys
  ↑ ↓ j k PgUp PgDn Home End   move
  Enter  →                     open the finding under the cursor
  Esc  ←                       back; in the list: take the filter away
  /                            filter: kind, process, pid, call site, remote or id contains this
  s                            sort by leaked, rate, age, open
  p  space                     pause, go on
  ?                            this help
  q  Ctrl-C                    quit

LEAKED  open and past the end of their request
/MIN    growth of that, per minute
OLDEST  age of the oldest connection of the finding

The same for scripts: tracer top -o jsonl; one finding: tracer describe ID";

/// Draws everything.
pub fn draw(view: &mut View<'_>, frame: &mut Frame<'_>) {
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(headline(view)), head);
    match view.over {
        Over::List => list(view, frame, body),
        Over::Finding(scroll) => detail(view, frame, body, scroll),
        Over::Help => frame.render_widget(Paragraph::new(HELP), body),
    }
    frame.render_widget(footline(view), foot);
}

fn footline(view: &View<'_>) -> Line<'static> {
    if view.typing {
        return Line::from(format!(
            "/{}▏  Enter keeps it, Esc takes it away",
            view.filter
        ));
    }
    let keys = match view.over {
        Over::List => "q quit  ? help  Enter details  ↑↓ select  / filter  s sort  p pause",
        Over::Finding(_) => "q quit  ? help  Esc back  ↑↓ scroll",
        Over::Help => "q quit  Esc back",
    };
    Line::from(keys).dim()
}

fn headline(view: &View<'_>) -> Text<'static> {
    let first = match &view.report {
        None => Line::from("waiting for the first answer"),
        Some(report) => {
            let verdict = match report.verdict {
                Verdict::Leak => "LEAK".bold().red(),
                Verdict::Clean => "CLEAN".bold().green(),
                Verdict::Inconclusive => "INCONCLUSIVE".bold().yellow(),
            };
            let age = view.updated.map_or(0, |at| at.elapsed().as_secs());
            let mut rest = format!(
                "  {}",
                units::count(report.findings.len() as u64, "finding")
            );
            if !view.filter.is_empty() {
                rest += &format!(" with “{}” ({} hidden)", clean(&view.filter), view.hidden());
            }
            rest += &format!(
                ", sorted by {}, watched for {}, ",
                view.sort_by.name(),
                units::duration(report.duration_seconds),
            );
            rest += &match view.paused {
                true => "PAUSED".to_owned(),
                false => format!("as of {age}s ago"),
            };
            Line::from(vec![verdict, rest.into()])
        }
    };
    let second = match &view.trouble {
        Some(trouble) => Line::from(clean(trouble).into_owned()).yellow(),
        None => Line::default(),
    };
    Text::from(vec![first, second])
}

fn detail(view: &mut View<'_>, frame: &mut Frame<'_>, body: Rect, scroll: u16) {
    let now = end(view);
    let Some(selected) = view.selected_finding() else {
        return;
    };
    let mut shown = String::new();
    let style = finding::Style::plain(Detail::Full, usize::from(body.width));
    let limits = view
        .report
        .as_ref()
        .map_or(&[][..], |report| &report.resources);
    finding::finding(&mut shown, selected, None, now, limits, style);
    let lines = u16::try_from(shown.lines().count()).unwrap_or(u16::MAX);
    let scroll = scroll.min(lines.saturating_sub(body.height));
    frame.render_widget(Paragraph::new(Text::raw(shown)).scroll((scroll, 0)), body);
    view.over = Over::Finding(scroll);
}

fn end(view: &View<'_>) -> Timestamp {
    view.report
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, findings::end)
}

fn list(view: &mut View<'_>, frame: &mut Frame<'_>, body: Rect) {
    let spark = if body.width >= SPARK_FROM {
        SPARK + fit::GAP
    } else {
        0
    };
    let room = usize::from(body.width).saturating_sub(spark);
    let laid = columns::lay(findings::COLUMNS, view.findings(), end(view), room);
    let beside = |text: &str, line: String| match spark {
        0 => line,
        spark => fit::pad(text, spark, false) + &line,
    };
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(body);
    frame.render_widget(Line::from(beside("TREND", laid.heading())).bold(), head);
    let items: Vec<ListItem<'static>> = view
        .findings()
        .iter()
        .enumerate()
        .map(|(row, finding)| {
            let mut lines = laid.lines(row);
            lines[0] = beside(
                &sparkline(view.past(&finding.id).collect()),
                lines[0].clone(),
            );
            ListItem::new(lines.into_iter().map(Line::from).collect::<Text<'static>>())
        })
        .collect();
    let list = List::new(items).highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(list, body, &mut view.selected);
}

/// The latest values as bars between the least and the most of them.
fn sparkline(past: Vec<u64>) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &past[past.len().saturating_sub(SPARK)..];
    let (Some(&least), Some(&most)) = (shown.iter().min(), shown.iter().max()) else {
        return String::new();
    };
    let range = (most - least).max(1);
    let bar = |value: u64| usize::try_from((value - least) * 7 / range).unwrap_or(0);
    shown.iter().map(|&value| BARS[bar(value)]).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use clap::Parser as _;
    use ratatui::{
        Terminal,
        backend::TestBackend,
        crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    };

    use super::*;
    use crate::cli::args::{Cli, Command, Top};
    use crate::samples;

    fn args() -> Top {
        match Cli::try_parse_from(["tracer", "top"]).unwrap().command {
            Command::Top(top) => top,
            other => panic!("{other:?}"),
        }
    }

    fn screen(view: &mut View<'_>, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(view, frame)).unwrap();
        terminal.backend().to_string()
    }

    fn press(view: &mut View<'_>, code: KeyCode) {
        view.key(KeyEvent::new(code, KeyModifiers::NONE));
    }

    #[test]
    fn the_view_waits_lists_and_describes() {
        let args = args();
        let mut view = View::new(&args);
        assert!(screen(&mut view, 160, 24).contains("waiting for the first answer"));
        press(&mut view, KeyCode::Enter);
        assert_eq!(view.over, Over::List);
        view.take((Some(samples::report()), Some("b:1: refused".into())));
        let shown = screen(&mut view, 160, 24);
        for word in [
            "LEAK",
            "1 finding",
            "820",
            "main.fetch /src/main.go:24",
            "b:1: refused",
            "TREND",
        ] {
            assert!(shown.contains(word), "{word} is missing:\n{shown}");
        }
        press(&mut view, KeyCode::Enter);
        assert!(screen(&mut view, 160, 50).contains("defer resp.Body.Close()"));
        press(&mut view, KeyCode::Esc);
        press(&mut view, KeyCode::Char('?'));
        assert!(screen(&mut view, 80, 24).contains("take the filter away"));
    }

    #[test]
    fn site_and_remote_are_whole_words_on_every_screen() {
        let args = args();
        for width in [80, 100, 200] {
            let mut view = View::new(&args);
            view.take((Some(samples::report()), None));
            let shown = screen(&mut view, width, 24);
            for word in ["LEAKED", "main.fetch /src/main.go:24"] {
                assert!(shown.contains(word), "{width}: {word} is missing:\n{shown}");
            }
            assert!(shown.contains("http://127.0.0.1"), "{width}:\n{shown}");
        }
    }

    #[test]
    fn a_sparkline_spans_what_it_shows() {
        assert_eq!(sparkline(vec![]), "");
        assert_eq!(sparkline(vec![7, 7]), "▁▁");
        assert_eq!(sparkline((0..8).collect()), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline((0..100).collect()).chars().count(), SPARK);
    }
}
