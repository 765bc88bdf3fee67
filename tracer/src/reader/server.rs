//! The reader itself: answers one question after the other, until nobody asks.

use std::{
    collections::HashMap,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send},
    time::{ClockId, clock_gettime},
};

use super::{
    protocol::{self, Answer, Question},
    sandbox,
};
use crate::{model::Named, symbols::lookup::Lookup};

/// How long it waits for a question before it ends, with all that it has parsed.
const IDLE: Duration = Duration::from_secs(30);
/// Processor seconds after which it ends once it has answered: another begins with full limits.
const SECONDS_MAX: i64 = sandbox::CPU_SECONDS as i64 / 2;
/// Files that it holds; with more it ends once it has answered.
const FILES_MAX: usize = 32;

/// A file and its split debug information.
#[derive(Debug)]
struct Files {
    descriptors: Vec<OwnedFd>,
}

/// Answers what comes on descriptor 0.
pub fn run() -> ExitCode {
    let socket = std::io::stdin();
    let socket = socket.as_fd();
    if sandbox::enter().is_err() {
        return ExitCode::FAILURE;
    }
    let mut files: HashMap<u64, Files> = HashMap::new();
    let mut lookup = Lookup::new();
    while let Some((question, descriptors)) = receive(socket) {
        if !descriptors.is_empty() {
            files.insert(question.file, Files { descriptors });
        }
        let names = files
            .get(&question.file)
            .map(|files| answer(&mut lookup, files, question))
            .unwrap_or_default();
        let bytes = protocol::answer(Answer {
            file: question.file,
            address: question.address,
            names,
        });
        if send(socket, &bytes, SendFlags::NOSIGNAL).is_err() {
            break;
        }
        let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec;
        if used > SECONDS_MAX || files.len() > FILES_MAX {
            break;
        }
    }
    ExitCode::SUCCESS
}

fn answer(lookup: &mut Lookup, files: &Files, question: Question) -> Vec<Named> {
    let path = |fd: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let paths: Vec<PathBuf> = files.descriptors.iter().map(path).collect();
    let Some((file, split)) = paths.split_first() else {
        return Vec::new();
    };
    let split = split.first().map(PathBuf::as_path);
    let found = catch_unwind(AssertUnwindSafe(|| {
        lookup.names(file, split, question.address, question.symbols_only)
    }));
    found.unwrap_or_else(|_| {
        *lookup = Lookup::new();
        Vec::new()
    })
}

fn receive(socket: BorrowedFd<'_>) -> Option<(Question, Vec<OwnedFd>)> {
    let idle = Timespec::try_from(IDLE).ok()?;
    let mut ready = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    loop {
        match poll(&mut ready, Some(&idle)) {
            Ok(0) => return None,
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    let mut bytes = [0; 512];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut along = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut along,
        flags,
    )
    .ok()?;
    let mut descriptors = Vec::new();
    for part in along.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    let question = protocol::parse_question(bytes.get(..message.bytes)?)?;
    Some((question, descriptors))
}
