//! `tracer top -w`: the live full-screen view.
//!
//! Keys and answers come from threads of their own; this one waits for them, for signals, and for
//! the terminal to go away. That last wait is ours because the library that reads keys goes on
//! reading a terminal that is no longer there.

mod clipboard;
mod population;
mod screen;
mod styled;
mod view;

use std::{
    io::{self, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use ratatui::crossterm::{
    event::{self, DisableMouseCapture, EnableMouseCapture, Event, KeyEventKind},
    execute,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use self::view::{Next, View};
use super::{Failure, args::Top, fleet::Fleet, merge, output::Paint, signals::Signals};
use crate::report::{FindingDetail, Report, TimelinePoint};

/// How often the daemons are asked.
const REFRESH: Duration = Duration::from_secs(2);
/// The screen is drawn at least this often, for the age that it shows.
const DRAW_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 500_000_000,
};
/// Keys and answers waiting to be taken; a thread that finds no room waits.
const WAITING_MAX: usize = 64;

/// What the daemons said.
#[derive(Debug, Default)]
struct Answer {
    /// The merged report.
    report: Option<Report>,
    /// What to say of endpoints that did not answer.
    trouble: Option<String>,
    /// The past of the finding that is open, by its id.
    timeline: Option<(String, Vec<TimelinePoint>)>,
}

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
pub fn run(args: &Top, fleet: Fleet) -> Result<(), Failure> {
    let signals = Signals::hold(false)
        .map_err(|e| Failure::failed(format!("cannot hold signals back: {e}")))?;
    let mut view = View::new(args);
    view.paint = Paint::on(&io::stdout());
    let mut terminal = ratatui::try_init()
        .map_err(|e| Failure::failed(format!("cannot take over the terminal: {e}")))?;
    // a terminal without a mouse does not mind
    let _ = execute!(io::stdout(), EnableMouseCapture);
    let result = news(fleet).and_then(|news| {
        show(&mut view, &signals, &news, |view| {
            terminal.draw(|frame| screen::draw(view, frame)).map(drop)
        })
    });
    let _ = execute!(io::stdout(), DisableMouseCapture);
    // It also fails when there is no terminal any more, and then there is nothing to restore.
    let _ = ratatui::try_restore();
    result.map_err(|e| Failure::failed(format!("cannot draw on the terminal: {e}")))
}

/// Where news arrive, and what becomes readable when they do.
struct Inbox {
    arrived: mpsc::Receiver<News>,
    wake: Arc<OwnedFd>,
    wanted: Wanted,
    asks: Thread,
}

impl Inbox {
    /// Says which finding's past is wanted, and has it asked for at once where that is another.
    fn want(&self, id: Option<&str>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.as_deref() != id {
            *wanted = id.map(str::to_owned);
            self.asks.unpark();
        }
    }
}

/// The id of the finding whose past is wanted.
type Wanted = Arc<Mutex<Option<String>>>;

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

fn news(fleet: Fleet) -> io::Result<Inbox> {
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
    let wanted = Wanted::default();
    let id = wanted.clone();
    let asking = thread::Builder::new()
        .name("answers".to_owned())
        .spawn(move || {
            loop {
                let started = Instant::now();
                let id = id.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if !sender.send(News::Answer(Box::new(ask(&fleet, id)))) {
                    return;
                }
                thread::park_timeout(REFRESH.saturating_sub(started.elapsed()));
            }
        })?;
    Ok(Inbox {
        arrived,
        wake,
        wanted,
        asks: asking.thread().clone(),
    })
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
                    match view.key(key) {
                        Next::Stay => {}
                        Next::Copy(text) => give(&clipboard::sequence(&text))?,
                        Next::End => return Ok(()),
                    }
                }
                News::Input(Event::Mouse(mouse)) => view.mouse(mouse),
                News::Input(_) => {}
                News::Deaf(error) => return Err(error),
            }
        }
        inbox.want(view.opened());
        draw(view)?;
        if !wait(signals, inbox) {
            return Ok(());
        }
    }
}

/// Hands the terminal what is not to be seen.
fn give(sequence: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(sequence.as_bytes())?;
    out.flush()
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

fn ask(fleet: &Fleet, wanted: Option<String>) -> Answer {
    let (report, asked) = match merge::ask(fleet) {
        Ok(answer) => answer,
        Err(failure) => {
            return Answer {
                trouble: Some(failure.to_string()),
                ..Answer::default()
            };
        }
    };
    let mut trouble = asked.trouble();
    if !trouble.is_empty() {
        trouble.splice(0..0, asked.share());
    }
    Answer {
        report,
        trouble: (!trouble.is_empty()).then(|| trouble.join("; ")),
        timeline: wanted.and_then(|id| Some((id.clone(), timeline(fleet, &id)?))),
    }
}

/// The past of a finding, of the daemon that has most of it.
fn timeline(fleet: &Fleet, id: &str) -> Option<Vec<TimelinePoint>> {
    let mut most: Option<FindingDetail> = None;
    let path = format!("/v1/findings/{id}");
    let asked = fleet.ask::<FindingDetail>(&path, |_, detail| {
        let outlived = |detail: &FindingDetail| detail.finding.connections.outlived;
        if most
            .as_ref()
            .is_none_or(|most| outlived(most) < outlived(&detail))
        {
            most = Some(detail);
        }
    });
    asked.ok()?;
    Some(most?.timeline)
}
