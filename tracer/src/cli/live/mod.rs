//! `tracer top -w`: the live full-screen view.
//!
//! Keys and answers come from threads of their own; this one waits for them, for signals, and for
//! the terminal to go away. That last wait is ours because the library that reads keys goes on
//! reading a terminal that is no longer there.

mod screen;
mod view;

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{self, Event, KeyEventKind};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use self::view::{Next, View};
use super::{Failure, args::Top, client, client::Endpoint, merge, signals::Signals};
use crate::report::Report;

/// How often the daemons are asked.
const REFRESH: Duration = Duration::from_secs(2);
/// The screen is drawn at least this often, for the age that it shows.
const DRAW_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};
/// Keys and answers waiting to be taken; a thread that finds no room waits.
const WAITING_MAX: usize = 64;

/// The merged report, and what to say of endpoints that did not answer.
type Answer = (Option<Report>, Option<String>);

/// What the threads tell.
enum News {
    Input(Event),
    Answer(Box<Answer>),
    /// Keys can't be read any more.
    Deaf(io::Error),
}

/// Shows the view until the user has seen enough or the terminal is gone.
///
/// # Errors
/// [`Failure`] when the terminal can't be driven.
pub fn run(args: &Top, endpoints: &[Endpoint]) -> Result<(), Failure> {
    let signals = Signals::hold(false)
        .map_err(|e| Failure::failed(format!("cannot hold signals back: {e}")))?;
    let mut view = View::new(args);
    let mut terminal = ratatui::try_init()
        .map_err(|e| Failure::failed(format!("cannot take over the terminal: {e}")))?;
    let result = news(endpoints).and_then(|news| {
        show(&mut view, &signals, &news, |view| {
            terminal.draw(|frame| screen::draw(view, frame)).map(drop)
        })
    });
    // It also fails when there is no terminal any more, and then there is nothing to restore.
    let _ = ratatui::try_restore();
    result.map_err(|e| Failure::failed(format!("cannot draw on the terminal: {e}")))
}

/// Where news arrive, and what becomes readable when they do.
struct Inbox {
    arrived: mpsc::Receiver<News>,
    wake: Arc<OwnedFd>,
}

/// Sends news and wakes whoever waits for them.
#[derive(Clone)]
struct Sender {
    news: mpsc::SyncSender<News>,
    wake: Arc<OwnedFd>,
}

impl Sender {
    /// Whether somebody still listens.
    fn send(&self, news: News) -> bool {
        let heard = self.news.send(news).is_ok();
        // It can only fail when the counter is full, and then the other side is awake anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        heard
    }
}

fn news(endpoints: &[Endpoint]) -> io::Result<Inbox> {
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, arrived) = mpsc::sync_channel(WAITING_MAX);
    let sender = Sender {
        news: sender,
        wake: wake.clone(),
    };
    let keys = sender.clone();
    thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || {
            loop {
                let news = match event::read() {
                    Ok(event) => News::Input(event),
                    Err(error) => News::Deaf(error),
                };
                let deaf = matches!(news, News::Deaf(_));
                if !keys.send(news) || deaf {
                    return;
                }
            }
        })?;
    let asked = endpoints.to_vec();
    thread::Builder::new()
        .name("answers".to_owned())
        .spawn(move || {
            loop {
                let started = Instant::now();
                if !sender.send(News::Answer(Box::new(ask(&asked)))) {
                    return;
                }
                thread::sleep(REFRESH.saturating_sub(started.elapsed()));
            }
        })?;
    Ok(Inbox { arrived, wake })
}

fn show(
    view: &mut View,
    signals: &Signals,
    inbox: &Inbox,
    mut draw: impl FnMut(&mut View) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        while let Ok(news) = inbox.arrived.try_recv() {
            match news {
                News::Answer(answer) => view.take(*answer),
                News::Input(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if view.key(key) == Next::End {
                        return Ok(());
                    }
                }
                News::Input(_) => {}
                News::Deaf(error) => return Err(error),
            }
        }
        draw(view)?;
        if !wait(signals, inbox) {
            return Ok(());
        }
    }
}

/// Waits for news; `false` when a signal came or the terminal is gone.
fn wait(signals: &Signals, inbox: &Inbox) -> bool {
    let stdin = io::stdin();
    let mut fds = [
        // no event is asked for: that the other side hung up is always told
        PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::empty()),
        PollFd::new(signals, PollFlags::IN),
        PollFd::new(&inbox.wake, PollFlags::IN),
    ];
    // An interrupted wait is as good as one that timed out.
    let _ = poll(&mut fds, Some(&DRAW_EVERY));
    let ended = fds[..2].iter().any(|fd| !fd.revents().is_empty());
    // Nobody waits for the count: news are taken until there are none.
    let _ = rustix::io::read(&inbox.wake, &mut [0; 8]);
    !ended
}

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
