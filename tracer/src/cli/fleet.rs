//! Asking many daemons side by side: so many at once, each for so long, answers taken as they come, and
//! who gave none is named.

use std::{net::SocketAddr, time::Duration};

use hyper::StatusCode;
use serde::de::DeserializeOwned;
use tokio::{
    net::lookup_host,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Failure,
    client::{AskError, Endpoint, fetch},
    output, units,
};
use crate::report::{Coverage, Node};

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
/// Names in a line about those who gave no answer.
const NAMES: usize = 20;

/// Daemons that are asked together.
#[derive(Debug)]
pub struct Fleet {
    endpoints: Vec<Endpoint>,
    patience: Patience,
}

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

/// What came of asking.
#[derive(Debug, Default)]
pub struct Asked {
    /// How many were asked.
    pub daemons: usize,
    /// Those who gave no answer, in the order of the endpoints, and why.
    pub silent: Vec<(Who, AskError)>,
}

impl Fleet {
    /// Daemons that are given this long, or as long as is usual.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>, each: Option<Duration>) -> Fleet {
        Fleet {
            endpoints,
            patience: Patience {
                each: each.unwrap_or(EACH),
                said: each.is_some(),
            },
        }
    }

    /// Asks all of them; `take` is told each answer as it comes.
    ///
    /// # Errors
    /// [`Failure`] when the operating system refuses a runtime.
    pub fn ask<T: DeserializeOwned + Send + 'static>(
        &self,
        path: &str,
        take: impl FnMut(Who, T),
    ) -> Result<Asked, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::failed(format!("cannot ask the daemons: {e}")))?;
        let asked = runtime.block_on(async {
            let (targets, silent) = self.targets().await;
            ask_all(targets, silent, path, self.patience, take).await
        });
        // A name that is still being looked up is not waited for.
        runtime.shutdown_background();
        Ok(asked)
    }

    /// Who is to be asked: each address of a name that has several. Names without one are silent.
    async fn targets(&self) -> (Vec<(Who, Endpoint)>, Vec<(Who, AskError)>) {
        let mut lookups = JoinSet::new();
        for (index, endpoint) in self.endpoints.iter().cloned().enumerate() {
            let each = self.patience.each;
            lookups.spawn(async move { (index, addresses(endpoint, each).await) });
        }
        let mut found = lookups.join_all().await;
        found.sort_by_key(|(index, _)| *index);
        let (mut targets, mut silent) = (Vec::new(), Vec::new());
        let results = found.into_iter().flat_map(|(_, result)| match result {
            Ok(endpoints) => endpoints.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        let results: Vec<_> = results.collect();
        let alone = results.len() == 1;
        for (place, result) in results.into_iter().enumerate() {
            let who = |endpoint: &Endpoint| Who {
                place,
                name: endpoint.to_string(),
                alone,
            };
            match result {
                Ok(endpoint) => targets.push((who(&endpoint), endpoint)),
                Err((endpoint, error)) => silent.push((who(&endpoint), error)),
            }
        }
        (targets, silent)
    }
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
    targets: Vec<(Who, Endpoint)>,
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
        for (who, endpoint) in waiting.by_ref().take(AT_ONCE - asking.len()) {
            open.push(who.clone());
            let path = path.to_owned();
            asking.spawn(async move {
                let body = timeout(patience.each, fetch(&endpoint, &path, most)).await;
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

impl Asked {
    /// Whether there was more than one to ask.
    #[must_use]
    pub fn several(&self) -> bool {
        self.daemons > 1
    }

    /// Counts those as having answered who refused with this status, and says who they are.
    pub fn pardon(&mut self, known: StatusCode) -> Vec<Who> {
        let refused =
            |error: &AskError| matches!(error, AskError::Refused(status, _) if *status == known);
        let pardoned = self.silent.extract_if(.., |(_, error)| refused(error));
        pardoned.map(|(who, _)| who).collect()
    }

    /// Fails when nobody answered; names on stderr those who did not, when others did.
    ///
    /// # Errors
    /// [`Failure`] (status 1) naming each endpoint and its reason.
    pub fn need_one(&self) -> Result<(), Failure> {
        let lines = self.trouble();
        if self.silent.len() < self.daemons {
            lines.iter().for_each(|line| output::note(line));
            return Ok(());
        }
        match lines.is_empty() {
            true => Err(Failure::failed("nobody to ask")),
            false => Err(Failure::failed(lines.join("\ntracer: "))),
        }
    }

    /// A line for each reason why there is no answer, with those whose it is.
    #[must_use]
    pub fn trouble(&self) -> Vec<String> {
        let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
        for (who, error) in &self.silent {
            let reason = error.to_string();
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, names)) => names.push(&who.name),
                None => reasons.push((reason, vec![&who.name])),
            }
        }
        let line = |(reason, names): &(String, Vec<&str>)| format!("{}: {reason}", some(names));
        reasons.iter().map(line).collect()
    }

    /// How many of how many answered; nothing to say of one.
    #[must_use]
    pub fn share(&self) -> Option<String> {
        let answered = self.daemons - self.silent.len();
        self.several().then(|| share(answered, self.daemons))
    }

    /// Those who did not answer, as a program reads it, with their places.
    pub fn nodes(&self) -> impl Iterator<Item = (usize, Node)> {
        self.silent.iter().map(|(who, error)| {
            let node = Node {
                endpoint: who.name.clone(),
                coverage: None,
                error: Some(error.to_string()),
            };
            (who.place, node)
        })
    }
}

/// Names, the first ones.
#[must_use]
pub fn some(names: &[&str]) -> String {
    let shown = names.iter().take(NAMES).copied().collect::<Vec<_>>();
    match names.len().saturating_sub(NAMES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn share(answered: usize, daemons: usize) -> String {
    format!("{answered} of {daemons} daemons answered")
}

/// How many of how many answered, in a line.
#[must_use]
pub fn answered(nodes: &[Node]) -> String {
    let answered = nodes.iter().filter(|node| node.error.is_none());
    share(answered.count(), nodes.len())
}

/// What all of them together could see, in a line.
#[must_use]
pub fn coverage(nodes: &[Node]) -> String {
    let seen = || nodes.iter().filter_map(|node| node.coverage.as_ref());
    let sum = |of: fn(&Coverage) -> u64| seen().map(of).sum::<u64>();
    let count = |of: fn(&Coverage) -> bool| seen().filter(|seen| of(seen)).count();
    let mut line = format!(
        "{}; {} seen, {} tracked",
        answered(nodes),
        units::count(sum(|seen| seen.sockets_seen), "socket"),
        sum(|seen| seen.sockets_tracked),
    );
    line += &match sum(|seen| seen.lost_events) {
        0 => "; nothing lost".to_owned(),
        lost => format!(
            "; {} lost on {}",
            units::count(lost, "event"),
            count(|seen| seen.lost_events > 0)
        ),
    };
    if let less @ 1.. = count(|seen| !seen.degraded.is_empty()) {
        line += &format!("; not everything is seen on {less} (tracer doctor says what)");
    }
    line
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::samples;

    fn who(place: usize, name: &str) -> Who {
        Who {
            place,
            name: name.to_owned(),
            alone: false,
        }
    }

    #[test]
    fn an_endpoint_that_does_not_answer_is_named() {
        let endpoint = Endpoint::Unix(PathBuf::from("/no/such/tracer.sock"));
        let fleet = Fleet::new(vec![endpoint], None);
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
        let fleet = Fleet::new(vec![endpoint], Some(Duration::from_secs(5)));
        let asked = fleet.ask::<serde_json::Value>("/v1/report", |_, _| {});
        let said = asked.unwrap().need_one().unwrap_err().to_string();
        assert!(said.contains("dns:no-such-name.invalid:9464"), "{said}");
    }

    #[test]
    fn those_with_one_reason_share_a_line() {
        let mut silent: Vec<_> = (0..25)
            .map(|place| (who(place, &format!("n{place}")), AskError::NoSocket))
            .collect();
        silent.push((
            who(25, "n25"),
            AskError::Refused(StatusCode::NOT_FOUND, "unknown".to_owned()),
        ));
        let mut asked = Asked {
            daemons: 30,
            silent,
        };
        let lines = asked.trouble();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("n19 and 5 more: no daemon"), "{lines:?}");
        assert_eq!(lines[1], "n25: unknown");
        assert_eq!(asked.pardon(StatusCode::NOT_FOUND), [who(25, "n25")]);
        assert_eq!(asked.share().unwrap(), "5 of 30 daemons answered");
        asked.need_one().unwrap();
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

    #[test]
    fn coverage_of_all_is_one_line() {
        let node = |name: &str, coverage| Node {
            endpoint: name.to_owned(),
            error: Option::is_none(&coverage).then(|| "gone".to_owned()),
            coverage,
        };
        let mut lossy = samples::report().coverage.unwrap();
        lossy.lost_events = 2;
        lossy.degraded.clear();
        assert_eq!(
            coverage(&[
                node("a", samples::report().coverage),
                node("b", None),
                node("c", Some(lossy))
            ]),
            "2 of 3 daemons answered; 1824 sockets seen, 1664 tracked; 2 events lost on 1; not \
             everything is seen on 1 (tracer doctor says what)"
        );
    }
}
