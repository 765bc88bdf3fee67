//! `tracer top -w`: the live full-screen view.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Modifier, Style, Stylize as _},
    text::{Line, Text},
    widgets::{Paragraph, Row, Table, TableState},
};

use super::{
    Failure,
    args::{SortBy, Top},
    client,
    client::Endpoint,
    merge,
    output::{Paint, clean},
    signals::Signals,
    text,
    text::Detail,
    top, units,
};
use crate::report::{Finding, Report, Verdict};

/// How often the daemons are asked.
const REFRESH: Duration = Duration::from_secs(2);
/// How long to wait for a key before looking at signals and answers.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// What the screen shows.
#[derive(Debug)]
struct View {
    report: Option<Report>,
    /// Why there is no newer report.
    trouble: Option<String>,
    updated: Option<Instant>,
    sort_by: SortBy,
    selected: TableState,
    /// The selected finding fills the screen, scrolled by so many lines.
    detail: Option<u16>,
}

/// Shows the view until the user has seen enough.
///
/// # Errors
/// [`Failure`] when the terminal can't be driven.
pub fn run(args: &Top, endpoints: &[Endpoint]) -> Result<(), Failure> {
    let signals = Signals::hold(false)
        .map_err(|e| Failure::failed(format!("cannot hold signals back: {e}")))?;
    let mut view = View {
        report: None,
        trouble: None,
        updated: None,
        sort_by: args.sort_by,
        selected: TableState::default().with_selected(0),
        detail: None,
    };
    // Answers may take seconds; keys must not.
    let (answers, arrived) = mpsc::sync_channel(1);
    let asked = endpoints.to_vec();
    thread::spawn(move || {
        loop {
            let started = Instant::now();
            if answers.send(ask(&asked)).is_err() {
                return;
            }
            thread::sleep(REFRESH.saturating_sub(started.elapsed()));
        }
    });
    let mut terminal = ratatui::try_init()
        .map_err(|e| Failure::failed(format!("cannot take over the terminal: {e}")))?;
    let result = loop {
        while let Ok(answer) = arrived.try_recv() {
            view.take(answer, args);
        }
        if let Err(error) = terminal.draw(|frame| view.draw(frame)) {
            break Err(error);
        }
        if signals.next().is_some() {
            break Ok(());
        }
        match next_key() {
            Ok(Some(key)) if !view.key(key) => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    ratatui::restore();
    result.map_err(|e| Failure::failed(format!("cannot draw on the terminal: {e}")))
}

/// The merged report, and what to say of endpoints that did not answer.
type Answer = (Option<Report>, Option<String>);

fn ask(endpoints: &[Endpoint]) -> Answer {
    let answers = match client::ask::<Report>(endpoints, "/v1/report") {
        Ok(answers) => answers,
        Err(failure) => return (None, Some(failure.to_string())),
    };
    let silent: Vec<String> = answers
        .iter()
        .filter_map(|answer| {
            let reason = answer.result.as_ref().err()?;
            Some(format!("{}: {reason}", answer.endpoint))
        })
        .collect();
    let trouble = (!silent.is_empty()).then(|| silent.join("; "));
    (merge::merge(answers), trouble)
}

fn next_key() -> std::io::Result<Option<KeyEvent>> {
    if !event::poll(KEY_WAIT)? {
        return Ok(None);
    }
    match event::read()? {
        Event::Key(key) if key.kind != KeyEventKind::Release => Ok(Some(key)),
        _ => Ok(None),
    }
}

impl View {
    fn take(&mut self, (report, trouble): Answer, args: &Top) {
        self.trouble = trouble;
        let Some(mut report) = report else { return };
        // The selection stays on its finding when others overtake it.
        let selected = self.selected_finding().map(|finding| finding.id.clone());
        top::select(&mut report, args, self.sort_by);
        let place = selected.and_then(|id| report.findings.iter().position(|f| f.id == id));
        if let Some(place) = place {
            self.selected.select(Some(place));
        } else {
            // Drawing an empty list also takes the selection away.
            self.selected.select(Some(0));
            self.detail = None;
        }
        self.report = Some(report);
        self.updated = Some(Instant::now());
    }

    fn findings(&self) -> &[Finding] {
        self.report.as_ref().map_or(&[], |report| &report.findings)
    }

    fn selected_finding(&self) -> Option<&Finding> {
        let findings = self.findings();
        let index = self.selected.selected()?;
        findings.get(index.min(findings.len().saturating_sub(1)))
    }

    /// Takes a key; `false` ends the view.
    fn key(&mut self, key: KeyEvent) -> bool {
        let last = self.findings().len().saturating_sub(1);
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match (key.code, self.detail) {
            (KeyCode::Char('c'), _) if control => return false,
            (KeyCode::Char('q'), _) | (KeyCode::Esc, None) => return false,
            (KeyCode::Esc | KeyCode::Enter | KeyCode::Left | KeyCode::Backspace, Some(_)) => {
                self.detail = None;
            }
            (KeyCode::Up | KeyCode::Char('k'), Some(line)) => {
                self.detail = Some(line.saturating_sub(1));
            }
            (KeyCode::Down | KeyCode::Char('j'), Some(line)) => {
                self.detail = Some(line.saturating_add(1));
            }
            (KeyCode::PageUp, Some(line)) => self.detail = Some(line.saturating_sub(10)),
            (KeyCode::PageDown, Some(line)) => self.detail = Some(line.saturating_add(10)),
            (KeyCode::Enter | KeyCode::Right, None) if self.selected_finding().is_some() => {
                self.detail = Some(0);
            }
            (KeyCode::Up | KeyCode::Char('k'), None) => self.selected.select_previous(),
            (KeyCode::Down | KeyCode::Char('j'), None) => {
                let next = self.selected.selected().map_or(0, |index| index + 1);
                self.selected.select(Some(next.min(last)));
            }
            (KeyCode::Home, None) => self.selected.select(Some(0)),
            (KeyCode::End, None) => self.selected.select(Some(last)),
            (KeyCode::Char('s'), None) => {
                self.sort_by = match self.sort_by {
                    SortBy::Leaked => SortBy::Rate,
                    SortBy::Rate => SortBy::Age,
                    SortBy::Age => SortBy::Open,
                    SortBy::Open => SortBy::Leaked,
                };
                if let Some(report) = &mut self.report {
                    top::sort(&mut report.findings, self.sort_by);
                }
            }
            _ => {}
        }
        true
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, body, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Min(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(self.headline()), head);
        let detail = self.detail.zip(self.selected_finding());
        if let Some((scroll, finding)) = detail {
            let mut shown = String::new();
            let now = self.report.as_ref().map_or(Timestamp::UNIX_EPOCH, top::end);
            let width = usize::from(body.width);
            text::finding(
                &mut shown,
                finding,
                None,
                now,
                Detail::Full,
                Paint::OFF,
                width,
            );
            let lines = u16::try_from(shown.lines().count()).unwrap_or(u16::MAX);
            let scroll = scroll.min(lines.saturating_sub(body.height));
            frame.render_widget(Paragraph::new(Text::raw(shown)).scroll((scroll, 0)), body);
            self.detail = Some(scroll);
        } else {
            let table = table(self.report.as_ref());
            frame.render_stateful_widget(table, body, &mut self.selected);
        }
        let keys = if self.detail.is_some() {
            "q quit  Esc back  ↑↓ scroll"
        } else {
            "q quit  Enter details  ↑↓ select  s sort"
        };
        frame.render_widget(Line::from(keys).dim(), foot);
    }

    fn headline(&self) -> Text<'static> {
        let first = match &self.report {
            None => Line::from("waiting for the first answer"),
            Some(report) => {
                let verdict = match report.verdict {
                    Verdict::Leak => "LEAK".bold().red(),
                    Verdict::Clean => "CLEAN".bold().green(),
                    Verdict::Inconclusive => "INCONCLUSIVE".bold().yellow(),
                };
                let age = self.updated.map_or(0.0, |at| at.elapsed().as_secs_f64());
                let sorted = format!("{:?}", self.sort_by).to_lowercase();
                let rest = format!(
                    "  {}, sorted by {sorted}, watched for {}, as of {} ago",
                    units::count(report.findings.len() as u64, "finding"),
                    units::duration(report.duration_seconds),
                    units::duration(age.floor()),
                );
                Line::from(vec![verdict, rest.into()])
            }
        };
        let second = match &self.trouble {
            Some(trouble) => Line::from(clean(trouble).into_owned()).yellow(),
            None => Line::default(),
        };
        Text::from(vec![first, second])
    }
}

fn table(report: Option<&Report>) -> Table<'static> {
    let headings = [
        "LEAKED",
        "OPEN",
        "/MIN",
        "OLDEST",
        "KIND",
        "CONFIDENCE",
        "PROCESS",
        "CALL SITE",
        "REMOTE",
    ];
    let rows = report.into_iter().flat_map(|report| {
        let now = top::end(report);
        report.findings.iter().map(move |finding| {
            let cells = top::COLUMNS
                .iter()
                .filter(|column| !column.wide && !matches!(column.heading, "ID" | "PID"));
            Row::new(
                cells
                    .map(|column| (column.cell)(finding, now).shown())
                    .collect::<Vec<_>>(),
            )
        })
    });
    let widths = [
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(24),
        Constraint::Length(10),
        Constraint::Length(15),
        Constraint::Fill(3),
        Constraint::Fill(2),
    ];
    Table::new(rows, widths)
        .header(Row::new(headings).style(Style::new().bold()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use clap::Parser as _;
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::cli::{
        args::{Cli, Command},
        samples,
    };

    fn view() -> View {
        View {
            report: None,
            trouble: None,
            updated: None,
            sort_by: SortBy::Leaked,
            selected: TableState::default().with_selected(0),
            detail: None,
        }
    }

    fn args() -> Top {
        match Cli::try_parse_from(["tracer", "top"]).unwrap().command {
            Command::Top(top) => top,
            other => panic!("{other:?}"),
        }
    }

    fn screen(view: &mut View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(160, 24)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    fn press(view: &mut View, code: KeyCode) -> bool {
        view.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn the_view_waits_lists_and_describes() {
        let mut view = view();
        assert!(screen(&mut view).contains("waiting for the first answer"));
        assert!(press(&mut view, KeyCode::Enter));
        assert_eq!(view.detail, None);
        view.take(
            (Some(samples::report()), Some("b:1: refused".into())),
            &args(),
        );
        let shown = screen(&mut view);
        for word in [
            "LEAK",
            "1 finding",
            "820",
            "main.fetch /src/main.go:24",
            "b:1: refused",
        ] {
            assert!(shown.contains(word), "{word} is missing:\n{shown}");
        }
        assert!(press(&mut view, KeyCode::Enter));
        assert!(screen(&mut view).contains("defer resp.Body.Close()"));
        assert!(press(&mut view, KeyCode::Esc));
        assert!(!press(&mut view, KeyCode::Char('q')));
    }

    #[test]
    fn the_selection_follows_its_finding() {
        let mut report = samples::report();
        let mut second = samples::finding();
        second.id = "second".to_owned();
        second.connections.outlived = 5;
        report.findings.push(second);
        let mut view = view();
        view.take((Some(report.clone()), None), &args());
        press(&mut view, KeyCode::Down);
        press(&mut view, KeyCode::Down);
        assert_eq!(view.selected_finding().unwrap().id, "second");
        report.findings[1].connections.outlived = 5000;
        view.take((Some(report), None), &args());
        assert_eq!(view.selected.selected(), Some(0));
        assert_eq!(view.selected_finding().unwrap().id, "second");
        let last_report = view.report.clone();
        view.take((None, Some("gone".into())), &args());
        assert_eq!(view.report, last_report);
    }
}
