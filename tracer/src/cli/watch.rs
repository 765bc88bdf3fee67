//! The loop of `check`: drives a session until time, target or user end it.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use textwrap::core::display_width;

use super::{
    command::Running,
    fit, output,
    output::clean,
    signals::{Signal, Signals},
    units,
};
use crate::session::{Leading, Session, Status, Target};

/// How often the progress line changes.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Columns of the bar.
const BAR: usize = 16;

/// Fewest columns of the best candidate's name.
const NAME_LEAST: usize = 10;

/// How often `--until-found` judges; a judgement includes a scan of all descriptors.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The time is over.
    Time,
    /// The user asked for it.
    Signal(Signal),
    /// Every watched process ended, or the cgroup was removed.
    Target,
    /// The command that was started ended.
    Command,
    /// What was looked for is found.
    Found,
    /// The collector stopped working.
    Broken(String),
}

/// Looks at the session every now and then; `true` ends the watch.
pub type Look<'a> = &'a mut dyn FnMut(&mut Session) -> bool;

/// Runs `session` until something ends the watch. Signals that don't end it go to `command`.
pub fn watch(
    session: &mut Session,
    target: &Target,
    command: Option<&Running>,
    signals: &Signals,
    duration: Option<Duration>,
    mut found: Option<Look<'_>>,
) -> Ended {
    // A command writes to the same terminal; its output must not be disturbed.
    let mut progress =
        (command.is_none() && output::stderr_is_terminal()).then(|| Progress::new(duration));
    if command.is_none() && progress.is_none() {
        // Where nobody sees the line change, a script still wants to know that it may begin.
        output::note(&opening_line(duration, session.status()));
    }
    let deadline = duration.and_then(|duration| Instant::now().checked_add(duration));
    let mut ends = ends_of(target, command);
    let mut looked = Instant::now();
    loop {
        let wait = match session.tick() {
            Ok(wait) => wait,
            Err(error) => return Ended::Broken(error.to_string()),
        };
        let status = session.status();
        if command.is_none() && target_ended(target, status, Path::exists) {
            return Ended::Target;
        }
        if let Some(look) = &mut found
            && looked.elapsed() >= LOOK_EVERY
        {
            if look(session) {
                return Ended::Found;
            }
            looked = Instant::now();
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ended::Time;
        }
        if let Some(progress) = &mut progress {
            progress.show(left, status, || session.leading());
        }
        let mut timeout = left.map_or(wait, |left| left.min(wait));
        if found.is_some() {
            timeout = timeout.min(LOOK_EVERY.saturating_sub(looked.elapsed()));
        }
        if progress.is_some() {
            timeout = timeout.min(PROGRESS_EVERY);
        }
        let ready = wait_for(session, signals, command, &ends, timeout);
        if ready.command {
            return Ended::Command;
        }
        while let Some(signal) = signals.next() {
            if signal.ends() {
                return Ended::Signal(signal);
            }
            if let Some(command) = command {
                command.forward(signal);
            }
        }
        let mut index = 0;
        ends.retain(|_| {
            index += 1;
            !ready.ended.contains(&(index - 1))
        });
    }
}

/// Descriptors that become readable when a watched process ends, so that the watch of a process
/// ends with it and not at the next sweep.
fn ends_of(target: &Target, command: Option<&Running>) -> Vec<OwnedFd> {
    let Target::Processes(pids) = target else {
        return Vec::new();
    };
    if command.is_some() {
        return Vec::new();
    }
    pids.iter()
        .filter_map(|&pid| Pid::from_raw(i32::try_from(pid).ok()?))
        .filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
        .collect()
}

fn target_ended(target: &Target, status: Status, exists: impl Fn(&Path) -> bool) -> bool {
    match target {
        Target::Host => false,
        Target::Processes(_) => status.processes == 0,
        Target::Cgroup(path) => !exists(path),
    }
}

#[derive(Debug, Default)]
struct Ready {
    command: bool,
    /// Indexes of the processes that ended.
    ended: Vec<usize>,
}

fn wait_for(
    session: &Session,
    signals: &Signals,
    command: Option<&Running>,
    ends: &[OwnedFd],
    timeout: Duration,
) -> Ready {
    let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
    fds.extend(command.map(|command| PollFd::new(command.pidfd(), PollFlags::IN)));
    let first_end = fds.len();
    fds.extend(ends.iter().map(|end| PollFd::new(end, PollFlags::IN)));
    let wake = session.wake_fd();
    if wake >= 0 {
        // SAFETY: the session owns the descriptor and outlives this call.
        let wake = unsafe { BorrowedFd::borrow_raw(wake) };
        fds.push(PollFd::from_borrowed_fd(wake, PollFlags::IN));
    }
    let timeout = Timespec::try_from(timeout).ok();
    // An interrupted wait is as good as one that timed out.
    let _ = poll(&mut fds, timeout.as_ref());
    let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
    Ready {
        command: command.is_some() && ready(&fds[1]),
        ended: (0..ends.len())
            .filter(|index| ready(&fds[first_end + index]))
            .collect(),
    }
}

/// Waits for the end of a command after the watch, passing all signals on.
pub fn wait_for_command(command: &Running, signals: &Signals) {
    loop {
        let mut fds = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::from_borrowed_fd(command.pidfd().as_fd(), PollFlags::IN),
        ];
        let _ = poll(&mut fds, None);
        if !fds[1].revents().is_empty() {
            return;
        }
        while let Some(signal) = signals.next() {
            command.forward(signal);
        }
    }
}

/// Says on a terminal that the probes are being attached, which takes a second or more, until it is
/// dropped.
#[derive(Debug)]
pub struct Attaching(Option<ProgressBar>);

impl Attaching {
    /// Begins; a command's terminal is left alone.
    #[must_use]
    pub fn begin(with_command: bool) -> Attaching {
        let seen = !with_command && output::stderr_is_terminal();
        Attaching(seen.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar.set_message("attaching to the kernel …");
            bar.tick();
            bar
        }))
    }
}

impl Drop for Attaching {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// A bar on stderr that is drawn over in place and gone at the end.
#[derive(Debug)]
struct Progress {
    bar: ProgressBar,
    shown: Option<Instant>,
}

impl Progress {
    /// Without a duration there is nothing to fill a bar with, and it is a line of words.
    fn new(duration: Option<Duration>) -> Progress {
        let bar = ProgressBar::with_draw_target(duration.map(millis), ProgressDrawTarget::stderr());
        let template = match duration {
            Some(_) => format!("{{bar:{BAR}}} {{msg}}"),
            None => "{msg}".to_owned(),
        };
        // The default style is as good, should the template not be understood.
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Progress { bar, shown: None }
    }

    fn show(
        &mut self,
        left: Option<Duration>,
        status: Status,
        leading: impl FnOnce() -> Option<Leading>,
    ) {
        if self.shown.is_some_and(|at| at.elapsed() < PROGRESS_EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        if let Some((whole, left)) = self.bar.length().zip(left) {
            self.bar.set_position(whole.saturating_sub(millis(left)));
        }
        let room = output::width().saturating_sub(match self.bar.length() {
            Some(_) => BAR + 1,
            None => 0,
        });
        self.bar
            .set_message(progress_line(left, status, leading().as_ref(), room));
        self.bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What matters first; the rest where `room`, in columns, is left for it.
fn progress_line(
    left: Option<Duration>,
    status: Status,
    leading: Option<&Leading>,
    room: usize,
) -> String {
    let left = left.map_or("watching".to_owned(), |left| {
        let seconds = left.as_secs_f64().ceil();
        format!("{} left", units::duration(seconds))
    });
    let start = format!("{left}: {}", units::count(status.sockets, "socket"));
    let mut room = room.saturating_sub(display_width(&start));
    let best = leading.and_then(|leading| {
        let (before, after) = (
            "; best candidate ",
            format!(", {} outlived", leading.outlived),
        );
        let name = clean(&leading.name);
        let left = room.checked_sub(display_width(before) + display_width(&after))?;
        let shown = display_width(&name) <= left || left >= NAME_LEAST;
        shown.then(|| format!("{before}{}{after}", fit::elide(&name, left)))
    });
    room = room.saturating_sub(best.as_deref().map_or(0, display_width));
    let mut fitting = |part: String| {
        let taken = display_width(&part);
        let fits = taken <= room;
        room -= if fits { taken } else { 0 };
        if fits { part } else { String::new() }
    };
    let populations = units::count(status.populations, "population");
    let populations = fitting(format!(" in {populations}"));
    let keys = fitting("; Ctrl-C to stop and see".to_owned());
    format!("{start}{populations}{}{keys}", best.unwrap_or_default())
}

fn opening_line(duration: Option<Duration>, status: Status) -> String {
    let time = duration.map_or(String::new(), |duration| {
        format!(" for {}", units::duration(duration.as_secs_f64()))
    });
    let open = units::count(status.sockets, "open socket");
    format!("watching{time}, {open} so far")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_line_says_what_matters() {
        let status = Status {
            sockets: 12,
            populations: 3,
            candidates: 1,
            processes: 1,
        };
        let left = Some(Duration::from_millis(41_200));
        let leading = Leading {
            name: "orders.client.fetch".to_owned(),
            outlived: 8,
        };
        assert_eq!(
            progress_line(left, status, Some(&leading), 120),
            "42s left: 12 sockets in 3 populations; best candidate orders.client.fetch, 8 outlived; \
             Ctrl-C to stop and see"
        );
        assert_eq!(
            progress_line(left, status, None, 63),
            "42s left: 12 sockets in 3 populations; Ctrl-C to stop and see"
        );
        assert_eq!(
            progress_line(left, status, Some(&leading), 63),
            "42s left: 12 sockets; best candidate orders.….fetch, 8 outlived"
        );
        for room in 20..120 {
            let line = progress_line(left, status, Some(&leading), room);
            assert!(line.chars().count() <= room.max(20), "{room}: {line}");
        }
        assert!(progress_line(None, status, None, 80).starts_with("watching: 12"));
        assert_eq!(
            opening_line(Some(Duration::from_secs(60)), status),
            "watching for 60s, 12 open sockets so far"
        );
        assert_eq!(
            opening_line(None, Status::default()),
            "watching, 0 open sockets so far"
        );
    }

    #[test]
    fn a_target_ends_with_its_last_process_or_its_cgroup() {
        let status = |processes| Status {
            processes,
            ..Status::default()
        };
        let processes = Target::Processes(vec![1]);
        assert!(target_ended(&processes, status(0), |_| true));
        assert!(!target_ended(&processes, status(1), |_| true));
        let cgroup = Target::Cgroup("/sys/fs/cgroup/x".into());
        assert!(target_ended(&cgroup, status(0), |_| false));
        assert!(!target_ended(&cgroup, status(0), |_| true));
        assert!(!target_ended(&Target::Host, status(0), |_| false));
    }
}
