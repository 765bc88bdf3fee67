//! What eBPF programs that were built with the feature `ebpf-log` say, among tracer's own messages.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};

/// How often messages are fetched.
const EVERY: Duration = Duration::from_millis(50);

/// A thread that fetches messages until this is dropped.
#[derive(Debug)]
pub struct Notes(Arc<AtomicBool>);

impl Notes {
    /// Begins to fetch; `None` when the programs have none or the thread can't be started.
    pub fn follow(ebpf: &mut Ebpf) -> Option<Notes> {
        let mut messages = match EbpfLogger::init_with_logger(ebpf, ToTracing) {
            Ok(messages) => messages,
            Err(error) => {
                tracing::warn!(%error, "what the eBPF programs say can't be read");
                return None;
            }
        };
        let go_on = Arc::new(AtomicBool::new(true));
        let notes = Notes(Arc::clone(&go_on));
        let read = move || {
            while go_on.load(Ordering::Relaxed) {
                messages.flush();
                thread::sleep(EVERY);
            }
            messages.flush();
        };
        let started = thread::Builder::new()
            .name("ebpf notes".to_owned())
            .spawn(read);
        started.is_ok().then_some(notes)
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Hands records of the `log` crate to `tracing`, under the target `ebpf`.
struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let said = record.args();
        match record.level() {
            Level::Error => tracing::error!(target: "ebpf", "{said}"),
            Level::Warn => tracing::warn!(target: "ebpf", "{said}"),
            Level::Info => tracing::info!(target: "ebpf", "{said}"),
            Level::Debug => tracing::debug!(target: "ebpf", "{said}"),
            Level::Trace => tracing::trace!(target: "ebpf", "{said}"),
        }
    }

    fn flush(&self) {}
}
