//! What the live view shows, and what keys do to it; nothing here touches a terminal.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use ratatui::{
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind},
    layout::{Position, Rect},
    widgets::ListState,
};

use super::{
    Answer,
    population::{self, Order, Row},
};
use crate::{
    cli::{
        args::{SortBy, Top},
        finding, findings,
        output::Paint,
        words,
    },
    report::{Finding, Report, TimelinePoint},
};

/// Answers remembered of each finding, for its sparkline.
pub const PAST_MAX: usize = 60;
/// Lines that a page key moves by.
const PAGE: u16 = 10;

/// Lines that the mouse wheel moves by.
const WHEEL: u16 = 3;

/// Whether to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Go on.
    Stay,
    /// Go on, and give this to the clipboard.
    Copy(String),
    /// The user has seen enough.
    End,
}

/// Which list is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tab {
    /// What leaks.
    Findings,
    /// Everything that is watched.
    Populations,
}

/// What lies over the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Nothing.
    List,
    /// What is known of the row under the cursor, scrolled by so many lines.
    Detail(u16),
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
    /// Order of the findings.
    pub sort_by: SortBy,
    /// Order of the populations.
    pub rows_by: Order,
    /// Colour or none.
    pub paint: Paint,
    /// Which list is shown.
    pub tab: Tab,
    /// All populations that the filter leaves.
    pub rows: Vec<Row>,
    /// The selected row of each list.
    selected: [ListState; 2],
    /// Where the rows of the list are on the screen, and how many lines each has.
    pub rows_at: (Rect, u16),
    /// What was just done, to be said until the next key.
    pub notice: Option<String>,
    /// The past of the finding that is open, as its daemon keeps it.
    timeline: Option<(String, Vec<TimelinePoint>)>,
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
            rows_by: Order::Verdict,
            paint: Paint::OFF,
            tab: Tab::Findings,
            rows: Vec::new(),
            selected: [ListState::default().with_selected(Some(0)); 2],
            rows_at: (Rect::ZERO, 1),
            notice: None,
            timeline: None,
            over: Over::List,
            filter: String::new(),
            typing: false,
            paused: false,
            past: HashMap::new(),
        }
    }

    /// Takes an answer.
    pub fn take(&mut self, answer: Answer) {
        if self.paused {
            return;
        }
        let Answer {
            report,
            trouble,
            timeline,
        } = answer;
        self.trouble = trouble;
        self.timeline = timeline;
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

    /// The past of a finding: as its daemon keeps it, else as far as it was watched here.
    #[must_use]
    pub fn past_of(&self, id: &str) -> Vec<u64> {
        match &self.timeline {
            Some((of, points)) if of == id && points.len() > 1 => {
                points.iter().map(|point| point.outlived).collect()
            }
            _ => self.past(id).collect(),
        }
    }

    /// The past of a finding with its times, where its daemon told it.
    #[must_use]
    pub fn timeline_of(&self, id: &str) -> &[TimelinePoint] {
        match &self.timeline {
            Some((of, points)) if of == id => points,
            _ => &[],
        }
    }

    /// The finding whose past is wanted.
    #[must_use]
    pub fn opened(&self) -> Option<&str> {
        match self.over {
            Over::Detail(_) => self.selected_finding().map(|finding| finding.id.as_str()),
            _ => None,
        }
    }

    /// Filters and sorts anew; the selection stays on its row when others overtake it.
    fn arrange(&mut self) {
        let Some(mut report) = self.whole.clone() else {
            return;
        };
        let chosen = |findings: &[Finding], list: &ListState| {
            let at = list.selected()?.min(findings.len().checked_sub(1)?);
            Some(findings[at].id.clone())
        };
        let selected = chosen(self.findings(), &self.selected[0]);
        let population = self.selected_row().map(|row| row.key.clone());
        if self.trouble.is_none() {
            self.trouble = findings::no_pods(&report, &self.args.namespaces);
        }
        report
            .findings
            .retain(|finding| contains(finding, &self.filter));
        findings::select(&mut report, self.args, self.sort_by);
        let wanted = self.filter.to_lowercase();
        self.rows = population::rows(&report, self.rows_by);
        self.rows
            .retain(|row| row.finding.is_some() || row.contains(&wanted));
        let places = [
            selected.and_then(|id| report.findings.iter().position(|f| f.id == id)),
            population.and_then(|key| self.rows.iter().position(|row| row.key == key)),
        ];
        self.report = Some(report);
        if places[self.tab as usize].is_none() && matches!(self.over, Over::Detail(_)) {
            self.over = Over::List;
        }
        for (list, place) in self.selected.iter_mut().zip(places) {
            // Drawing an empty list also takes the selection away.
            list.select(Some(place.unwrap_or(0)));
        }
    }

    /// The selection of the list that is shown.
    pub fn selected(&mut self) -> &mut ListState {
        &mut self.selected[self.tab as usize]
    }

    /// How many rows the list that is shown has.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.tab {
            Tab::Findings => self.findings().len(),
            Tab::Populations => self.rows.len(),
        }
    }

    /// The population under the cursor of its list.
    #[must_use]
    pub fn selected_row(&self) -> Option<&Row> {
        let at = self.selected[Tab::Populations as usize].selected()?;
        self.rows.get(at.min(self.rows.len().checked_sub(1)?))
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

    /// The finding under the cursor, where it is on one.
    #[must_use]
    pub fn selected_finding(&self) -> Option<&Finding> {
        let findings = self.findings();
        if self.tab == Tab::Populations {
            let id = self.selected_row()?.finding.as_ref()?;
            return findings.iter().find(|finding| finding.id == *id);
        }
        let index = self.selected[0].selected()?;
        findings.get(index.min(findings.len().saturating_sub(1)))
    }

    /// Takes a key.
    pub fn key(&mut self, key: KeyEvent) -> Next {
        self.notice = None;
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Next::End;
        }
        if self.typing {
            self.type_filter(key.code);
            return Next::Stay;
        }
        match (key.code, self.over) {
            (KeyCode::Char('q'), _) => return Next::End,
            (KeyCode::Char('c' | 'y'), _) => return self.copy(),
            (KeyCode::Char('p' | ' '), _) => self.paused = !self.paused,
            (KeyCode::Char('?'), Over::Help) => self.over = Over::List,
            (KeyCode::Char('?'), _) => self.over = Over::Help,
            (KeyCode::Tab | KeyCode::BackTab, _) => self.show(match self.tab {
                Tab::Findings => Tab::Populations,
                Tab::Populations => Tab::Findings,
            }),
            (KeyCode::Char('1'), _) => self.show(Tab::Findings),
            (KeyCode::Char('2'), _) => self.show(Tab::Populations),
            // Esc goes back, and from the list takes the filter away; it never ends the view
            (KeyCode::Esc, Over::List) => self.set_filter(String::new()),
            (KeyCode::Esc | KeyCode::Enter | KeyCode::Left | KeyCode::Backspace, _)
                if self.over != Over::List =>
            {
                self.over = Over::List;
            }
            (code, Over::Detail(line)) => self.over = Over::Detail(scrolled(code, line)),
            (code, Over::List) => self.list_key(code),
            (_, Over::Help) => {}
        }
        Next::Stay
    }

    /// Takes what the mouse does: a click selects a row, one on the selected row opens it, and the
    /// wheel moves.
    pub fn mouse(&mut self, event: MouseEvent) {
        let (area, height) = self.rows_at;
        match (event.kind, self.over) {
            (MouseEventKind::ScrollUp, Over::Detail(line)) => {
                self.over = Over::Detail(line.saturating_sub(WHEEL));
            }
            (MouseEventKind::ScrollDown, Over::Detail(line)) => {
                self.over = Over::Detail(line.saturating_add(WHEEL));
            }
            (MouseEventKind::ScrollUp, Over::List) => self.list_key(KeyCode::Up),
            (MouseEventKind::ScrollDown, Over::List) => self.list_key(KeyCode::Down),
            (MouseEventKind::Down(MouseButton::Left), Over::List)
                if area.contains(Position::new(event.column, event.row)) =>
            {
                let row = usize::from((event.row - area.y) / height.max(1));
                let row = row + self.selected().offset();
                if row >= self.len() {
                } else if self.selected().selected() == Some(row) {
                    self.over = Over::Detail(0);
                } else {
                    self.selected().select(Some(row));
                }
            }
            _ => {}
        }
    }

    fn show(&mut self, tab: Tab) {
        self.tab = tab;
        self.over = Over::List;
    }

    /// The id of the finding under the cursor, for the clipboard.
    fn copy(&mut self) -> Next {
        let Some(id) = self.selected_finding().map(|finding| finding.id.clone()) else {
            return Next::Stay;
        };
        self.notice = Some(format!("copied {id}"));
        Next::Copy(id)
    }

    fn list_key(&mut self, code: KeyCode) {
        let last = self.len().saturating_sub(1);
        let at = self.selected().selected().unwrap_or(0);
        let page = usize::from(PAGE);
        let to = match code {
            KeyCode::Enter | KeyCode::Right if self.len() > 0 => {
                self.over = Over::Detail(0);
                return;
            }
            KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => (at + 1).min(last),
            KeyCode::PageUp => at.saturating_sub(page),
            KeyCode::PageDown => (at + page).min(last),
            KeyCode::Home => 0,
            KeyCode::End => last,
            KeyCode::Char('/') => {
                self.typing = true;
                return;
            }
            KeyCode::Char('s') if self.tab == Tab::Populations => {
                self.rows_by = self.rows_by.next();
                self.arrange();
                return;
            }
            KeyCode::Char('s') => {
                self.sort_by = match self.sort_by {
                    SortBy::Leaked => SortBy::Rate,
                    SortBy::Rate => SortBy::Age,
                    SortBy::Age => SortBy::Open,
                    SortBy::Open => SortBy::Leaked,
                };
                self.arrange();
                return;
            }
            _ => return,
        };
        self.selected().select(Some(to));
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
mod tests;
