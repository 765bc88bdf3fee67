//! The thread that owns the session: ticks it, and does jobs for requests in between.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::oneshot;

use super::{
    Error,
    answers::{Answers, AskError},
    events::{self, Teller},
    metrics::Totals,
    outward::Outward,
    timeline::Timelines,
};
use crate::config::Ignore;
use crate::{
    procs::clock::{monotonic_ns, thread_cpu_ns},
    refused::Refusal,
    report::{ConnectionList, Doctor, Report},
    session::{Health, Session, SessionError, StartError},
};

/// A report may be this old before a request makes a new one.
const REPORT_AGE_MAX: Duration = Duration::from_secs(2);
/// A report that costs more CPU time than this keeps nobody waiting: whoever asks gets the latest,
/// and a new one is made for those who ask next. A million sockets take a second to go through.
const COSTLY: Duration = Duration::from_millis(400);
/// Such a report is not made again before this many times what it cost have passed.
const COSTLY_REST: u32 = 10;
/// A report is made at least this often, so that timelines and first sightings do not depend on
/// whether somebody asks.
const REPORT_EVERY: Duration = Duration::from_secs(30);
/// Jobs that may wait.
const JOBS_MAX: usize = 64;
/// The loop turns at least this often.
const TURN_MAX: Duration = Duration::from_secs(5);
/// A loop that has not turned for this long is stuck; attaching and a report on a large host take
/// less.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// What a worker drives: a session, or in tests something like it.
pub trait Source: 'static {
    /// As [`Session::wake_fd`].
    fn wake_fd(&self) -> RawFd;
    /// As [`Session::tick`].
    fn tick(&mut self) -> Result<Duration, SessionError>;
    /// As [`Session::report`].
    fn report(&mut self) -> Result<Report, SessionError>;
    /// As [`Session::connections`].
    fn connections(&mut self, limit: usize) -> Result<ConnectionList, SessionError>;
    /// As [`Session::health`].
    fn health(&self) -> Health;
    /// As [`Session::doctor`].
    fn doctor(&self) -> Doctor;
}

impl Source for Session {
    fn wake_fd(&self) -> RawFd {
        Session::wake_fd(self)
    }

    fn tick(&mut self) -> Result<Duration, SessionError> {
        Session::tick(self)
    }

    fn report(&mut self) -> Result<Report, SessionError> {
        Session::report(self)
    }

    fn connections(&mut self, limit: usize) -> Result<ConnectionList, SessionError> {
        Session::connections(self, limit)
    }

    fn health(&self) -> Health {
        Session::health(self)
    }

    fn doctor(&self) -> Doctor {
        Session::doctor(self)
    }
}

/// What jobs work on.
pub struct Jobs {
    /// The session.
    pub source: Box<dyn Source>,
    /// Timelines of the findings.
    pub timelines: Timelines,
    totals: Totals,
    telling: Telling,
    teller: Teller,
    shared: Arc<Shared>,
}

/// What is told of findings, and to whom.
#[derive(Debug, Default)]
pub struct Telling {
    /// Findings to hide.
    pub ignore: Ignore,
    /// Who is told of changes.
    pub outward: Outward,
}

/// The latest report.
#[derive(Debug, Clone)]
struct Latest {
    made: Instant,
    /// CPU time that it took to make.
    took: Duration,
    report: Arc<Report>,
}

impl Latest {
    /// Whether it is as good as one made now.
    fn is_fresh(&self) -> bool {
        let rest = if self.is_costly() {
            self.took * COSTLY_REST
        } else {
            Duration::ZERO
        };
        self.made.elapsed() < REPORT_AGE_MAX.max(rest)
    }

    fn is_costly(&self) -> bool {
        self.took > COSTLY
    }
}

impl Jobs {
    /// The latest report, made anew when it is too old; the ignore list is applied.
    ///
    /// # Errors
    /// That of [`Session::report`].
    pub fn report(&mut self) -> Result<Arc<Report>, SessionError> {
        match self.shared.latest() {
            Some(latest) if latest.is_fresh() => Ok(latest.report),
            _ => self.make_report(),
        }
    }

    fn make_report(&mut self) -> Result<Arc<Report>, SessionError> {
        let begun_ns = thread_cpu_ns();
        let mut report = self.source.report()?;
        self.telling.ignore.apply(&mut report);
        let now = Timestamp::now();
        for (change, finding) in self.teller.changes(&report) {
            tracing::info!("{}", events::line(change, finding));
            self.telling.outward.tell(change, finding, now);
        }
        self.timelines.add(&report, now);
        self.totals.add(&report);
        let report = Arc::new(report);
        self.shared.set_latest(Latest {
            made: Instant::now(),
            took: Duration::from_nanos(thread_cpu_ns().saturating_sub(begun_ns)),
            report: report.clone(),
        });
        Ok(report)
    }

    /// Counters that must not fall when a process ends, with what became of events.
    pub fn totals(&mut self) -> &Totals {
        self.totals.note(self.telling.outward.counts());
        &self.totals
    }

    fn report_is_due(&self) -> bool {
        self.shared
            .latest()
            .is_none_or(|latest| latest.made.elapsed() >= REPORT_EVERY)
    }
}

type Job = Box<dyn FnOnce(&mut Jobs) + Send>;

#[derive(Debug)]
struct Shared {
    /// Readable when there are jobs or it is time to stop.
    wake: OwnedFd,
    stop: AtomicBool,
    ready: AtomicBool,
    /// When the loop last turned, monotonic nanoseconds.
    turned_ns: AtomicU64,
    latest: Mutex<Option<Latest>>,
    /// A report is being made for those who ask next.
    renewing: AtomicBool,
}

impl Shared {
    fn latest(&self) -> Option<Latest> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.clone()
    }

    fn set_latest(&self, latest: Latest) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(latest);
    }

    fn turn(&self) {
        self.turned_ns.store(monotonic_ns(), Ordering::Relaxed);
    }

    fn wake(&self) {
        // It can only fail when the counter is full, and then the thread is awake anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// Gives jobs to the worker.
#[derive(Debug, Clone)]
pub struct Handle {
    jobs: mpsc::SyncSender<Job>,
    shared: Arc<Shared>,
    answers: Arc<Answers>,
}

impl Handle {
    /// Runs `job` on the worker's thread and waits for its answer.
    ///
    /// # Errors
    /// When the worker has ended, is not ready yet, or has too much to do.
    pub async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Jobs) -> T + Send + 'static,
    ) -> Result<T, AskError> {
        if !self.ready() {
            return Err(AskError::Starting);
        }
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |jobs| {
            // The client may be gone by now.
            let _ = sender.send(job(jobs));
        });
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => {
                Refusal::ClientBusy.count();
                AskError::Busy
            }
            mpsc::TrySendError::Disconnected(_) => AskError::Stopping,
        })?;
        self.shared.wake();
        receiver.await.map_err(|_| AskError::Stopping)
    }

    /// The latest report, where it is fresh or a fresh one would take long; then it is made for
    /// whoever asks next.
    #[must_use]
    pub fn report(&self) -> Option<Arc<Report>> {
        let latest = self.shared.latest().filter(|_| self.ready())?;
        if latest.is_fresh() {
            return Some(latest.report);
        }
        if !latest.is_costly() {
            return None;
        }
        if !self.shared.renewing.swap(true, Ordering::AcqRel) {
            let renew: Job = Box::new(|jobs| {
                if let Err(error) = jobs.make_report() {
                    tracing::warn!("no report: {error}");
                }
                jobs.shared.renewing.store(false, Ordering::Release);
            });
            // without a worker, or room, there is nothing to renew now
            if self.jobs.try_send(renew).is_err() {
                self.shared.renewing.store(false, Ordering::Release);
            }
            self.shared.wake();
        }
        Some(latest.report)
    }

    /// The latest answers.
    pub(super) fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Probes are attached and the baseline is taken.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire)
    }

    /// Seconds since the loop last turned, when that is too long.
    #[must_use]
    pub fn stuck_seconds(&self) -> Option<u64> {
        let turned = self.shared.turned_ns.load(Ordering::Relaxed);
        let since = Duration::from_nanos(monotonic_ns().saturating_sub(turned));
        (since >= STUCK_AFTER).then_some(since.as_secs())
    }
}

/// The thread.
#[derive(Debug)]
pub struct Worker {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread, which starts the session. The receiver gets the reason of its end.
    ///
    /// # Errors
    /// The operating system refused a thread or a descriptor.
    pub fn spawn<S: Source>(
        start: impl FnOnce() -> Result<S, StartError> + Send + 'static,
        telling: Telling,
    ) -> io::Result<(Worker, oneshot::Receiver<Result<(), Error>>)> {
        let shared = Arc::new(Shared {
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stop: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            turned_ns: AtomicU64::new(monotonic_ns()),
            latest: Mutex::new(None),
            renewing: AtomicBool::new(false),
        });
        let (jobs, waiting) = mpsc::sync_channel(JOBS_MAX);
        let (ended, end) = oneshot::channel();
        let for_thread = shared.clone();
        let thread = thread::Builder::new()
            .name("session".to_owned())
            .spawn(move || {
                let result = work(start, telling, &waiting, &for_thread);
                for_thread.ready.store(false, Ordering::Release);
                let _ = ended.send(result);
            })?;
        let worker = Worker {
            handle: Handle {
                jobs,
                shared,
                answers: Arc::default(),
            },
            thread: Some(thread),
        };
        Ok((worker, end))
    }

    /// A way to give it jobs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends the session, which detaches everything, and waits for it.
    pub fn stop(&mut self) {
        self.handle.shared.stop.store(true, Ordering::Release);
        self.handle.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work<S: Source>(
    start: impl FnOnce() -> Result<S, StartError>,
    telling: Telling,
    waiting: &mpsc::Receiver<Job>,
    shared: &Arc<Shared>,
) -> Result<(), Error> {
    let mut jobs = Jobs {
        source: Box::new(start()?),
        timelines: Timelines::default(),
        totals: Totals::default(),
        teller: Teller::new(Timestamp::now()),
        telling,
        shared: Arc::clone(shared),
    };
    shared.turn();
    shared.ready.store(true, Ordering::Release);
    while !shared.stop.load(Ordering::Acquire) {
        let wait = jobs.source.tick().map_err(Error::Broken)?;
        shared.turn();
        if jobs.report_is_due()
            && let Err(error) = jobs.make_report()
        {
            tracing::warn!("no report: {error}");
        }
        while let Ok(job) = waiting.try_recv() {
            job(&mut jobs);
            shared.turn();
        }
        sleep(&*jobs.source, shared, wait.min(TURN_MAX));
    }
    Ok(())
}

fn sleep(source: &dyn Source, shared: &Shared, timeout: Duration) {
    let mut fds = vec![PollFd::new(&shared.wake, PollFlags::IN)];
    let wake = source.wake_fd();
    if wake >= 0 {
        // SAFETY: the session owns the descriptor and outlives this call.
        let wake = unsafe { BorrowedFd::borrow_raw(wake) };
        fds.push(PollFd::from_borrowed_fd(wake, PollFlags::IN));
    }
    let timeout = Timespec::try_from(timeout).ok();
    // An interrupted wait is as good as one that timed out.
    let _ = poll(&mut fds, timeout.as_ref());
    // Nobody waits for the count: jobs are taken from the channel until it is empty.
    let _ = rustix::io::read(&shared.wake, &mut [0; 8]);
}
