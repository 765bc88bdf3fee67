//! Our side of a reader: starting it, asking it within a time, ending it.

use std::{
    collections::HashSet,
    io,
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use thiserror::Error;

use super::{
    ARGUMENT, program,
    protocol::{self, MESSAGE_MAX, Question},
};
use crate::model::Named;

/// Readers that were ended and are not gone yet. One that waits for a file system which does not
/// answer can't be ended; with this many of them no other is started.
const DYING_MAX: usize = 8;

/// Why a reader gave no answer.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum Failure {
    /// None could be started.
    #[error("no reader could be started: {0}")]
    Start(String),
    /// It ended.
    #[error("reading it ended the reader ({0})")]
    Died(String),
    /// It took longer than this.
    #[error("reading it took longer than {0:?}")]
    Slow(Duration),
    /// What it said was no answer.
    #[error("the reader's answer made no sense")]
    Nonsense,
}

/// Readers, one at a time.
#[derive(Debug, Default)]
pub struct Readers {
    current: Option<Reader>,
    dying: Vec<Child>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Reader {
    child: Child,
    socket: OwnedFd,
    /// Files that it has.
    files: HashSet<u64>,
}

/// `true` where readers can be started from this executable.
#[must_use]
pub fn available() -> bool {
    program().is_some()
}

impl Readers {
    /// Asks about one address. `files` opens the file and its split debug information, sent along
    /// when the reader does not have them yet.
    ///
    /// # Errors
    /// [`Failure`]; the reader that failed is ended.
    pub fn ask(
        &mut self,
        question: Question,
        files: impl Fn() -> Vec<OwnedFd>,
        patience: Duration,
    ) -> Result<Vec<Named>, Failure> {
        // One that ended because nobody asked for long is not to blame.
        for _ in 0..2 {
            match self.try_ask(question, &files, patience) {
                Err(None) => {}
                Err(Some(failure)) => return Err(failure),
                Ok(names) => return Ok(names),
            }
        }
        Err(Failure::Nonsense)
    }

    fn try_ask(
        &mut self,
        question: Question,
        files: &dyn Fn() -> Vec<OwnedFd>,
        patience: Duration,
    ) -> Result<Vec<Named>, Option<Failure>> {
        self.dying.retain_mut(|child| !has_ended(child));
        let mut reader = match self.current.take() {
            Some(reader) => reader,
            None if self.dying.len() >= DYING_MAX => {
                let many = format!("{DYING_MAX} of them hang in files that do not answer");
                return Err(Some(Failure::Start(many)));
            }
            None => start().map_err(|e| Some(Failure::Start(e.to_string())))?,
        };
        let deadline = Instant::now() + patience;
        self.buffer.resize(MESSAGE_MAX + 1, 0);
        let asked = send(&mut reader, question, files)
            .and_then(|()| receive(&reader.socket, &mut self.buffer, deadline));
        let failure = match asked {
            Ok(len) if len > 0 => {
                let bytes = self.buffer.get(..len).unwrap_or_default();
                match protocol::parse_answer(bytes, question) {
                    Some(names) => {
                        self.current = Some(reader);
                        return Ok(names);
                    }
                    None => Failure::Nonsense,
                }
            }
            Err(Errno::TIMEDOUT) => Failure::Slow(patience),
            Ok(_) | Err(_) => {
                // Its end is seen on the socket a moment before it can be waited for.
                match wait(&mut reader.child, Duration::from_secs(1)) {
                    Some(status) if status.success() => return Err(None),
                    Some(status) => Failure::Died(status.to_string()),
                    None => Failure::Nonsense,
                }
            }
        };
        self.end(reader.child);
        Err(Some(failure))
    }

    /// The process that reads now, if there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.current.as_ref().map(|reader| reader.child.id())
    }

    fn end(&mut self, mut child: Child) {
        let _ = child.kill();
        if wait(&mut child, Duration::from_millis(100)).is_none() {
            self.dying.push(child);
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        if let Some(reader) = self.current.take() {
            self.end(reader.child);
        }
    }
}

fn has_ended(child: &mut Child) -> bool {
    !matches!(child.try_wait(), Ok(None))
}

fn wait(child: &mut Child, patience: Duration) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => return None,
        }
    }
}

fn start() -> io::Result<Reader> {
    let program: &Path = program().ok_or(io::ErrorKind::Unsupported)?;
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let child = Command::new(program)
        .arg(ARGUMENT)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Reader {
        child,
        socket: ours,
        files: HashSet::new(),
    })
}

fn send(
    reader: &mut Reader,
    question: Question,
    files: &dyn Fn() -> Vec<OwnedFd>,
) -> Result<(), Errno> {
    let bytes = protocol::question(question);
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut along = SendAncillaryBuffer::new(&mut space);
    let mut files = match reader.files.insert(question.file) {
        true => files(),
        false => Vec::new(),
    };
    files.truncate(2);
    let descriptors: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    if !descriptors.is_empty() {
        along.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(&reader.socket, &[IoSlice::new(&bytes)], &mut along, flags)?;
    Ok(())
}

/// Length of the next message; 0 at the end.
fn receive(socket: &OwnedFd, buffer: &mut [u8], deadline: Instant) -> Result<usize, Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        let mut ready = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
        match poll(&mut ready, Some(&left)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        }
        let mut along = RecvAncillaryBuffer::new(&mut []);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut along, flags) {
            Ok(message) => return Ok(message.bytes),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error),
        }
    }
}
