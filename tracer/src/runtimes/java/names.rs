//! Java programs in a session that are asked, where the user wants it, for the names of their
//! compiled code.

use std::{
    collections::HashMap,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use super::perf_map_request::{self, NoPerfMap};
use crate::procs::clock::monotonic_ns;

/// Shortest time between two questions to one program: what it compiled since is in the answer.
const ASK_EVERY_NS: u64 = 20_000_000_000;
/// Programs asked side by side, each by a thread.
const ASKING_MAX: usize = 4;

/// The programs that were asked.
#[derive(Debug)]
pub struct Names {
    wanted: bool,
    /// When each may be asked again.
    asked: HashMap<u32, u64>,
    /// Why a program did not answer.
    refused: HashMap<u32, NoPerfMap>,
    asking: usize,
    answers: (Sender<Answer>, Receiver<Answer>),
}

type Answer = (u32, Result<(), NoPerfMap>);

impl Names {
    /// Nobody was asked yet; nobody ever is where it is not wanted.
    pub fn new(wanted: bool) -> Names {
        Names {
            wanted,
            asked: HashMap::new(),
            refused: HashMap::new(),
            asking: 0,
            answers: channel(),
        }
    }

    /// Asks these programs, which have compiled code without names, without waiting for them.
    pub fn ask(&mut self, pids: &[u32]) {
        if !self.wanted {
            return;
        }
        let now_ns = monotonic_ns();
        for (pid, answer) in self.answers.1.try_iter() {
            self.asking -= 1;
            if let Err(reason) = answer {
                tracing::warn!(pid, %reason, "no names of compiled code");
                self.refused.insert(pid, reason);
            }
        }
        for &pid in pids {
            let due = self.asked.get(&pid).is_none_or(|at| now_ns >= *at);
            if !due || self.asking >= ASKING_MAX || self.refused.contains_key(&pid) || !is_java(pid)
            {
                continue;
            }
            self.asked.insert(pid, now_ns + ASK_EVERY_NS);
            let sender = self.answers.0.clone();
            let asking = thread::Builder::new()
                .name("jvm".to_owned())
                .spawn(move || {
                    // The session may have ended.
                    let _ = sender.send((pid, perf_map_request::write_perf_map(pid)));
                });
            self.asking += usize::from(asking.is_ok());
        }
    }

    /// The process has ended, or runs another program now.
    pub fn forget(&mut self, pid: u32) {
        self.asked.remove(&pid);
        self.refused.remove(&pid);
    }

    /// What can't be seen, and why.
    pub fn degraded(&self) -> impl Iterator<Item = String> + '_ {
        self.refused.iter().map(|(pid, reason)| {
            format!("the compiled code of process {pid} has no names, because {reason}")
        })
    }
}

/// Whether the process is one of the programs by the name of `java`.
fn is_java(pid: u32) -> bool {
    crate::procs::exe(pid).is_some_and(|exe| exe.rsplit('/').next() == Some("java"))
}
