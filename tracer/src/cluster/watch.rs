//! The watch: a list of the node's pods, then their changes, for as long as the daemon runs.
//!
//! By the client of `kube`, but not its watcher, which asks again at once where a server ends a watch at
//! once. Here a watch lasts five minutes, and after one that failed, or ended within [`SOUND`], the next
//! waits ever longer.

use std::{collections::HashSet, convert::Infallible, pin::pin, time::Duration};

use futures_util::TryStreamExt as _;
use kube::{
    Client,
    api::{ListParams, VersionMatch, WatchEvent, WatchParams},
    core::{ObjectList, Request, response::Status},
};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};

use super::{
    Cluster,
    access::{Access, AccessError},
    object::Object,
};

const PODS: &str = "/api/v1/pods";
/// How long the server is to go on with one watch, seconds.
const WATCH_SECONDS: u32 = 290;
/// A watch that is silent for longer has lost its other end: the server would have ended it.
const SILENCE_MAX: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);
/// A list takes no longer.
const LIST_MAX: Duration = Duration::from_secs(60);
/// After a first failure.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// After many.
const PAUSE_MAX: Duration = Duration::from_secs(120);
/// A watch that lasted so long was none of a row of failures.
const SOUND: Duration = Duration::from_secs(60);

/// Why the watch ended.
#[derive(Debug, Error)]
enum Broken {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("the API server does not answer as it should: {}", causes(.0))]
    Request(#[from] kube::Error),
    #[error("the API server sent what is no list of pods: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("the API server did not answer within {} s", LIST_MAX.as_secs())]
    Slow,
    #[error("the API server refused to go on ({}: {})", .0.code, .0.message)]
    Refused(Box<Status>),
    /// What the watch has come to is not known any more: everything is to be listed again.
    #[error("the API server does not know any more where the watch was (410)")]
    Gone,
}

/// What went wrong, to its ground.
fn causes(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        let hint = match status.code {
            401 => "; the token is not, or no longer, valid",
            403 => "; the service account needs list and watch on pods",
            _ => "",
        };
        return format!("{} {}{hint}", status.code, status.message);
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

/// Follows the pods of a node, and never ends.
pub async fn keep(cluster: &Cluster, access: &Access) {
    let mut pause = Pause { next: PAUSE_FIRST };
    let mut telling = true;
    cluster
        .directory()
        .set_trouble(Some("the API server was not asked yet".to_owned()));
    loop {
        let began = Instant::now();
        let Err(broken) = follow(cluster, access, &mut pause).await;
        let wait = pause.after(began.elapsed(), chance());
        let healthy = cluster.directory().trouble().is_none();
        if matches!(broken, Broken::Gone) {
            tracing::debug!("{broken}; listing this node's pods again");
        } else {
            // once for each outage
            if healthy || telling {
                tracing::warn!("names of pods are not followed for now: {broken}");
            } else {
                tracing::debug!("still no names of pods: {broken}");
            }
            telling = false;
            cluster.directory().set_trouble(Some(broken.to_string()));
        }
        sleep(wait).await;
    }
}

/// Lists, and watches until something goes wrong.
async fn follow(
    cluster: &Cluster,
    access: &Access,
    pause: &mut Pause,
) -> Result<Infallible, Broken> {
    let client = access.client().await?;
    let of_node = format!("spec.nodeName={}", access.node);
    let mut version = list(cluster, &client, &of_node).await?;
    if cluster.directory().trouble().is_some() {
        tracing::info!("following the pods of node {}", access.node);
        cluster.directory().set_trouble(None);
    }
    loop {
        let began = Instant::now();
        watch(cluster, &client, &of_node, &mut version).await?;
        // when its time is over; or it has gone away, which the next request tells
        sleep(pause.after(began.elapsed(), chance())).await;
    }
}

/// Takes in all pods of the node, and says up to which version that is.
async fn list(cluster: &Cluster, client: &Client, of_node: &str) -> Result<String, Broken> {
    let everything = ListParams {
        field_selector: Some(of_node.to_owned()),
        // from the server's cache: what it has missed the watch will bring
        resource_version: Some("0".to_owned()),
        version_match: Some(VersionMatch::NotOlderThan),
        ..ListParams::default()
    };
    let request = Request::new(PODS).list_metadata(&everything);
    let request = request.map_err(kube::Error::BuildRequest)?;
    let answer = timeout(LIST_MAX, client.request_text(request));
    let text = answer.await.map_err(|_| Broken::Slow)??;
    let list: ObjectList<Object> = serde_json::from_str(&text)?;
    drop(text);
    let mut directory = cluster.directory();
    let now = std::time::Instant::now();
    let mut there = HashSet::new();
    for (uid, known) in list.items.into_iter().filter_map(Object::known) {
        there.insert(uid.clone());
        directory.put(uid, known, now);
    }
    directory.only(&there);
    Ok(list.metadata.resource_version.unwrap_or_default())
}

/// Takes in changes until the server ends the watch.
async fn watch(
    cluster: &Cluster,
    client: &Client,
    of_node: &str,
    version: &mut String,
) -> Result<(), Broken> {
    let changes = WatchParams {
        field_selector: Some(of_node.to_owned()),
        timeout: Some(WATCH_SECONDS),
        bookmarks: true,
        ..WatchParams::default()
    };
    let request = Request::new(PODS).watch_metadata(&changes, version);
    let request = request.map_err(kube::Error::BuildRequest)?;
    let answer = timeout(LIST_MAX, client.request_events::<Object>(request));
    let events = match answer.await.map_err(|_| Broken::Slow)? {
        Err(kube::Error::Api(status)) if status.code == 410 => return Err(Broken::Gone),
        events => events?,
    };
    let mut events = pin!(events);
    while let Ok(event) = timeout(SILENCE_MAX, events.try_next()).await {
        let (object, ended) = match event? {
            None => break,
            Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => (object, false),
            Some(WatchEvent::Deleted(object)) => (object, true),
            Some(WatchEvent::Bookmark(bookmark)) => {
                *version = bookmark.metadata.resource_version;
                continue;
            }
            Some(WatchEvent::Error(status)) if status.code == 410 => return Err(Broken::Gone),
            Some(WatchEvent::Error(status)) => return Err(Broken::Refused(status)),
        };
        if let Some(come_to) = object.version() {
            come_to.clone_into(version);
        }
        if let Some((uid, known)) = object.known() {
            let mut directory = cluster.directory();
            directory.put(uid.clone(), known, std::time::Instant::now());
            if ended {
                directory.end(&uid);
            }
        }
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
