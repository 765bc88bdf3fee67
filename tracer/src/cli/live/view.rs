//! What the live view shows, and what keys do to it; nothing here touches a terminal.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use ratatui::{
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    widgets::ListState,
};

use super::Answer;
use crate::{
    cli::{
        args::{SortBy, Top},
        finding, findings, words,
    },
    report::{Finding, Report},
};

/// Answers remembered of each finding, for its sparkline.
pub const PAST_MAX: usize = 60;
/// Lines that a page key moves by.
const PAGE: u16 = 10;

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Go on.
    Stay,
    /// The user has seen enough.
    End,
}

/// What lies over the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Nothing.
    List,
    /// The selected finding, scrolled by so many lines.
    Finding(u16),
    /// What the keys do.
    Help,
}

/// What the screen shows.
#[derive(Debug)]
pub struct View<'a> {
    args: &'a Top,
    /// As the daemons gave it.
    whole: Option<Report>,
    /// Filtered and sorted.
    pub report: Option<Report>,
    /// Why there is no newer report.
    pub trouble: Option<String>,
    /// When the report came.
    pub updated: Option<Instant>,
    /// Order of the list.
    pub sort_by: SortBy,
    /// The selected row.
    pub selected: ListState,
    /// What lies over the list.
    pub over: Over,
    /// Text that rows must contain.
    pub filter: String,
    /// Keys go into the filter.
    pub typing: bool,
    /// New answers are not shown.
    pub paused: bool,
    /// Outlived connections of each finding at the latest answers, oldest first.
    past: HashMap<String, VecDeque<u64>>,
}

impl<'a> View<'a> {
    /// A view that waits for its first answer.
    pub fn new(args: &'a Top) -> View<'a> {
        View {
            args,
            whole: None,
            report: None,
            trouble: None,
            updated: None,
            sort_by: args.sort_by,
            selected: ListState::default().with_selected(Some(0)),
            over: Over::List,
            filter: String::new(),
            typing: false,
            paused: false,
            past: HashMap::new(),
        }
    }

    /// Takes an answer.
    pub fn take(&mut self, (report, trouble): Answer) {
        if self.paused {
            return;
        }
        self.trouble = trouble;
        let Some(report) = report else { return };
        self.remember(&report);
        self.whole = Some(report);
        self.updated = Some(Instant::now());
        self.arrange();
    }

    /// Only findings that are still there are remembered.
    fn remember(&mut self, report: &Report) {
        let mut before = std::mem::take(&mut self.past);
        for finding in &report.findings {
            let mut past = before.remove(&finding.id).unwrap_or_default();
            if past.len() == PAST_MAX {
                past.pop_front();
            }
            past.push_back(finding.connections.outlived);
            self.past.insert(finding.id.clone(), past);
        }
    }

    /// Outlived connections of a finding at the latest answers, oldest first.
    pub fn past(&self, id: &str) -> impl Iterator<Item = u64> {
        self.past.get(id).into_iter().flatten().copied()
    }

    /// Filters and sorts anew; the selection stays on its finding when others overtake it.
    fn arrange(&mut self) {
        let Some(mut report) = self.whole.clone() else {
            return;
        };
        let selected = self.selected_finding().map(|finding| finding.id.clone());
        if self.trouble.is_none() {
            self.trouble = findings::no_pods(&report, &self.args.namespaces);
        }
        report
            .findings
            .retain(|finding| contains(finding, &self.filter));
        findings::select(&mut report, self.args, self.sort_by);
        let place = selected.and_then(|id| report.findings.iter().position(|f| f.id == id));
        if place.is_none() && matches!(self.over, Over::Finding(_)) {
            self.over = Over::List;
        }
        // Drawing an empty list also takes the selection away.
        self.selected.select(Some(place.unwrap_or(0)));
        self.report = Some(report);
    }

    /// The findings shown.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        self.report.as_ref().map_or(&[], |report| &report.findings)
    }

    /// Findings that the filter hides.
    #[must_use]
    pub fn hidden(&self) -> usize {
        let all = self
            .whole
            .as_ref()
            .map_or(0, |report| report.findings.len());
        all.saturating_sub(self.findings().len())
    }

    /// The finding under the cursor.
    #[must_use]
    pub fn selected_finding(&self) -> Option<&Finding> {
        let findings = self.findings();
        let index = self.selected.selected()?;
        findings.get(index.min(findings.len().saturating_sub(1)))
    }

    /// Takes a key.
    pub fn key(&mut self, key: KeyEvent) -> Next {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Next::End;
        }
        if self.typing {
            self.type_filter(key.code);
            return Next::Stay;
        }
        match (key.code, self.over) {
            (KeyCode::Char('q'), _) => return Next::End,
            (KeyCode::Char('p' | ' '), _) => self.paused = !self.paused,
            (KeyCode::Char('?'), Over::Help) => self.over = Over::List,
            (KeyCode::Char('?'), _) => self.over = Over::Help,
            // Esc goes back, and from the list takes the filter away; it never ends the view
            (KeyCode::Esc, Over::List) => self.set_filter(String::new()),
            (KeyCode::Esc | KeyCode::Enter | KeyCode::Left | KeyCode::Backspace, _)
                if self.over != Over::List =>
            {
                self.over = Over::List;
            }
            (code, Over::Finding(line)) => self.over = Over::Finding(scrolled(code, line)),
            (code, Over::List) => self.list_key(code),
            (_, Over::Help) => {}
        }
        Next::Stay
    }

    fn list_key(&mut self, code: KeyCode) {
        let last = self.findings().len().saturating_sub(1);
        let at = self.selected.selected().unwrap_or(0);
        let page = usize::from(PAGE);
        match code {
            KeyCode::Enter | KeyCode::Right if self.selected_finding().is_some() => {
                self.over = Over::Finding(0);
            }
            KeyCode::Up | KeyCode::Char('k') => self.selected.select(Some(at.saturating_sub(1))),
            KeyCode::Down | KeyCode::Char('j') => self.selected.select(Some((at + 1).min(last))),
            KeyCode::PageUp => self.selected.select(Some(at.saturating_sub(page))),
            KeyCode::PageDown => self.selected.select(Some((at + page).min(last))),
            KeyCode::Home => self.selected.select(Some(0)),
            KeyCode::End => self.selected.select(Some(last)),
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Char('s') => {
                self.sort_by = match self.sort_by {
                    SortBy::Leaked => SortBy::Rate,
                    SortBy::Rate => SortBy::Age,
                    SortBy::Age => SortBy::Open,
                    SortBy::Open => SortBy::Leaked,
                };
                self.arrange();
            }
            _ => {}
        }
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.typing = false,
            KeyCode::Esc => {
                self.typing = false;
                self.set_filter(String::new());
            }
            KeyCode::Backspace => {
                let mut filter = self.filter.clone();
                filter.pop();
                self.set_filter(filter);
            }
            KeyCode::Char(c) => self.set_filter(format!("{}{c}", self.filter)),
            _ => {}
        }
    }

    fn set_filter(&mut self, filter: String) {
        if self.filter != filter {
            self.filter = filter;
            self.arrange();
        }
    }
}

fn scrolled(code: KeyCode, line: u16) -> u16 {
    match code {
        KeyCode::Up | KeyCode::Char('k') => line.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => line.saturating_add(1),
        KeyCode::PageUp => line.saturating_sub(PAGE),
        KeyCode::PageDown => line.saturating_add(PAGE),
        KeyCode::Home => 0,
        KeyCode::End => u16::MAX,
        _ => line,
    }
}

/// Whether a finding has the text in what its row says: kind, process, pid, pod, site, remote, id.
fn contains(found: &Finding, text: &str) -> bool {
    let process = &found.process;
    let pid = process.pid.to_string();
    let site = words::call_site(found.call_site.as_ref());
    let remote = finding::remote(found);
    let wanted = text.to_lowercase();
    [
        found.kind.name(),
        &process.comm,
        &pid,
        process.pod.as_deref().unwrap_or_default(),
        process.namespace.as_deref().unwrap_or_default(),
        &site,
        &remote,
        &found.remote.address,
        &found.id,
    ]
    .iter()
    .any(|known| known.to_lowercase().contains(&wanted))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::samples;

    fn args() -> Top {
        match Cli::try_parse_from(["tracer", "top"]).unwrap().command {
            Command::Top(top) => top,
            other => panic!("{other:?}"),
        }
    }

    fn press(view: &mut View<'_>, code: KeyCode) -> Next {
        view.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn report_of_two() -> Report {
        let mut report = samples::report();
        let mut second = samples::finding();
        second.id = "second".to_owned();
        second.connections.outlived = 5;
        second.process.comm = "other".to_owned();
        report.findings.push(second);
        report
    }

    #[test]
    fn the_selection_follows_its_finding() {
        let args = args();
        let mut view = View::new(&args);
        let mut report = report_of_two();
        view.take((Some(report.clone()), None));
        press(&mut view, KeyCode::Down);
        press(&mut view, KeyCode::Down);
        assert_eq!(view.selected_finding().unwrap().id, "second");
        report.findings[1].connections.outlived = 5000;
        view.take((Some(report), None));
        assert_eq!(view.selected.selected(), Some(0));
        assert_eq!(view.selected_finding().unwrap().id, "second");
        assert_eq!(view.past("second").collect::<Vec<_>>(), [5, 5000]);
        let last_report = view.report.clone();
        view.take((None, Some("gone".into())));
        assert_eq!(view.report, last_report);
    }

    #[test]
    fn escape_goes_back_and_never_ends() {
        let args = args();
        let mut view = View::new(&args);
        assert_eq!(press(&mut view, KeyCode::Esc), Next::Stay);
        view.take((Some(report_of_two()), None));
        press(&mut view, KeyCode::Enter);
        assert_eq!(view.over, Over::Finding(0));
        assert_eq!(press(&mut view, KeyCode::Esc), Next::Stay);
        assert_eq!(view.over, Over::List);
        press(&mut view, KeyCode::Char('?'));
        assert_eq!(view.over, Over::Help);
        assert_eq!(press(&mut view, KeyCode::Esc), Next::Stay);
        assert_eq!(press(&mut view, KeyCode::Char('q')), Next::End);
    }

    #[test]
    fn the_filter_takes_all_keys_while_it_is_typed() {
        let args = args();
        let mut view = View::new(&args);
        view.take((Some(report_of_two()), None));
        for c in "/OTHERq".chars() {
            assert_eq!(press(&mut view, KeyCode::Char(c)), Next::Stay);
        }
        assert_eq!((view.findings().len(), view.hidden()), (0, 2));
        press(&mut view, KeyCode::Backspace);
        press(&mut view, KeyCode::Enter);
        assert_eq!(view.findings().len(), 1);
        assert_eq!(view.selected_finding().unwrap().id, "second");
        press(&mut view, KeyCode::Esc);
        assert_eq!(view.findings().len(), 2);
        assert_eq!(view.selected_finding().unwrap().id, "second");
    }

    #[test]
    fn a_paused_view_stands_still() {
        let args = args();
        let mut view = View::new(&args);
        view.take((Some(samples::report()), None));
        press(&mut view, KeyCode::Char('p'));
        view.take((Some(report_of_two()), None));
        assert_eq!(view.findings().len(), 1);
        press(&mut view, KeyCode::Char('p'));
        view.take((Some(report_of_two()), None));
        assert_eq!(view.findings().len(), 2);
    }
}
