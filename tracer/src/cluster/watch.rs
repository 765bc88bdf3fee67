//! The watch: a list of what is followed, then its changes, for as long as the daemon runs.
//!
//! By the client of `kube`, but not its watcher, which asks again at once where a server ends a watch at
//! once. Here a watch lasts five minutes, and after one that failed, or ended within [`SOUND`], the next
//! waits ever longer.

use std::{convert::Infallible, pin::pin, time::Duration};

use futures_util::TryStreamExt as _;
use kube::{
    Client,
    api::{ListParams, VersionMatch, WatchEvent, WatchParams},
    core::{ObjectList, Request, response::Status},
};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};

use super::access::{Access, AccessError};

/// How long the server is to go on with one watch, seconds.
const WATCH_SECONDS: u32 = 290;
/// A watch that is silent for longer has lost its other end: the server would have ended it.
const SILENCE_MAX: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);
/// A list, or a page of it, takes no longer.
const LIST_MAX: Duration = Duration::from_secs(60);
/// A list has no more pages.
const PAGES_MAX: usize = 2_000;
/// After a first failure.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// After many.
const PAUSE_MAX: Duration = Duration::from_secs(120);
/// A watch that lasted so long was none of a row of failures.
const SOUND: Duration = Duration::from_secs(60);

/// What is followed, and who takes it in.
pub trait Followed {
    /// What is read of an object.
    type Object: DeserializeOwned + Clone;
    /// Path of all of them.
    const PATH: &'static str;
    /// What roles call them.
    const RESOURCE: &'static str;
    /// They are asked for whole; else their metadata.
    const WHOLE: bool;
    /// Most of them in one answer; without, a list is one answer.
    const PAGE: Option<u32>;

    /// What is followed, for the log.
    fn what(&self) -> String;

    /// Which of them, by a selector of fields.
    fn selector(&self) -> Option<String>;

    /// Up to where a watch has come with an object.
    fn version(object: &Self::Object) -> Option<&str>;

    /// A list begins: what there is will be put.
    fn begin(&mut self);

    /// An object is there, or has changed.
    fn put(&mut self, object: Self::Object);

    /// The list is over: what was not put since it began is gone.
    fn only(&mut self);

    /// An object is gone.
    fn gone(&mut self, object: Self::Object);

    /// Up to now all is known.
    fn heard(&mut self) {}

    /// Whether nothing is told any more.
    fn is_troubled(&self) -> bool;

    /// Notes why nothing is told any more, or that it is.
    fn set_trouble(&mut self, trouble: Option<String>);
}

/// Why the watch ended.
#[derive(Debug, Error)]
enum Broken {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("the API server does not answer as it should: {}", causes(.0))]
    Request(#[from] kube::Error),
    #[error("the API server sent what is no list of what was asked for: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("the API server did not answer within {} s", LIST_MAX.as_secs())]
    Slow,
    #[error("the API server's list has more than {PAGES_MAX} pages")]
    Endless,
    #[error("the API server refused to go on ({}: {})", .0.code, .0.message)]
    Refused(Box<Status>),
    /// What the watch has come to is not known any more: everything is to be listed again.
    #[error("the API server does not know any more where the watch was (410)")]
    Gone,
}

impl Broken {
    /// The same with what may be done about it.
    fn told(&self, resource: &str) -> String {
        match self {
            Broken::Request(kube::Error::Api(status)) if status.code == 401 => {
                format!("{self}; the token is not, or no longer, valid")
            }
            Broken::Request(kube::Error::Api(status)) if status.code == 403 => {
                format!("{self}; the service account needs list and watch on {resource}")
            }
            _ => self.to_string(),
        }
    }
}

/// What went wrong, to its ground.
fn causes(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{} {}", status.code, status.message);
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

/// How long to wait after failures.
#[derive(Debug)]
struct Pause {
    next: Duration,
}

impl Pause {
    /// How long now, after a watch that lasted so long; `chance` is between 0 and 1, so that nodes do not
    /// ask all at one time.
    fn after(&mut self, lasted: Duration, chance: f64) -> Duration {
        if lasted >= SOUND {
            self.next = PAUSE_FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(PAUSE_MAX);
        pause.mul_f64(0.5 + chance / 2.0)
    }
}

/// Follows, and never ends.
pub async fn keep<F: Followed>(mut followed: F, access: &Access) {
    let mut pause = Pause { next: PAUSE_FIRST };
    let mut telling = true;
    followed.set_trouble(Some("the API server was not asked yet".to_owned()));
    loop {
        let began = Instant::now();
        let Err(broken) = follow(&mut followed, access, &mut pause).await;
        let wait = pause.after(began.elapsed(), chance());
        if matches!(broken, Broken::Gone) {
            tracing::debug!("{broken}; listing {} again", followed.what());
        } else {
            let broken = broken.told(F::RESOURCE);
            // once for each outage
            if telling || !followed.is_troubled() {
                tracing::warn!("{} are not followed for now: {broken}", followed.what());
            } else {
                tracing::debug!("{} are still not followed: {broken}", followed.what());
            }
            telling = false;
            followed.set_trouble(Some(broken));
        }
        sleep(wait).await;
    }
}

/// Lists, and watches until something goes wrong.
async fn follow<F: Followed>(
    followed: &mut F,
    access: &Access,
    pause: &mut Pause,
) -> Result<Infallible, Broken> {
    let client = access.client().await?;
    let mut version = list(followed, &client).await?;
    if followed.is_troubled() {
        tracing::info!("following {}", followed.what());
        followed.set_trouble(None);
    }
    loop {
        let began = Instant::now();
        watch(followed, &client, &mut version).await?;
        // when its time is over; or it has gone away, which the next request tells
        sleep(pause.after(began.elapsed(), chance())).await;
    }
}

/// Takes in all that there is, and says up to which version that is.
async fn list<F: Followed>(followed: &mut F, client: &Client) -> Result<String, Broken> {
    let mut everything = ListParams {
        field_selector: followed.selector(),
        limit: F::PAGE,
        // from the server's cache, where it is not paged: what it has missed the watch will bring
        resource_version: Some("0".to_owned()),
        version_match: Some(VersionMatch::NotOlderThan),
        ..ListParams::default()
    };
    followed.begin();
    for _ in 0..PAGES_MAX {
        let request = Request::new(F::PATH);
        let request = match F::WHOLE {
            true => request.list(&everything),
            false => request.list_metadata(&everything),
        };
        let request = request.map_err(kube::Error::BuildRequest)?;
        let answer = timeout(LIST_MAX, client.request_text(request));
        let text = answer.await.map_err(|_| Broken::Slow)??;
        let page: ObjectList<F::Object> = serde_json::from_str(&text)?;
        drop(text);
        for object in page.items {
            followed.put(object);
        }
        everything.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if everything.continue_token.is_none() {
            followed.only();
            return Ok(page.metadata.resource_version.unwrap_or_default());
        }
    }
    Err(Broken::Endless)
}

/// Takes in changes until the server ends the watch.
async fn watch<F: Followed>(
    followed: &mut F,
    client: &Client,
    version: &mut String,
) -> Result<(), Broken> {
    let changes = WatchParams {
        field_selector: followed.selector(),
        timeout: Some(WATCH_SECONDS),
        bookmarks: true,
        ..WatchParams::default()
    };
    let request = Request::new(F::PATH);
    let request = match F::WHOLE {
        true => request.watch(&changes, version),
        false => request.watch_metadata(&changes, version),
    };
    let request = request.map_err(kube::Error::BuildRequest)?;
    let answer = timeout(LIST_MAX, client.request_events::<F::Object>(request));
    let events = match answer.await.map_err(|_| Broken::Slow)? {
        Err(kube::Error::Api(status)) if status.code == 410 => return Err(Broken::Gone),
        events => events?,
    };
    let mut events = pin!(events);
    while let Ok(event) = timeout(SILENCE_MAX, events.try_next()).await {
        let (object, ended) = match event? {
            None => {
                followed.heard();
                break;
            }
            Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => (object, false),
            Some(WatchEvent::Deleted(object)) => (object, true),
            Some(WatchEvent::Bookmark(bookmark)) => {
                *version = bookmark.metadata.resource_version;
                followed.heard();
                continue;
            }
            Some(WatchEvent::Error(status)) if status.code == 410 => return Err(Broken::Gone),
            Some(WatchEvent::Error(status)) => return Err(Broken::Refused(status)),
        };
        if let Some(come_to) = F::version(&object) {
            come_to.clone_into(version);
        }
        match ended {
            true => followed.gone(object),
            false => followed.put(object),
        }
        followed.heard();
    }
    Ok(())
}

/// Some number between 0 and 1, which differs between nodes.
fn chance() -> f64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_wait_ever_longer_and_at_last_a_minute_or_more() {
        let mut pause = Pause { next: PAUSE_FIRST };
        let briefly = Duration::ZERO;
        let waits: Vec<Duration> = (0..10).map(|_| pause.after(briefly, 0.0)).collect();
        assert!(waits[0] <= Duration::from_secs(1), "{waits:?}");
        assert!(waits.is_sorted(), "{waits:?}");
        assert_eq!(waits[9], Duration::from_secs(60));
        assert_eq!(pause.after(briefly, 1.0), PAUSE_MAX);
        assert!(pause.after(SOUND, 1.0) <= Duration::from_secs(1));
    }
}
