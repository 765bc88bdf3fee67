//! Signals as readable events, so that one `poll` waits for everything.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::sys::{
    signal::{SigSet, Signal as Number},
    signalfd::{SfdFlags, SignalFd},
};

use crate::procs::parse;

/// Signals that end a watch.
const ENDING: [Number; 4] = [
    Number::SIGINT,
    Number::SIGTERM,
    Number::SIGHUP,
    Number::SIGQUIT,
];
/// Signals that only a started command is interested in.
const PASSED_ON: [Number; 2] = [Number::SIGUSR1, Number::SIGUSR2];

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Its number.
    pub number: i32,
    /// Sent by the kernel, which is what a key on the terminal does: every process of the
    /// foreground group got it.
    pub by_kernel: bool,
}

impl Signal {
    /// Asks for the end.
    #[must_use]
    pub fn ends(self) -> bool {
        ENDING.iter().any(|&ending| ending as i32 == self.number)
    }
}

/// The signals of this process, held back from their default action.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    before: Mask,
}

/// A signal mask, such as the one before signals were held back.
#[derive(Debug, Clone, Copy)]
pub struct Mask(SigSet);

impl Mask {
    /// The mask of this thread.
    #[must_use]
    pub fn current() -> Mask {
        // asked only for the mask, the call can't fail
        Mask(SigSet::thread_get_mask().unwrap_or_else(|_| SigSet::empty()))
    }

    /// Makes it the mask of this thread; async-signal-safe.
    ///
    /// # Errors
    /// The error of sigprocmask(2).
    pub fn apply(self) -> io::Result<()> {
        Ok(self.0.thread_set_mask()?)
    }
}

impl Signals {
    /// Holds back the signals that ask for the end, and with `pass_on` those that a command may
    /// want, in this thread and all that it starts later. Signals that whoever started us ignores
    /// (`nohup`) stay ignored.
    ///
    /// # Errors
    /// The error of sigprocmask(2) or signalfd(2), which only a lack of descriptors explains.
    pub fn hold(pass_on: bool) -> io::Result<Signals> {
        let passed_on: &[Number] = if pass_on { &PASSED_ON } else { &[] };
        let before = Mask::current();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let held: SigSet = ENDING
            .into_iter()
            .chain(passed_on.iter().copied())
            .filter(|&number| !parse::ignores(&status, number as i32))
            .collect();
        held.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = SignalFd::with_flags(&held, flags)?;
        Ok(Signals { fd, before })
    }

    /// The mask as it was, which is what a started command must have.
    #[must_use]
    pub fn mask_before(&self) -> Mask {
        self.before
    }

    /// The next signal that is waiting.
    #[must_use]
    pub fn next(&self) -> Option<Signal> {
        let info = self.fd.read_signal().ok()??;
        Some(Signal {
            number: i32::try_from(info.ssi_signo).unwrap_or_default(),
            by_kernel: info.ssi_code == libc::SI_KERNEL,
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
