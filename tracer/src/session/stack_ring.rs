//! Stack copies between the kernel's ring and whoever unwinds them. A thread takes them out at
//! once: the ring has room for some 120, and to name the first stack of a large program takes
//! seconds.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use aya::maps::{MapData, RingBuf};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Bytes that wait, at most: some 2,000 copies. Beyond that they stay in the ring, and when that
/// is full, too, the kernel counts what it could not store.
const BYTES_MAX: usize = 32 << 20;
/// How often a full queue is looked at, in nanoseconds.
const FULL_WAIT_NS: i64 = 10_000_000;

/// StackRing that were taken out of the ring, oldest first.
#[derive(Debug)]
pub(crate) struct StackRing {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Readable while something waits.
    arrived: OwnedFd,
    /// Readable when the thread is to end.
    stop: OwnedFd,
}

#[derive(Debug, Default)]
struct Queue {
    records: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl StackRing {
    /// Begins to empty the ring.
    ///
    /// # Errors
    /// When there is no descriptor or thread to be had.
    pub(crate) fn start(ring: RingBuf<MapData>) -> io::Result<StackRing> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            arrived: eventfd(0, flags)?,
            stop: eventfd(0, flags)?,
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("copies".to_owned())
            .spawn(move || theirs.empty(ring))?;
        Ok(StackRing {
            shared,
            thread: Some(thread),
        })
    }

    /// The oldest copy that waits.
    pub(crate) fn next(&self) -> Option<Vec<u8>> {
        let mut queue = self.shared.queue();
        let record = queue.records.pop_front();
        match &record {
            Some(record) => queue.bytes -= record.len(),
            None => {
                // It can only be empty already.
                let _ = rustix::io::read(&self.shared.arrived, &mut [0; 8]);
                queue.records.shrink_to_fit();
            }
        }
        record
    }

    /// A descriptor that is readable while something waits.
    pub(crate) fn wake_fd(&self) -> RawFd {
        self.shared.arrived.as_raw_fd()
    }
}

impl Drop for StackRing {
    fn drop(&mut self) {
        signal(&self.shared.stop);
        if let Some(thread) = self.thread.take() {
            // It has nothing that could panic.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Empties the ring until told to stop.
    fn empty(&self, mut ring: RingBuf<MapData>) {
        loop {
            let full = !self.take(&mut ring);
            // SAFETY: the ring owns the descriptor and outlives this use of it.
            let filled = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
            let mut fds = vec![PollFd::new(&self.stop, PollFlags::IN)];
            let mut timeout = Some(Timespec {
                tv_sec: 0,
                tv_nsec: FULL_WAIT_NS,
            });
            if !full {
                fds.push(PollFd::from_borrowed_fd(filled, PollFlags::IN));
                timeout = None;
            }
            // An interrupted wait is as good as one that ended.
            let _ = poll(&mut fds, timeout.as_ref());
            if fds.first().is_some_and(|stop| !stop.revents().is_empty()) {
                return;
            }
        }
    }

    /// Takes what the ring has; `false` when there is no more room for it.
    fn take(&self, ring: &mut RingBuf<MapData>) -> bool {
        loop {
            if self.queue().bytes >= BYTES_MAX {
                return false;
            }
            let Some(record) = ring.next().map(|item| item.to_vec()) else {
                return true;
            };
            let mut queue = self.queue();
            queue.bytes += record.len();
            queue.records.push_back(record);
            signal(&self.arrived);
        }
    }
}

/// Makes an eventfd readable.
fn signal(eventfd: &OwnedFd) {
    // It fails only where it is readable, and as full as it gets.
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}
