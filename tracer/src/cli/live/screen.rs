//! Drawing the live view.

use jiff::Timestamp;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Modifier, Style, Stylize as _},
    text::{Line, Span, Text},
    widgets::{List, ListItem, Paragraph},
};

use super::{
    population, styled,
    view::{Over, Tab, View},
};
use crate::{
    cli::{
        columns::{self, Column},
        describe, finding,
        finding::Detail,
        findings, fit,
        output::{self, clean},
        stack::Frames,
        units,
    },
    report::{Finding, Verdict},
};

/// Width of a sparkline in the list.
const SPARK: usize = 10;
/// Width of the one of a finding that is open.
const SPARK_OPEN: usize = 40;
/// Narrower screens have no room for sparklines beside the list.
const SPARK_FROM: u16 = 120;

const HELP: &str = "\
Keys
  ↑ ↓ j k PgUp PgDn Home End   move
  Enter →   open what is under the cursor
  Esc ←     back; in the list: take the filter away
  Tab 1 2   findings, or all populations: what is healthy, too, with the reason
  /         filter: kind, process, pid, call site, remote or id contains this
  s         sort (leaked, rate, age, open; 2: verdict, open, opened, process)
  c         copy the finding's id, for tracer describe
  p space   pause, go on
  ?         this help
  q Ctrl-C  quit
  Mouse     a click selects, another opens, the wheel moves; Shift marks text

LEAKED  open and past the end of their request
/MIN    growth of that, per minute
OLDEST  age of the oldest connection of the finding
TREND   LEAKED at the latest answers, from the least of them to the most

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
        Over::Detail(scroll) => detail(view, frame, body, scroll),
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
        Over::List if view.tab == Tab::Populations => {
            "q quit  ? help  Enter details  Tab findings  / filter  s sort  c copy id"
        }
        Over::List => "q quit  ? help  Enter details  Tab populations  / filter  s sort  c copy id",
        Over::Detail(_) => "q quit  ? help  Esc back  ↑↓ scroll  c copy id",
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
                match view.tab {
                    Tab::Findings => view.sort_by.name(),
                    Tab::Populations => view.rows_by.name().to_owned(),
                },
                units::duration(report.duration_seconds),
            );
            rest += &match view.paused {
                true => "PAUSED".to_owned(),
                false => format!("as of {age}s ago"),
            };
            Line::from(vec![verdict, rest.into()])
        }
    };
    Text::from(vec![first, tabs(view)])
}

/// The two lists, the shown one in brackets, and what there is to say.
fn tabs(view: &View<'_>) -> Line<'static> {
    let tab = |tab: Tab, name: &str, count: usize| -> Span<'static> {
        match view.tab == tab {
            true => format!("[{name} {count}]").bold(),
            false => format!(" {name} {count} ").dim(),
        }
    };
    let mut spans = vec![
        tab(Tab::Findings, "Findings", view.findings().len()),
        "  ".into(),
        tab(Tab::Populations, "Populations", view.rows.len()),
    ];
    if let Some(notice) = &view.notice {
        spans.push(format!("  {}", clean(notice)).into());
    }
    if let Some(trouble) = &view.trouble {
        spans.push(format!("  {}", clean(trouble)).yellow());
    }
    Line::from(spans)
}

fn detail(view: &mut View<'_>, frame: &mut Frame<'_>, body: Rect, scroll: u16) {
    let now = end(view);
    let width = usize::from(body.width);
    let shown = match (view.selected_finding(), view.selected_row()) {
        (Some(selected), _) => opened(view, selected, now, width),
        (None, Some(row)) if view.tab == Tab::Populations => row.told(now),
        (None, _) => return,
    };
    let shown = styled::text(&shown, width);
    let lines = u16::try_from(shown.lines.len()).unwrap_or(u16::MAX);
    let scroll = scroll.min(lines.saturating_sub(body.height));
    frame.render_widget(Paragraph::new(shown).scroll((scroll, 0)), body);
    view.over = Over::Detail(scroll);
}

/// A finding with its past.
fn opened(view: &View<'_>, selected: &Finding, now: Timestamp, width: usize) -> String {
    let mut shown = String::new();
    let past = view.past_of(&selected.id);
    if past.len() > 1 {
        let label = view.paint.dim("trend   ");
        shown += &format!(
            "   {label}{}  {} now\n",
            sparkline(&past, SPARK_OPEN),
            selected.connections.outlived
        );
    }
    let style = finding::Style {
        paint: view.paint,
        width: width.min(output::WIDTH_MAX),
        columns: width,
        detail: Detail::Full,
        frames: Frames::default(),
    };
    let limits = view
        .report
        .as_ref()
        .map_or(&[][..], |report| &report.resources);
    finding::finding(&mut shown, selected, None, now, limits, style);
    // the headline first
    let (trend, rest) = match past.len() > 1 {
        true => shown.split_at(shown.find('\n').map_or(0, |end| end + 1)),
        false => ("", &*shown),
    };
    let (head, rest) = rest.split_at(rest.find('\n').map_or(0, |end| end + 1));
    let mut told = format!("{head}{trend}{rest}");
    let timeline = view.timeline_of(&selected.id);
    if timeline.len() > 1 {
        told += &format!("\n{}\n", view.paint.bold("Leaked over time"));
        describe::timeline(&mut told, timeline, width);
    }
    told
}

fn end(view: &View<'_>) -> Timestamp {
    view.report
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, findings::end)
}

fn list(view: &mut View<'_>, frame: &mut Frame<'_>, body: Rect) {
    let (rows, from) = match view.tab {
        Tab::Findings => {
            let wide = body.width >= SPARK_FROM;
            let beside = |finding: &Finding| {
                let past: Vec<u64> = view.past(&finding.id).collect();
                sparkline(&past, SPARK)
            };
            let beside: Option<&dyn Fn(&Finding) -> String> = wide.then_some(&beside);
            rows(findings::COLUMNS, view.findings(), end(view), body, beside)
        }
        Tab::Populations => rows(population::COLUMNS, &view.rows, end(view), body, None),
    };
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(body);
    frame.render_widget(Line::from(from).bold(), head);
    let height = rows.iter().map(ListItem::height).max().unwrap_or(1);
    view.rows_at = (body, u16::try_from(height).unwrap_or(1));
    let list = List::new(rows).highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(list, body, view.selected());
}

/// Rows of a list and the line of their headings; `beside` gives a sparkline for each.
fn rows<T>(
    columns: &[Column<T>],
    all: &[T],
    now: Timestamp,
    body: Rect,
    beside: Option<&dyn Fn(&T) -> String>,
) -> (Vec<ListItem<'static>>, String) {
    let spark = if beside.is_some() {
        SPARK + fit::GAP
    } else {
        0
    };
    let room = usize::from(body.width).saturating_sub(spark);
    let laid = columns::lay(columns, all, now, room);
    let items = all.iter().enumerate().map(|(number, row)| {
        let mut lines = laid.lines(number);
        if let (Some(beside), Some(first)) = (beside, lines.first_mut()) {
            *first = fit::pad(&beside(row), spark, false) + first;
        }
        ListItem::new(lines.into_iter().map(Line::from).collect::<Text<'static>>())
    });
    let items = items.collect();
    let heading = match beside {
        Some(_) => fit::pad("TREND", spark, false) + &laid.heading(),
        None => laid.heading(),
    };
    (items, heading)
}

/// The latest values, at most `width`, as bars between the least and the most of them.
fn sparkline(past: &[u64], width: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &past[past.len().saturating_sub(width)..];
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

    use super::{super::Answer, *};
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

    fn answer(trouble: Option<&str>) -> Answer {
        Answer {
            report: Some(samples::report()),
            trouble: trouble.map(str::to_owned),
            timeline: None,
        }
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
        view.take(answer(Some("b:1: refused")));
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
            view.take(answer(None));
            let shown = screen(&mut view, width, 24);
            for word in ["LEAKED", "main.fetch /src/main.go:24"] {
                assert!(shown.contains(word), "{width}: {word} is missing:\n{shown}");
            }
            assert!(shown.contains("127.0.0.1:8080/v2/"), "{width}:\n{shown}");
        }
    }

    #[test]
    fn the_help_fits_the_narrowest_screen() {
        for line in HELP.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn a_sparkline_spans_what_it_shows() {
        assert_eq!(sparkline(&[], SPARK), "");
        assert_eq!(sparkline(&[7, 7], SPARK), "▁▁");
        assert_eq!(sparkline(&(0..8).collect::<Vec<_>>(), SPARK), "▁▂▃▄▅▆▇█");
        assert_eq!(
            sparkline(&(0..100).collect::<Vec<_>>(), SPARK)
                .chars()
                .count(),
            SPARK
        );
    }
}
