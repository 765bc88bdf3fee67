//! Asking many daemons side by side: so many at once, each for so long, answers taken as they come, and
//! who gave none is named.

mod asked;

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::{
    net::lookup_host,
    runtime::Runtime,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

pub use self::asked::{Asked, answered, coverage, some};
use super::{
    Failure,
    client::{AskError, Endpoint, fetch},
    pods::{Cluster, Pod},
};

/// Daemons that are asked at the same time.
const AT_ONCE: usize = 64;
/// Bytes of all answers that are on their way, and the least that one may have of them.
const ANSWERS_MAX: usize = 512 << 20;
const ANSWER_LEAST: usize = 16 << 20;
/// A daemon that has not answered by then counts as not answering.
const EACH: Duration = Duration::from_secs(10);
/// Times as long, until all have to have answered.
const ALL: u32 = 6;
/// From that many on, who is much slower than the others is not waited for.
const MANY: usize = 10;
/// Where all but one in so many have answered, the rest have as long again, and at least that.
const ONE_IN: usize = 10;
const AS_LONG: Duration = Duration::from_millis(1_500);

/// Daemons that are asked together.
pub struct Fleet {
    whom: Whom,
    patience: Patience,
    /// Kept between questions, as is the connection to a cluster.
    runtime: Option<Runtime>,
}

/// Who is asked.
pub enum Whom {
    /// These.
    Endpoints(Vec<Endpoint>),
    /// Those of a cluster.
    Cluster(Box<Cluster>),
}

/// One that is asked.
enum Target {
    Endpoint(Endpoint),
    Pod(Pod),
}

impl Target {
    async fn fetch(&self, path: &str, most: usize) -> Result<Bytes, AskError> {
        match self {
            Target::Endpoint(endpoint) => fetch(endpoint, path, most).await,
            Target::Pod(pod) => pod.fetch(path, most).await,
        }
    }
}

/// Somebody by name, and why there can be no answer where that is known already.
type Named = (String, Result<Target, AskError>);

/// How long is waited.
#[derive(Debug, Clone, Copy)]
struct Patience {
    each: Duration,
    /// The user said so: it holds for the slow ones too.
    said: bool,
}

/// Who answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// In the order of the endpoints.
    pub place: usize,
    /// The endpoint.
    pub name: String,
    /// Nobody else was asked.
    pub alone: bool,
}

impl Fleet {
    /// Daemons that are given this long, or as long as is usual.
    ///
    /// # Errors
    /// [`Failure`] when the operating system refuses a runtime.
    pub fn new(whom: Whom, each: Option<Duration>) -> Result<Fleet, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::failed(format!("cannot ask the daemons: {e}")))?;
        Ok(Fleet {
            whom,
            patience: Patience {
                each: each.unwrap_or(EACH),
                said: each.is_some(),
            },
            runtime: Some(runtime),
        })
    }

    /// Asks all of them; `take` is told each answer as it comes.
    ///
    /// # Errors
    /// [`Failure`] when a cluster's daemons can't be found.
    pub fn ask<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        take: impl FnMut(Who, T),
    ) -> Result<Asked, Failure> {
        let Some(runtime) = &self.runtime else {
            return Ok(Asked::default());
        };
        runtime.block_on(async {
            let named = match &self.whom {
                Whom::Endpoints(endpoints) => self.named(endpoints).await,
                Whom::Cluster(cluster) => (cluster.daemons(self.patience.each).await?)
                    .into_iter()
                    .map(|(node, pod)| (node, pod.map(Target::Pod)))
                    .collect(),
            };
            let (targets, silent) = in_places(named);
            Ok(ask_all(targets, silent, path, self.patience, take).await)
        })
    }

    /// Who is to be asked: each address of a name that has several. Names without one are silent.
    async fn named(&self, endpoints: &[Endpoint]) -> Vec<Named> {
        let mut lookups = JoinSet::new();
        for (index, endpoint) in endpoints.iter().cloned().enumerate() {
            let each = self.patience.each;
            lookups.spawn(async move { (index, addresses(endpoint, each).await) });
        }
        let mut found = lookups.join_all().await;
        found.sort_by_key(|(index, _)| *index);
        let results = found.into_iter().flat_map(|(_, result)| match result {
            Ok(endpoints) => endpoints.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        results
            .map(|result| match result {
                Ok(endpoint) => (endpoint.to_string(), Ok(Target::Endpoint(endpoint))),
                Err((endpoint, error)) => (endpoint.to_string(), Err(error)),
            })
            .collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // A name that is still being looked up is not waited for.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Those who can be asked, and those who can't.
type Sorted = (Vec<(Who, Target)>, Vec<(Who, AskError)>);

/// Sorts them by that, in the order given.
fn in_places(named: Vec<Named>) -> Sorted {
    let alone = named.len() == 1;
    let (mut targets, mut silent) = (Vec::new(), Vec::new());
    for (place, (name, result)) in named.into_iter().enumerate() {
        let who = Who { place, name, alone };
        match result {
            Ok(target) => targets.push((who, target)),
            Err(error) => silent.push((who, error)),
        }
    }
    (targets, silent)
}

/// The endpoints that one stands for.
async fn addresses(
    endpoint: Endpoint,
    each: Duration,
) -> Result<Vec<Endpoint>, (Endpoint, AskError)> {
    let (address, token, all) = match &endpoint {
        Endpoint::Tcp(address, token) => (address, token, false),
        Endpoint::All(address, token) => (address, token, true),
        Endpoint::Unix(_) => return Ok(vec![endpoint]),
    };
    if address.parse::<SocketAddr>().is_ok() {
        return Ok(vec![Endpoint::Tcp(address.clone(), token.clone())]);
    }
    let looked_up = timeout(each, lookup_host(address)).await;
    let found = match looked_up.map(|found| found.map(one_family)) {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return Err((endpoint, AskError::NoAddress(error))),
        Err(_) => return Err((endpoint, AskError::Silent(each))),
    };
    if found.len() < 2 && !all {
        return Ok(vec![endpoint]);
    }
    let endpoints = found.iter();
    Ok(endpoints
        .map(|address| Endpoint::Tcp(address.to_string(), token.clone()))
        .collect())
}

/// The addresses of the family that has more of them: where pods have both, a name has each pod twice.
fn one_family(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (mut four, mut six): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv4);
    for addresses in [&mut four, &mut six] {
        addresses.sort_unstable();
        addresses.dedup();
    }
    if six.len() > four.len() { six } else { four }
}

async fn ask_all<T: DeserializeOwned + Send + 'static>(
    targets: Vec<(Who, Target)>,
    silent: Vec<(Who, AskError)>,
    path: &str,
    patience: Patience,
    mut take: impl FnMut(Who, T),
) -> Asked {
    let begun = Instant::now();
    let daemons = targets.len() + silent.len();
    let most = (ANSWERS_MAX / targets.len().clamp(1, AT_ONCE)).max(ANSWER_LEAST);
    let mut asked = Asked { daemons, silent };
    let mut all = patience.each.saturating_mul(ALL);
    let mut late = false;
    let mut waiting = targets.into_iter();
    let mut asking = JoinSet::new();
    // those who have been asked and have not answered yet
    let mut open: Vec<Who> = Vec::new();
    loop {
        for (who, target) in waiting.by_ref().take(AT_ONCE - asking.len()) {
            open.push(who.clone());
            let path = path.to_owned();
            asking.spawn(async move {
                let body = timeout(patience.each, target.fetch(&path, most)).await;
                let body = body.unwrap_or(Err(AskError::Silent(patience.each)));
                let result = body.and_then(|body| {
                    serde_json::from_slice(&body).map_err(AskError::NotUnderstood)
                });
                (who, result)
            });
        }
        let (who, result) = tokio::select! {
            ended = asking.join_next() => match ended {
                Some(Ok(answer)) => answer,
                // it has panicked, and is among those who are left
                Some(Err(_)) => continue,
                None => break,
            },
            () = sleep_until(begun + all) => break,
        };
        open.retain(|other| other.place != who.place);
        match result {
            Ok(answer) => take(who, answer),
            Err(error) => asked.silent.push((who, error)),
        }
        let left = open.len() + waiting.len();
        if !patience.said && !late && daemons >= MANY && left * ONE_IN <= daemons {
            late = true;
            let passed = begun.elapsed();
            all = all.min(passed + passed.max(AS_LONG));
        }
    }
    let reason = |_: &Who| match late {
        true => AskError::Late(all),
        false => AskError::Silent(all),
    };
    asked.silent.extend(open.into_iter().map(|who| {
        let reason = reason(&who);
        (who, reason)
    }));
    let never = waiting.map(|(who, _)| (who, AskError::NotAsked(all)));
    asked.silent.extend(never);
    asked.silent.sort_by_key(|(who, _)| who.place);
    asked
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn an_endpoint_that_does_not_answer_is_named() {
        let endpoint = Endpoint::Unix(PathBuf::from("/no/such/tracer.sock"));
        let fleet = Fleet::new(Whom::Endpoints(vec![endpoint]), None).unwrap();
        let asked = fleet.ask::<serde_json::Value>("/v1/report", |_, _| {});
        let failure = asked.unwrap().need_one().unwrap_err();
        assert_eq!(failure.status, 1);
        let text = failure.to_string();
        assert!(text.contains("/no/such/tracer.sock"), "{text}");
        assert!(text.contains("tracer daemon"), "{text}");
    }

    #[test]
    fn a_name_without_address_is_named() {
        let endpoint = Endpoint::parse("dns:no-such-name.invalid:9464").unwrap();
        let five = Some(Duration::from_secs(5));
        let fleet = Fleet::new(Whom::Endpoints(vec![endpoint]), five).unwrap();
        let asked = fleet.ask::<serde_json::Value>("/v1/report", |_, _| {});
        let said = asked.unwrap().need_one().unwrap_err().to_string();
        assert!(said.contains("dns:no-such-name.invalid:9464"), "{said}");
    }

    #[test]
    fn of_pods_with_two_addresses_one_is_asked() {
        let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let chosen = |texts| one_family(addresses(texts).into_iter());
        assert_eq!(
            chosen(&["[fd00::1]:1", "10.0.0.2:1", "10.0.0.1:1", "[fd00::2]:1"]),
            addresses(&["10.0.0.1:1", "10.0.0.2:1"])
        );
        assert_eq!(
            chosen(&["[fd00::1]:1", "[fd00::2]:1", "10.0.0.1:1"]),
            addresses(&["[fd00::1]:1", "[fd00::2]:1"])
        );
    }
}
