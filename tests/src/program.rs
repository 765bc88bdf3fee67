//! Starting real programs, and being sure that they end.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::wait;

/// What a program has written so far on one stream.
type Text = Arc<Mutex<String>>;

/// A running program. Dropping it closes its standard input and, should it not end, kills it.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Text,
    stderr: Text,
    readers: Vec<JoinHandle<()>>,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// All it wrote on standard output.
    pub stdout: String,
    /// All it wrote on standard error.
    pub stderr: String,
}

impl Ended {
    /// The exit status as a shell gives it: 128+n for signal n.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }
}

impl Program {
    /// Starts `command` with pipes for its three streams.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(command: &mut Command) -> Result<Program> {
        let name = command.get_program().to_string_lossy().into_owned();
        // SAFETY: prctl is async-signal-safe, and the closure allocates nothing.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let (stdout, stderr) = (Text::default(), Text::default());
        let mut readers = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            readers.push(collect(pipe, &stdout));
        }
        if let Some(pipe) = child.stderr.take() {
            readers.push(collect(pipe, &stderr));
        }
        let stdin = child.stdin.take();
        Ok(Program {
            name,
            child,
            stdin,
            stdout,
            stderr,
            readers,
        })
    }

    /// Starts a fixture and waits for its line `READY …`.
    ///
    /// # Errors
    /// When it does not start or does not get ready.
    pub fn ready<S: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        arguments: &[S],
    ) -> Result<(Program, String)> {
        let mut program = Program::start(Command::new(program).args(arguments))?;
        let rest = program.line("READY", Duration::from_secs(20))?;
        Ok((program, rest))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written on standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        locked(&self.stdout).clone()
    }

    /// What it has written on standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        locked(&self.stderr).clone()
    }

    /// Waits for a complete line of standard output that begins with `prefix` and returns the rest.
    ///
    /// # Errors
    /// When it does not come within `limit` or the program ends before.
    pub fn line(&mut self, prefix: &str, limit: Duration) -> Result<String> {
        let what = format!("{} to print {prefix:?}", self.name);
        wait::for_value(&what, limit, || {
            // Asked before the text is looked at: a last line must not be missed.
            let ended = self.child.try_wait()?;
            let text = self.stdout();
            let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
            let found = complete.lines().find_map(|line| line.strip_prefix(prefix));
            match (found, ended) {
                (Some(rest), _) => Ok(Some(rest.trim().to_owned())),
                (None, Some(status)) => {
                    bail!(
                        "{} ended ({status}) before {prefix:?}: {}",
                        self.name,
                        self.stderr()
                    )
                }
                (None, None) => Ok(None),
            }
        })
    }

    /// `true` until it has ended.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Writes to its standard input and leaves it open.
    ///
    /// # Errors
    /// When it has closed it.
    pub fn write(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        stdin.write_all(text.as_bytes())?;
        Ok(stdin.flush()?)
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let pid = i32::try_from(self.pid())?;
        // SAFETY: kill takes plain numbers; the child has not been waited for, so the pid is its own.
        let result = unsafe { libc::kill(pid, signal) };
        if result != 0 {
            bail!(
                "signal {signal} to {}: {}",
                self.name,
                std::io::Error::last_os_error()
            );
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it has not ended within `limit`; it is killed then.
    pub fn end(mut self, limit: Duration) -> Result<Ended> {
        let status = wait::for_value(&format!("end of {}", self.name), limit, || {
            Ok(self.child.try_wait()?)
        })
        .with_context(|| format!("it wrote: {}", self.stderr()))?;
        for reader in self.readers.drain(..) {
            // A reader that panicked leaves what it had read.
            let _ = reader.join();
        }
        Ok(Ended {
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.stdin = None;
        if wait::until("end", Duration::from_millis(500), || Ok(!self.runs()?)).is_err() {
            // It runs on, though its input is closed.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Reads a pipe to its end, line by line, into a string that can be looked at meanwhile.
fn collect(pipe: impl Read + Send + 'static, text: &Text) -> JoinHandle<()> {
    let text = Arc::clone(text);
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            locked(&text).push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}

/// The text, whatever became of other threads.
fn locked(text: &Text) -> MutexGuard<'_, String> {
    text.lock().unwrap_or_else(PoisonError::into_inner)
}
