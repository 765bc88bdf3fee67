//! Changes in the lives of findings, told to others: a webhook, and a collector of OTLP logs. Nothing
//! leaves the daemon unless one of them was asked for.
//!
//! ```text
//!  worker thread ──event──► a queue for each ──► a task for each: POST, and again where it may help
//! ```

mod destination;
mod otlp;
mod post;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Duration, sleep, timeout},
};

pub use self::destination::{Destination, DestinationError};
use self::post::PostError;
use crate::report::{Change, Event, Finding, SCHEMA};

/// Events that may wait for one destination; each has some kilobytes.
const WAITING_MAX: usize = 128;
/// Time for one attempt.
const ATTEMPT_TIME: Duration = Duration::from_secs(10);
/// Attempts for one event.
const ATTEMPTS: u32 = 6;
/// Rest after the first attempt that failed; doubles after each.
const FIRST_REST: Duration = Duration::from_secs(1);

/// Who is to be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Destinations {
    /// Gets each event as JSON (`docs/schema/event.json`).
    pub webhook: Option<Destination>,
    /// Gets each event as a log record of OTLP.
    pub otlp: Option<Destination>,
    /// Name of the cluster's node, to tell with each.
    pub node: Option<String>,
}

/// What became of the events for one destination.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// The layout of what a destination gets.
type Form = fn(&Event) -> serde_json::Result<Bytes>;

#[derive(Debug)]
struct Queue {
    name: &'static str,
    form: Form,
    waiting: mpsc::Sender<(String, Bytes)>,
    counts: Arc<Counts>,
}

/// Takes events and has them delivered; telling never waits.
#[derive(Debug, Default)]
pub struct Outward {
    queues: Vec<Queue>,
    host: String,
    node: Option<String>,
}

/// What delivers; it ends when its [`Outward`] is gone and the queues are empty.
pub(super) type Deliveries = Vec<JoinHandle<()>>;

impl Outward {
    /// Starts what delivers, on this thread's runtime.
    pub(super) fn start(destinations: Destinations, host: String) -> (Outward, Deliveries) {
        let webhook = destinations.webhook.map(|to| ("webhook", to, json as Form));
        let otlp = destinations.otlp.map(|to| ("otlp", to, otlp::logs as Form));
        let (queues, deliveries) = webhook
            .into_iter()
            .chain(otlp)
            .map(|(name, to, form)| {
                tracing::info!("changes of findings go to {to} ({name})");
                let (waiting, queue) = mpsc::channel(WAITING_MAX);
                let counts = Arc::<Counts>::default();
                let delivery = deliver(name, to, queue, Arc::clone(&counts), FIRST_REST);
                let queue = Queue {
                    name,
                    form,
                    waiting,
                    counts,
                };
                (queue, tokio::spawn(delivery))
            })
            .unzip();
        let outward = Outward {
            queues,
            host,
            node: destinations.node,
        };
        (outward, deliveries)
    }

    /// Tells all of a change.
    pub fn tell(&self, change: Change, finding: &Finding, at: Timestamp) {
        if self.queues.is_empty() {
            return;
        }
        let event = self.event(change, finding.clone(), at);
        for queue in &self.queues {
            let body = match (queue.form)(&event) {
                Ok(body) => body,
                Err(error) => {
                    tracing::warn!("event {} can't be written as JSON: {error}", event.key);
                    continue;
                }
            };
            if queue.waiting.try_send((event.key.clone(), body)).is_err() {
                queue.counts.dropped.fetch_add(1, Ordering::Relaxed);
                let (name, key) = (queue.name, &event.key);
                tracing::warn!("event {key} is not told to the {name}: {WAITING_MAX} others wait");
            }
        }
    }

    fn event(&self, change: Change, mut finding: Finding, at: Timestamp) -> Event {
        finding.remote.examples.clear();
        let (id, name) = (&finding.id, change.name());
        Event {
            schema: SCHEMA,
            key: match change {
                Change::New => format!("{id}:{name}"),
                // may happen again
                _ => format!("{id}:{name}:{}", at.as_millisecond()),
            },
            change,
            at,
            host: self.host.clone(),
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            finding,
        }
    }

    /// How many events each destination has got, has not got, and was not to get for want of room.
    pub(super) fn counts(&self) -> impl Iterator<Item = ([&'static str; 2], u64)> + '_ {
        self.queues.iter().flat_map(|queue| {
            let Counts {
                sent,
                failed,
                dropped,
            } = &*queue.counts;
            let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
            [("sent", sent), ("failed", failed), ("dropped", dropped)]
                .map(|(result, count)| ([queue.name, result], of(count)))
        })
    }
}

/// As a webhook gets it.
fn json(event: &Event) -> serde_json::Result<Bytes> {
    Ok(serde_json::to_vec(event)?.into())
}

/// Delivers one event after the other, in their order.
async fn deliver(
    name: &'static str,
    to: Destination,
    mut queue: mpsc::Receiver<(String, Bytes)>,
    counts: Arc<Counts>,
    first_rest: Duration,
) {
    while let Some((key, body)) = queue.recv().await {
        let count = match persist(&to, &body, first_rest).await {
            Ok(()) => &counts.sent,
            Err(error) => {
                tracing::warn!("event {key} did not reach the {name} at {to}: {error}");
                &counts.failed
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tries until it is delivered, or there is no hope.
async fn persist(to: &Destination, body: &Bytes, first_rest: Duration) -> Result<(), PostError> {
    let mut rest = first_rest;
    for _ in 1..ATTEMPTS {
        match attempt(to, body).await {
            Err(error) if !error.is_final() => {
                tracing::debug!("an event did not reach {to}: {error}");
            }
            done => return done,
        }
        sleep(rest).await;
        rest *= 2;
    }
    attempt(to, body).await
}

async fn attempt(to: &Destination, body: &Bytes) -> Result<(), PostError> {
    let silent = PostError::Silent(ATTEMPT_TIME.as_secs());
    timeout(ATTEMPT_TIME, post::post(to, body.clone()))
        .await
        .unwrap_or(Err(silent))
}

#[cfg(test)]
mod tests;
