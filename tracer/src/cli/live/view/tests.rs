//! What keys, the mouse and new answers do to the view.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

use clap::Parser as _;

use super::*;
use crate::{
    cli::args::{Cli, Command},
    model::Role,
    report::Population,
    samples,
};

fn args() -> Top {
    match Cli::try_parse_from(["tracer", "top"]).unwrap().command {
        Command::Top(top) => top,
        other => panic!("{other:?}"),
    }
}

fn press(view: &mut View<'_>, code: KeyCode) -> Next {
    view.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn answer(report: Option<Report>, trouble: Option<String>) -> Answer {
    Answer {
        report,
        trouble,
        timeline: None,
    }
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
    view.take(answer(Some(report.clone()), None));
    press(&mut view, KeyCode::Down);
    press(&mut view, KeyCode::Down);
    assert_eq!(view.selected_finding().unwrap().id, "second");
    report.findings[1].connections.outlived = 5000;
    view.take(answer(Some(report), None));
    assert_eq!(view.selected().selected(), Some(0));
    assert_eq!(view.selected_finding().unwrap().id, "second");
    assert_eq!(view.past("second").collect::<Vec<_>>(), [5, 5000]);
    let last_report = view.report.clone();
    view.take(answer(None, Some("gone".into())));
    assert_eq!(view.report, last_report);
}

#[test]
fn escape_goes_back_and_never_ends() {
    let args = args();
    let mut view = View::new(&args);
    assert_eq!(press(&mut view, KeyCode::Esc), Next::Stay);
    view.take(answer(Some(report_of_two()), None));
    press(&mut view, KeyCode::Enter);
    assert_eq!(view.over, Over::Detail(0));
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
    view.take(answer(Some(report_of_two()), None));
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
    view.take(answer(Some(samples::report()), None));
    press(&mut view, KeyCode::Char('p'));
    view.take(answer(Some(report_of_two()), None));
    assert_eq!(view.findings().len(), 1);
    press(&mut view, KeyCode::Char('p'));
    view.take(answer(Some(report_of_two()), None));
    assert_eq!(view.findings().len(), 2);
}

fn with_healthy() -> Report {
    let mut report = report_of_two();
    report.populations = [(7, "a"), (70, "b")]
        .map(|(open, remote)| Population {
            node: None,
            pid: 1,
            comm: "web".to_owned(),
            call_site: None,
            remote: remote.to_owned(),
            role: Role::Client,
            open,
            opened: open,
            closed: 0,
            reused: open,
            healthy_because: "used again and again".to_owned(),
        })
        .into();
    report
}

#[test]
fn the_second_tab_has_every_population_and_keeps_its_own_cursor() {
    let args = args();
    let mut view = View::new(&args);
    view.take(answer(Some(with_healthy()), None));
    press(&mut view, KeyCode::Down);
    press(&mut view, KeyCode::Tab);
    assert_eq!((view.tab, view.len()), (Tab::Populations, 4));
    assert!(view.selected_finding().is_some());
    press(&mut view, KeyCode::End);
    let last = view.selected_row().unwrap().key.clone();
    assert!(last.contains("client a"), "{last}");
    assert_eq!(view.selected_finding(), None);
    let mut report = with_healthy();
    report.populations[0].open = 700;
    view.take(answer(Some(report), None));
    assert_eq!(view.selected_row().unwrap().key, last);
    assert_eq!(view.selected().selected(), Some(2));
    press(&mut view, KeyCode::Char('1'));
    assert_eq!(view.selected_finding().unwrap().id, "second");
}

#[test]
fn the_id_under_the_cursor_is_copied_and_that_is_said() {
    let args = args();
    let mut view = View::new(&args);
    assert_eq!(press(&mut view, KeyCode::Char('c')), Next::Stay);
    view.take(answer(Some(report_of_two()), None));
    press(&mut view, KeyCode::Down);
    let copied = press(&mut view, KeyCode::Char('c'));
    assert_eq!(copied, Next::Copy("second".to_owned()));
    assert_eq!(view.notice.as_deref(), Some("copied second"));
    press(&mut view, KeyCode::Up);
    assert_eq!(view.notice, None);
}

#[test]
fn a_click_selects_and_another_opens() {
    let args = args();
    let mut view = View::new(&args);
    view.take(answer(Some(report_of_two()), None));
    view.rows_at = (Rect::new(0, 3, 80, 10), 2);
    let event = |kind, row| MouseEvent {
        kind,
        column: 5,
        row,
        modifiers: KeyModifiers::NONE,
    };
    let click = MouseEventKind::Down(MouseButton::Left);
    view.mouse(event(click, 6));
    assert_eq!(view.selected_finding().unwrap().id, "second");
    view.mouse(event(click, 9));
    assert_eq!(view.over, Over::List);
    view.mouse(event(click, 5));
    assert_eq!(view.over, Over::Detail(0));
    assert_eq!(view.opened(), Some("second"));
    view.mouse(event(MouseEventKind::ScrollDown, 5));
    assert_eq!(view.over, Over::Detail(WHEEL));
}
