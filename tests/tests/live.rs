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
            "http://prices.t",
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
