//! A command that is started but waits before its first instruction until the probes are
//! attached, and then runs undisturbed.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Command, ExitStatus},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use rustix::{
    io::{Errno, read, write},
    pipe::{PipeFlags, pipe_with},
    process::{
        Gid, Pid, PidfdFlags, Signal as KernelSignal, Uid, getpgid, getpid, pidfd_open,
        pidfd_send_signal,
    },
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

use super::{
    Failure,
    signals::{Mask, Signal},
    users::User,
};

/// Exit status when the command was not found, as of a shell.
const STATUS_NOT_FOUND: u8 = 127;
/// Exit status when the command could not be executed, as of a shell.
const STATUS_NOT_EXECUTABLE: u8 = 126;
/// Added to the number of the signal that ended the command, as of a shell.
const STATUS_SIGNAL: i32 = 128;

/// A command before its `exec`.
#[derive(Debug)]
pub struct Gated {
    pid: Pid,
    pidfd: OwnedFd,
    /// A byte written here lets the command run; closing it ends the process instead.
    gate: OwnedFd,
    /// Says whether `exec` worked. `spawn` returns only after it, so it waits in its own thread.
    started: mpsc::Receiver<io::Result<()>>,
    parent: Parent,
    name: String,
}

/// The thread that forked the command and waits for its end. It must live as long as the command,
/// because `PR_SET_PDEATHSIG` means the thread, not the process (prctl(2)).
type Parent = JoinHandle<io::Result<ExitStatus>>;

/// A command after its `exec`.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    parent: Parent,
}

impl Gated {
    /// Forks the process that is to become the command, with our own stdin, stdout and stderr,
    /// and `mask` as its signal mask.
    ///
    /// # Errors
    /// [`Failure`] when no process can be made.
    pub fn start(arguments: &[OsString], user: Option<User>, mask: Mask) -> Result<Gated, Failure> {
        let Some((program, rest)) = arguments.split_first() else {
            return Err(Failure::usage("`--` needs a command after it"));
        };
        let name = program.to_string_lossy().into_owned();
        let cannot =
            |e: io::Error| Failure::failed(format!("cannot start a process for `{name}`: {e}"));
        let (gate_reader, gate) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| cannot(e.into()))?;
        let (pid_reader, pid_writer) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|e| cannot(e.into()))?;
        let gate_fd = gate.as_raw_fd();
        let mut command = Command::new(program);
        command.args(rest);
        let before_exec = move || {
            // SAFETY: this runs in the child, where nothing else uses its copy of the
            // descriptor; with it open the end of the parent would go unnoticed.
            unsafe { rustix::io::close(gate_fd) };
            write(&pid_writer, &getpid().as_raw_pid().to_ne_bytes())?;
            pass(&gate_reader)?;
            // The standard library lets the command inherit what is held back here.
            mask.apply()?;
            user.as_ref().map_or(Ok(()), become_user)
        };
        // SAFETY: the closure makes system calls only, without allocating, which is allowed
        // between fork and exec of a process with threads.
        unsafe { command.pre_exec(before_exec) };
        let (report, started) = mpsc::sync_channel(1);
        let parent = thread::Builder::new()
            .name("command".to_owned())
            .spawn(move || be_parent(command, &report))
            .map_err(cannot)?;
        let mut bytes = [0; 4];
        // The end of the pipe means that fork failed; the thread knows why.
        let read = read(&pid_reader, &mut bytes).unwrap_or(0);
        let pid = Pid::from_raw(i32::from_ne_bytes(bytes)).filter(|_| read == bytes.len());
        let Some(pid) = pid else {
            let error = started_error(&started);
            return Err(Failure::failed(format!("cannot start `{name}`: {error}")));
        };
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| cannot(e.into()))?;
        Ok(Gated {
            pid,
            pidfd,
            gate,
            started,
            parent,
            name,
        })
    }

    /// Host pid, which the command will keep.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Lets the command run.
    ///
    /// # Errors
    /// [`Failure`] with status 127 when it was not found, 126 when it can't be executed.
    pub fn release(self) -> Result<Running, Failure> {
        // It fails when the process is gone; the thread knows why.
        let _ = write(&self.gate, &[1]);
        let error = match self.started.recv() {
            Ok(Ok(())) => {
                return Ok(Running {
                    pid: self.pid,
                    pidfd: self.pidfd,
                    parent: self.parent,
                });
            }
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::Other.into(),
        };
        let mut failure = Failure::failed(format!("cannot run `{}`: {error}", self.name));
        failure.status = if error.kind() == io::ErrorKind::NotFound {
            STATUS_NOT_FOUND
        } else {
            STATUS_NOT_EXECUTABLE
        };
        Err(failure)
    }
}

fn be_parent(
    mut command: Command,
    started: &mpsc::SyncSender<io::Result<()>>,
) -> io::Result<ExitStatus> {
    let spawned = command.spawn();
    // With it go the descriptors that only the child should have.
    drop(command);
    match spawned {
        Ok(mut child) => {
            let _ = started.send(Ok(()));
            child.wait()
        }
        Err(error) => {
            let _ = started.send(Err(error));
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

fn started_error(started: &mpsc::Receiver<io::Result<()>>) -> io::Error {
    match started.recv() {
        Ok(Err(error)) => error,
        _ => io::ErrorKind::Other.into(),
    }
}

/// Waits in the child for the parent's word.
fn pass(gate: &OwnedFd) -> io::Result<()> {
    loop {
        match read(gate, &mut [0]) {
            // The parent gave up. An error would go into a pipe that nobody reads any more, and
            // the standard library aborts with a message then.
            // SAFETY: _exit ends the child at once and runs nothing that belongs to the parent.
            Ok(0) => unsafe { libc::_exit(1) },
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Gives up the privileges of this thread, the only one of the child.
fn become_user(user: &User) -> io::Result<()> {
    // rustix takes the ids as they are; the array avoids allocating after fork.
    let mut groups = [Gid::ROOT; 64];
    let count = user.groups.len().min(groups.len());
    for (slot, &gid) in groups.iter_mut().zip(&user.groups) {
        *slot = Gid::from_raw(gid);
    }
    set_thread_groups(&groups[..count])?;
    set_thread_gid(Gid::from_raw(user.gid))?;
    set_thread_uid(Uid::from_raw(user.uid))?;
    Ok(())
}

impl Running {
    /// Readable when the command has ended.
    #[must_use]
    pub fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Passes a signal on, unless the terminal sent it to the command as well.
    pub fn forward(&self, signal: Signal) {
        let group = getpgid(Some(self.pid));
        let same_group = group.is_ok() && group == getpgid(None);
        if signal.by_kernel && same_group {
            return;
        }
        if let Some(number) = KernelSignal::from_named_raw(signal.number) {
            let _ = pidfd_send_signal(&self.pidfd, number);
        }
    }

    /// Takes the exit status of the command, waiting for its end.
    ///
    /// # Errors
    /// [`Failure`] when the status can't be had.
    pub fn status(self) -> Result<u8, Failure> {
        let status = self.parent.join();
        let status = status.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        status
            .map(shell_status)
            .map_err(|e| Failure::failed(format!("cannot wait for the command: {e}")))
    }
}

fn shell_status(status: ExitStatus) -> u8 {
    let number = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => STATUS_SIGNAL + signal,
        (None, None) => i32::from(super::STATUS_FAILURE),
    };
    u8::try_from(number).unwrap_or(super::STATUS_FAILURE)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::{cli::signals::Signals, procs};

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn run(arguments: &[&str]) -> Result<u8, Failure> {
        Gated::start(&words(arguments), None, Mask::current())?
            .release()?
            .status()
    }

    #[test]
    fn exit_statuses_are_the_commands_own() {
        assert_eq!(run(&["true"]).unwrap(), 0);
        assert_eq!(run(&["sh", "-c", "exit 42"]).unwrap(), 42);
        assert_eq!(run(&["sh", "-c", "kill -TERM $$"]).unwrap(), 143);
        assert_eq!(run(&["/no/such/command"]).unwrap_err().status, 127);
        assert_eq!(run(&["nosuchcommandanywhere"]).unwrap_err().status, 127);
        assert_eq!(run(&["/etc/passwd"]).unwrap_err().status, 126);
        assert_eq!(run(&[]).unwrap_err().status, 2);
    }

    #[test]
    fn nothing_runs_before_the_gate_opens() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("echo ran > {}", file.path().display());
        let gated = Gated::start(&words(&["sh", "-c", &script]), None, Mask::current()).unwrap();
        let pid = gated.pid();
        assert_eq!(
            procs::read(pid).unwrap().exe,
            procs::exe(std::process::id())
        );
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "");
        let running = gated.release().unwrap();
        assert_eq!(running.pid.as_raw_nonzero().get().unsigned_abs(), pid);
        assert_eq!(running.status().unwrap(), 0);
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "ran\n");
    }

    #[test]
    fn a_gate_that_never_opens_ends_the_process() {
        let Gated { gate, parent, .. } =
            Gated::start(&words(&["true"]), None, Mask::current()).unwrap();
        drop(gate);
        assert_eq!(parent.join().unwrap().unwrap().code(), Some(1));
    }

    #[test]
    fn a_command_has_the_signal_mask_from_before() {
        let before = Mask::current();
        let held = Signals::hold(true).unwrap();
        let script = "kill -TERM $$; exit 3";
        let gated = Gated::start(&words(&["sh", "-c", script]), None, held.mask_before());
        let status = gated.unwrap().release().unwrap().status().unwrap();
        before.apply().unwrap();
        assert_eq!(status, 143);
    }

    #[test]
    fn the_thread_that_forked_lives_as_long_as_the_command() {
        let running = Gated::start(&words(&["sleep", "1000"]), None, Mask::current())
            .unwrap()
            .release()
            .unwrap();
        assert!(!running.parent.is_finished());
        running.forward(Signal {
            number: libc::SIGKILL,
            by_kernel: false,
        });
        assert_eq!(running.status().unwrap(), 137);
    }

    #[test]
    fn signals_reach_the_command() {
        let running = Gated::start(&words(&["sleep", "1000"]), None, Mask::current())
            .unwrap()
            .release()
            .unwrap();
        running.forward(Signal {
            number: libc::SIGTERM,
            by_kernel: false,
        });
        poll(&mut [PollFd::new(running.pidfd(), PollFlags::IN)], None).unwrap();
        assert_eq!(running.status().unwrap(), 143);
    }
}
