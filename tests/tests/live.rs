//! The live view fits its terminal, explains itself, and ends when it should.

use anyhow::{Result, ensure};
use tracer_tests::{
    host::seconds,
    terminal::{Session, Terminal},
    tests,
};

use crate::daemon;

tests![
    whole_words_at_every_width,
    keys_do_what_help_says,
    populations_and_the_finding_stay_under_the_cursor,
    what_is_copied_reaches_the_terminal,
    the_mouse_opens_what_it_clicks,
    readable_without_colour,
    ends_with_its_terminal,
    ends_with_a_signal,
];

fn whole_words_at_every_width() -> Result<()> {
    let watched = daemon::watched()?;
    watched.leak()?;
    for size in [(80, 24), (100, 30), (200, 60)] {
        let terminal = Terminal::start(&mut watched.live()?, size, Session::Own)?;
        let site = [
            "LEAKED",
            "fetch_price",
            "client.c:",
            "prices.test/v1",
            "q quit",
        ];
        terminal.shows(&site, seconds(20))?;
    }
    Ok(())
}

fn keys_do_what_help_says() -> Result<()> {
    let watched = daemon::watched()?;
    watched.leak()?;
    let mut view = Terminal::start(&mut watched.live()?, (100, 30), Session::Own)?;
    view.shows(&["fetch_price"], seconds(20))?;
    view.press("?")?;
    view.shows(&["filter: kind"], seconds(10))?;
    // Esc alone goes back, and does not end the view, however often
    for _ in 0..3 {
        view.press("\x1b")?;
        view.shows(&["fetch_price", "1 finding"], seconds(10))?;
    }
    view.press("/nosuchsite\r")?;
    view.shows(&["0 findings", "1 hidden"], seconds(10))?;
    view.press("\x1b")?;
    view.shows(&["1 finding", "fetch_price"], seconds(10))?;
    view.press("\r")?;
    view.shows(&["high confidence", "Esc back"], seconds(10))?;
    view.press("q")?;
    let status = view.end(seconds(10))?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn populations_and_the_finding_stay_under_the_cursor() -> Result<()> {
    let watched = daemon::watched()?;
    watched.leak()?;
    for size in [(80, 24), (200, 60)] {
        let view = Terminal::start(&mut watched.live()?, size, Session::Own)?;
        view.shows(&["fetch_price", "[Findings 1]"], seconds(20))?;
        view.press("\t")?;
        view.shows(
            &["[Populations", "VERDICT", "leaks", "outlived"],
            seconds(10),
        )?;
        // the leak opens from here, too, with its past and its stack
        view.press("\r")?;
        let words = ["high confidence", "trend", "fetch_price", "Esc back"];
        view.shows(&words, seconds(10))?;
        view.press("\x1b")?;
        view.shows(&["[Populations", "VERDICT"], seconds(10))?;
        view.press("1")?;
        view.shows(&["[Findings 1]", "LEAKED"], seconds(10))?;
        view.press("q")?;
    }
    Ok(())
}

fn what_is_copied_reaches_the_terminal() -> Result<()> {
    let watched = daemon::watched()?;
    let report = watched.leak()?;
    let id = report.only()?["id"].as_str().unwrap_or_default();
    let view = Terminal::start(&mut watched.live()?, (80, 24), Session::Own)?;
    view.shows(&["fetch_price"], seconds(20))?;
    view.press("c")?;
    view.shows(&[&format!("copied {id}")], seconds(10))
}

fn the_mouse_opens_what_it_clicks() -> Result<()> {
    let watched = daemon::watched()?;
    watched.leak()?;
    let view = Terminal::start(&mut watched.live()?, (80, 24), Session::Own)?;
    view.shows(&["fetch_price"], seconds(20))?;
    let screen = view.screen();
    let row = screen.lines().position(|line| line.contains("fetch_price"));
    let row = row.unwrap_or(3) + 1;
    // xterm's SGR mode: button 0 goes down at column 10 of the row, and up again
    view.press(&format!("\x1b[<0;10;{row}M\x1b[<0;10;{row}m"))?;
    view.shows(&["high confidence", "Esc back"], seconds(10))
}

/// Verdict, cursor and tabs can be told by words and brackets, and no colour is set.
fn readable_without_colour() -> Result<()> {
    let watched = daemon::watched()?;
    watched.leak()?;
    let mut command = watched.live()?;
    command.env("NO_COLOR", "1");
    let view = Terminal::start(&mut command, (80, 24), Session::Own)?;
    view.shows(&["LEAK", "[Findings 1]", "fetch_price"], seconds(20))?;
    view.press("\r")?;
    view.shows(&["high confidence", "Esc back"], seconds(10))?;
    let cells = view.cells();
    for row in 0..24 {
        for column in 0..80 {
            let colour = cells
                .cell(row, column)
                .map(|cell| (cell.fgcolor(), cell.bgcolor()));
            let plain = (vt100::Color::Default, vt100::Color::Default);
            ensure!(
                colour.is_none_or(|colour| colour == plain),
                "colour at {row}, {column}:\n{}",
                view.screen()
            );
        }
    }
    Ok(())
}

/// Also where no signal tells of it: only the end of the input does.
fn ends_with_its_terminal() -> Result<()> {
    let watched = daemon::watched()?;
    for session in [Session::Own, Session::Foreign] {
        let mut view = Terminal::start(&mut watched.live()?, (100, 30), session)?;
        view.shows(&["q quit"], seconds(20))?;
        view.hang_up();
        view.end(seconds(10))?;
    }
    Ok(())
}

fn ends_with_a_signal() -> Result<()> {
    let watched = daemon::watched()?;
    let mut view = Terminal::start(&mut watched.live()?, (100, 30), Session::Own)?;
    view.shows(&["q quit"], seconds(20))?;
    view.signal(libc::SIGTERM)?;
    let status = view.end(seconds(10))?;
    ensure!(status.success(), "{status}");
    Ok(())
}
