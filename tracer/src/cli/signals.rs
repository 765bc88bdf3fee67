//! Signals as readable events, so that one `poll` waits for everything.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
};

/// Signals that end a watch.
const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
/// Signals that only a started command is interested in.
const PASSED_ON: [i32; 2] = [libc::SIGUSR1, libc::SIGUSR2];

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
        ENDING.contains(&self.number)
    }
}

/// The signals of this process, held back from their default action.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
    before: Mask,
}

/// A signal mask, such as the one before signals were held back.
#[derive(Clone, Copy)]
pub struct Mask(libc::sigset_t);

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mask")
    }
}

impl Mask {
    /// The mask of this thread.
    #[must_use]
    pub fn current() -> Mask {
        // SAFETY: an all-zero `sigset_t` is a valid value for the call to overwrite.
        let mut set: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: no new mask is given; `set` is valid for writing.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &raw mut set) };
        Mask(set)
    }

    /// Makes it the mask of this thread; async-signal-safe.
    ///
    /// # Errors
    /// The error of sigprocmask(2).
    pub fn apply(self) -> io::Result<()> {
        // SAFETY: the mask is initialized; the old one is not asked for.
        let result =
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
        match result {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
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
        let passed_on: &[i32] = if pass_on { &PASSED_ON } else { &[] };
        let before = Mask::current();
        // SAFETY: an all-zero `sigset_t` is a valid value, and `sigemptyset` initializes it.
        let mut set: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: `set` is a valid, exclusive `sigset_t`.
        unsafe { libc::sigemptyset(&raw mut set) };
        for &number in ENDING.iter().chain(passed_on) {
            if !ignored(number) {
                // SAFETY: as above; the numbers are valid signals.
                unsafe { libc::sigaddset(&raw mut set, number) };
            }
        }
        // SAFETY: `set` is initialized; the old mask is not asked for.
        let result =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result));
        }
        // SAFETY: `set` is initialized; -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just created and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
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
        // SAFETY: all fields are integers, for which zero is valid.
        let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is exactly one record large and lives through the call.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut info).cast(), size) };
        (usize::try_from(read) == Ok(size)).then(|| Signal {
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

fn ignored(number: i32) -> bool {
    // SAFETY: an all-zero `sigaction` is a valid value for the kernel to overwrite.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: no new action is set; `action` is valid for writing.
    let result = unsafe { libc::sigaction(number, ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}
