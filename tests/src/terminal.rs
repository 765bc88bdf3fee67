//! A terminal for programs that draw on one: what they wrote becomes a screen, as text.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    num::NonZeroU16,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    pty::{OpenptyResult, Winsize, openpty},
};

use crate::wait;

/// Whether the program belongs to the terminal's session: then it gets SIGHUP when the terminal
/// goes away; else it only sees the end of its input, as what runs below `docker exec` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// It leads a session of the terminal.
    Own,
    /// It is in another.
    Foreign,
}

/// A program on a terminal. Dropping it takes the terminal away and ends the program.
pub struct Terminal {
    child: Child,
    /// Shared with the thread that reads, and taken from both when it hangs up.
    master: Arc<Mutex<Option<File>>>,
    screen: Arc<Mutex<vt100::Parser>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    /// Starts `command` on a terminal of this size.
    ///
    /// # Errors
    /// When there is no terminal to be had, or the program can't be started.
    pub fn start(
        command: &mut Command,
        (columns, rows): (u16, u16),
        session: Session,
    ) -> Result<Terminal> {
        let lines = NonZeroU16::new(rows).context("a terminal without rows")?;
        let across = NonZeroU16::new(columns).context("a terminal without columns")?;
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(&size, None).context("openpty")?;
        // or the program would keep its own terminal open
        for side in [&master, &slave] {
            fcntl(side, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        let (one, two, three): (OwnedFd, OwnedFd, OwnedFd) =
            (slave.try_clone()?, slave.try_clone()?, slave);
        let own = session == Session::Own;
        let lead = move || {
            // SAFETY: both calls take numbers only and are async-signal-safe.
            let led = unsafe { libc::setsid() } >= 0
                && (!own || unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } == 0);
            match led {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            }
        };
        command.stdin(one).stdout(two).stderr(three);
        command.env("TERM", "xterm-256color");
        // SAFETY: the closure makes system calls only and allocates nothing.
        unsafe { command.pre_exec(lead) };
        let child = command.spawn().context("start on a terminal")?;
        // the command keeps the other side open as long as it exists itself
        *command = Command::new("true");
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let master = Arc::new(Mutex::new(Some(File::from(master))));
        let screen = Arc::new(Mutex::new(vt100::Parser::new(lines, across, 0)));
        let (output, shown) = (master.clone(), screen.clone());
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                let read = match locked(&output).as_mut() {
                    Some(master) => master.read(&mut bytes),
                    None => return,
                };
                match read {
                    Ok(length @ 1..) => locked(&shown).process(&bytes[..length]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        thread::sleep(Duration::from_millis(10));
                    }
                    // the program has ended
                    _ => return,
                }
            }
        });
        Ok(Terminal {
            child,
            master,
            screen,
            reader,
        })
    }

    /// What is on the screen.
    #[must_use]
    pub fn screen(&self) -> String {
        locked(&self.screen).screen().contents()
    }

    /// The cells of the screen, with their colours.
    #[must_use]
    pub fn cells(&self) -> vt100::Screen {
        locked(&self.screen).screen().clone()
    }

    /// Waits for the program's end and takes the screen that it leaves.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub fn left(mut self, limit: Duration) -> Result<vt100::Screen> {
        self.end(limit)?;
        wait::until("the last of the output", limit, || {
            Ok(self.reader.is_finished())
        })?;
        Ok(self.cells())
    }

    /// Waits until the screen has all of these words.
    ///
    /// # Errors
    /// When it does not, with what it has.
    pub fn shows(&self, words: &[&str], limit: Duration) -> Result<()> {
        let what = format!("{words:?} on the screen");
        let shown = wait::until(&what, limit, || {
            let screen = self.screen();
            Ok(words.iter().all(|word| screen.contains(word)))
        });
        shown.with_context(|| format!("the screen:\n{}", self.screen()))
    }

    /// Presses keys.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn press(&self, keys: &str) -> Result<()> {
        let mut master = locked(&self.master);
        let master = master.as_mut().context("the terminal is gone")?;
        Ok(master.write_all(keys.as_bytes())?)
    }

    /// Sends a signal to the program.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        // SAFETY: kill takes plain numbers; the child has not been waited for.
        match unsafe { libc::kill(pid, signal) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()).context("kill"),
        }
    }

    /// Takes the terminal away, as closing a window or losing a connection does.
    pub fn hang_up(&self) {
        *locked(&self.master) = None;
    }

    /// Waits for the program's end.
    ///
    /// # Errors
    /// When it has not ended within `limit`.
    pub fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait::for_value("the end of the program", limit, || {
            Ok(self.child.try_wait()?)
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.hang_up();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value, whatever became of other threads.
fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
