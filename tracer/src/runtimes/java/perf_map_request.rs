//! Asking a Java program for the names of its compiled code: what `jcmd PID Compiler.perfmap` does,
//! without a JDK (HotSpot since 17). The program then writes `/tmp/perf-PID.map`, which
//! [`crate::symbols::perf_map`] reads.
//!
//! Done on request only, since it makes the program do something. The way in is HotSpot's attach
//! mechanism (`src/hotspot/os/posix/attachListener_posix.cpp`): SIGQUIT, beside a file
//! `.attach_pidN`, makes it listen on the UNIX socket `.java_pidN`, both in its own `/tmp`.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{fs::fchown, net::UnixStream},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, openat, unlinkat},
    net::sockopt::socket_peercred,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use thiserror::Error;

use crate::procs::{self, parse};

/// How long the program may take to listen, and to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often is looked whether it listens.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Version 1 of the protocol: a command with three arguments, each ended by a zero.
const REQUEST: &[u8] = b"1\0jcmd\0Compiler.perfmap\0\0\0";
/// Most of an answer that is read.
const ANSWER_BYTES: u64 = 4096;

/// Why a program did not write its perf map.
#[derive(Debug, Error)]
pub enum NoPerfMap {
    /// It is gone, or can't be looked at.
    #[error("{0}")]
    Process(io::Error),
    /// No number of a process.
    #[error("it is no process")]
    NoProcess,
    /// Something else, or a Java program that handles the signal otherwise.
    #[error("it is no Java program that can be attached to")]
    NoJava,
    /// Its `/tmp`.
    #[error("its /tmp can't be opened: {0}")]
    Directory(io::Error),
    /// The file that says what the signal means.
    #[error("/tmp/{name} can't be made: {error}")]
    Trigger {
        /// The file.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// The signal.
    #[error("it can't be signalled: {0}")]
    Signal(io::Error),
    /// It does not listen.
    #[error("it does not answer; -XX:+DisableAttachMechanism forbids it to")]
    Silent,
    /// Somebody else does.
    #[error("another process listens on its socket")]
    Foreign,
    /// It ended amid the talk.
    #[error("it broke off: {0}")]
    BrokeOff(io::Error),
    /// Before JDK 17 there is no such command.
    #[error("it said: {0}")]
    Refused(String),
}

/// Has a program write its perf map; blocks for up to [`PATIENCE`] twice.
///
/// # Errors
/// Why it did not.
pub fn write_perf_map(tgid: u32) -> Result<(), NoPerfMap> {
    let pid = i32::try_from(tgid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(NoPerfMap::NoProcess)?;
    // From here on it is this process or none, whoever gets its number.
    let process = pidfd_open(pid, PidfdFlags::empty());
    let process = process.map_err(|e| NoPerfMap::Process(e.into()))?;
    let status = std::fs::read_to_string(format!("/proc/{tgid}/status"));
    let status = status.map_err(NoPerfMap::Process)?;
    // To whom that signal means something else, it means the end.
    let maps = std::fs::read(format!("/proc/{tgid}/maps")).unwrap_or_default();
    if !maps.windows(9).any(|w| w == b"libjvm.so")
        || !parse::catches(&status, Signal::QUIT.as_raw())
    {
        return Err(NoPerfMap::NoJava);
    }
    let own_pid = parse::ns_pids(&status).last().copied().unwrap_or(tgid);
    let directory = procs::tmp(tgid).map_err(NoPerfMap::Directory)?;
    let name = format!(".java_pid{own_pid}");
    let mut stream = match connect(&directory, &name) {
        Some(stream) => stream,
        None => {
            let trigger = Trigger::new(&directory, own_pid, &status)?;
            pidfd_send_signal(&process, Signal::QUIT).map_err(|e| NoPerfMap::Signal(e.into()))?;
            let stream = wait_for(&directory, &name);
            drop(trigger);
            stream.ok_or(NoPerfMap::Silent)?
        }
    };
    // Whatever listens there, only the program itself is talked to.
    let peer = socket_peercred(&stream).map_err(|e| NoPerfMap::Process(e.into()))?;
    if peer.pid != pid {
        return Err(NoPerfMap::Foreign);
    }
    ask(&mut stream)
}

fn connect(directory: &OwnedFd, name: &str) -> Option<UnixStream> {
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd())).ok()
}

fn wait_for(directory: &OwnedFd, name: &str) -> Option<UnixStream> {
    let began = Instant::now();
    loop {
        if let Some(stream) = connect(directory, name) {
            return Some(stream);
        }
        if began.elapsed() > PATIENCE {
            return None;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// The file that says that the signal is meant to attach; removed with this value.
struct Trigger<'a> {
    directory: &'a OwnedFd,
    name: String,
}

impl Trigger<'_> {
    fn new<'a>(
        directory: &'a OwnedFd,
        own_pid: u32,
        status: &str,
    ) -> Result<Trigger<'a>, NoPerfMap> {
        let name = format!(".attach_pid{own_pid}");
        let failed = |error| NoPerfMap::Trigger {
            name: name.clone(),
            error,
        };
        // Left over from somebody who did not end well.
        let _ = unlinkat(directory, &name, AtFlags::empty());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(directory, &name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| failed(e.into()))?;
        // It is believed when it belongs to the program's user.
        let (user, group) =
            parse::effective_ids(status).ok_or_else(|| failed(io::Error::other("no user")))?;
        fchown(File::from(file), Some(user), Some(group)).map_err(failed)?;
        Ok(Trigger { directory, name })
    }
}

impl Drop for Trigger<'_> {
    fn drop(&mut self) {
        // The program may have removed it.
        let _ = unlinkat(self.directory, &self.name, AtFlags::empty());
    }
}

/// Sends the request and reads the answer: a line with a number, 0 for success, then text.
fn ask(stream: &mut UnixStream) -> Result<(), NoPerfMap> {
    let failed = NoPerfMap::BrokeOff;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(REQUEST).map_err(failed)?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES)
        .read_to_end(&mut answer)
        .map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    match answer.split_once('\n') {
        Some(("0", _)) => Ok(()),
        _ => {
            let said = answer.lines().nth(1).unwrap_or("nothing").trim();
            Err(NoPerfMap::Refused(said.to_owned()))
        }
    }
}
