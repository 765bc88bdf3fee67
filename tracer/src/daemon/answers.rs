//! Answers that were just given, as text: made once, however many ask at the same time.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use thiserror::Error;
use tokio::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::session::SessionError;

/// How long an answer is given again.
const AGE_MAX: Duration = Duration::from_secs(1);
/// Answers kept: one of each kind, and lists of connections of a few lengths.
const KEPT_MAX: usize = 8;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    Report,
    Overview,
    Connections(usize),
    Doctor,
    Metrics,
}

/// Why an answer could not be made.
#[derive(Debug, Error)]
pub(super) enum Unmade {
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// It can't be compressed.
    #[error("the answer cannot be compressed: {0}")]
    Gzip(#[from] std::io::Error),
    /// It can't be written as JSON.
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It can't be written as metrics.
    #[error("the metrics cannot be encoded: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Why a job was not done.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum AskError {
    /// The session is not ready.
    #[error("the probes are still being attached; try again in a moment")]
    Starting,
    /// As many jobs wait as may.
    #[error("too many requests at one time; try again")]
    Busy,
    /// The worker has ended.
    #[error("the daemon is stopping")]
    Stopping,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It could not be made.
    Broken(Unmade),
    /// Not now.
    Busy(AskError),
}

/// The latest answers.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<HashMap<Asked, Place>>);

type Place = Arc<Mutex<Option<(Instant, Bytes)>>>;

impl Answers {
    /// The latest answer where it is fresh, else what `make` gives. Who asks for the same meanwhile
    /// waits for that.
    pub(super) async fn get<F>(
        &self,
        asked: Asked,
        make: impl FnOnce() -> F,
    ) -> Result<Bytes, Trouble>
    where
        F: Future<Output = Result<Result<String, Unmade>, AskError>>,
    {
        let place = {
            let mut all = self.0.lock().await;
            if all.len() >= KEPT_MAX && !all.contains_key(&asked) {
                all.clear();
            }
            Arc::clone(all.entry(asked).or_default())
        };
        let mut latest = place.lock().await;
        if let Some((made, text)) = &*latest
            && made.elapsed() < AGE_MAX
        {
            return Ok(text.clone());
        }
        let text = make()
            .await
            .map_err(Trouble::Busy)?
            .map_err(Trouble::Broken)?;
        let text = Bytes::from(text);
        *latest = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}
