//! Names of addresses, as services and their endpoints have had them over time.
//!
//! Addresses of pods are used again, and a wrong name is worse than none: each name has the time in which
//! it was the address's, and is given to what was connected to the address in that time.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

/// Addresses remembered, each with its port, those that are nobody's any more among them.
const PLACES_MAX: usize = 65_536;
/// Names of one address that are remembered.
const INTERVALS_MAX: usize = 4;
/// Claims that objects hold at one time: several may hold the same.
const CLAIMS_MAX: usize = 4 * PLACES_MAX;
/// A name may come so much later than the first connection to its address.
const LATE_NS: u64 = 30_000_000_000;
/// What was opened so long after the API server was last heard of has no name that was there then.
const STALE_NS: u64 = 600_000_000_000;

/// Where a claim comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A service, of its own addresses.
    Services,
    /// A slice of endpoints.
    Slices,
}

/// What an object says of an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Address and port.
    pub at: SocketAddr,
    /// Name of the service.
    pub service: Option<Arc<str>>,
    /// Name of the pod.
    pub pod: Option<Arc<str>>,
}

/// The time in which an address had a name, monotonic nanoseconds.
#[derive(Debug)]
struct Interval {
    source: Source,
    claim: Claim,
    from_ns: u64,
    /// [`u64::MAX`] while it has it.
    until_ns: u64,
    /// Objects that say so now.
    holders: u32,
}

impl Interval {
    fn is_open(&self) -> bool {
        self.until_ns == u64::MAX
    }

    fn is(&self, source: Source, claim: &Claim) -> bool {
        self.source == source && self.claim == *claim
    }
}

/// How far one of the sources is known.
#[derive(Debug, Default)]
struct Told {
    /// A list was taken in to its end.
    listed: bool,
    /// Objects of the list that is coming in, if one is.
    there: Option<HashSet<String>>,
    /// Up to when all is known.
    heard_ns: u64,
    trouble: Option<String>,
}

/// Names by address.
#[derive(Debug, Default)]
pub struct Names {
    places: HashMap<SocketAddr, Vec<Interval>>,
    /// Places that are somebody's now.
    taken: usize,
    /// What each object, by namespace and name, says now.
    objects: HashMap<(Source, String), HashSet<Claim>>,
    /// How many claims those are.
    claims: usize,
    services: Told,
    slices: Told,
    /// Claims there was no room for.
    refused: u64,
}

impl Names {
    /// The name of an address for what was connected to it at this time.
    pub fn name(&self, at: SocketAddr, opened_ns: u64) -> Option<&str> {
        let all = self.places.get(&canonical(at))?;
        let heard = |it: &&Interval| {
            !it.is_open() || opened_ns <= self.told(it.source).heard_ns.saturating_add(STALE_NS)
        };
        let then = |late_ns: u64| -> Vec<&Interval> {
            let from = |it: &&Interval| it.from_ns.saturating_sub(late_ns) <= opened_ns;
            let in_time = all.iter().filter(|it| opened_ns < it.until_ns);
            in_time.filter(from).filter(heard).collect()
        };
        let held = then(0);
        match held.is_empty() {
            true => common(&then(LATE_NS)),
            false => common(&held),
        }
    }

    /// A list of this source begins.
    pub fn begin(&mut self, source: Source) {
        self.told_mut(source).there = Some(HashSet::new());
    }

    /// An object is there, or has changed, and says this now.
    pub fn put(&mut self, source: Source, id: String, says: Vec<Claim>, now_ns: u64) {
        let told = self.told_mut(source);
        let from_ns = if told.listed { now_ns } else { 0 };
        let mut until_ns = now_ns;
        if let Some(there) = &mut told.there {
            there.insert(id.clone());
            // nobody knows since when it does not say it any more
            until_ns = told.heard_ns;
        }
        let key = (source, id);
        let before = self.objects.remove(&key).unwrap_or_default();
        let mut says: HashSet<Claim> = says.into_iter().map(Claim::canonical).collect();
        for claim in before.difference(&says) {
            self.release(source, claim, until_ns);
        }
        says.retain(|claim| before.contains(claim) || self.hold(source, claim, from_ns));
        if !says.is_empty() {
            self.objects.insert(key, says);
        }
    }

    /// An object is gone.
    pub fn gone(&mut self, source: Source, id: String, now_ns: u64) {
        for claim in self.objects.remove(&(source, id)).unwrap_or_default() {
            self.release(source, &claim, now_ns);
        }
    }

    /// The list is over: objects that were not put since it began are gone, nobody knows when. What they
    /// said holds for as long as all was known.
    pub fn only(&mut self, source: Source, now_ns: u64) {
        let told = self.told_mut(source);
        let there = told.there.take().unwrap_or_default();
        let heard_ns = told.heard_ns;
        let gone = |of: &(Source, String)| of.0 == source && !there.contains(&of.1);
        let gone: Vec<_> = self.objects.extract_if(|of, _| gone(of)).collect();
        for claim in gone.iter().flat_map(|(_, claims)| claims) {
            self.release(source, claim, heard_ns);
        }
        self.told_mut(source).listed = true;
        self.heard(source, now_ns);
    }

    /// All is known up to now.
    pub fn heard(&mut self, source: Source, now_ns: u64) {
        self.told_mut(source).heard_ns = now_ns;
    }

    /// Notes why nothing is told any more, or that it is.
    pub fn set_trouble(&mut self, source: Source, trouble: Option<String>) {
        self.told_mut(source).trouble = trouble;
    }

    /// Whether nothing is told any more.
    pub fn is_troubled(&self, source: Source) -> bool {
        self.told(source).trouble.is_some()
    }

    /// What is not known, and why.
    pub fn degraded(&self) -> Option<String> {
        let of_slices = self.slices.trouble.as_ref();
        let of_slices = of_slices.filter(|&text| Some(text) != self.services.trouble.as_ref());
        let troubles: Vec<&str> = (self.services.trouble.iter().chain(of_slices))
            .map(String::as_str)
            .collect();
        if !troubles.is_empty() {
            return Some(format!(
                "Remote addresses that are new in the cluster are not named by it: {}",
                troubles.join("; ")
            ));
        }
        (self.refused > 0).then(|| {
            format!(
                "Names of the cluster's addresses found no room {} times: {PLACES_MAX} addresses are \
                 remembered at most, {INTERVALS_MAX} names of each.",
                self.refused
            )
        })
    }

    fn told(&self, source: Source) -> &Told {
        match source {
            Source::Services => &self.services,
            Source::Slices => &self.slices,
        }
    }

    fn told_mut(&mut self, source: Source) -> &mut Told {
        match source {
            Source::Services => &mut self.services,
            Source::Slices => &mut self.slices,
        }
    }

    /// One more object says so; `false` where there is no room for it.
    fn hold(&mut self, source: Source, claim: &Claim, from_ns: u64) -> bool {
        let new = !self.places.contains_key(&claim.at);
        if self.claims >= CLAIMS_MAX || (new && !self.has_room()) {
            self.refused += 1;
            return false;
        }
        let all = self.places.entry(claim.at).or_default();
        let was_taken = all.iter().any(Interval::is_open);
        let last = all.len().wrapping_sub(1);
        let goes_on = |place: usize, it: &Interval| {
            it.is_open() || (place == last && it.until_ns.saturating_add(LATE_NS) >= from_ns)
        };
        let known = (all.iter().enumerate())
            .position(|(place, it)| it.is(source, claim) && goes_on(place, it));
        match known {
            // held by another object too, or the same again with nobody in between
            Some(place) => {
                all[place].until_ns = u64::MAX;
                all[place].holders += 1;
            }
            None => {
                if all.len() >= INTERVALS_MAX {
                    let Some(over) = all.iter().position(|it| !it.is_open()) else {
                        self.refused += 1;
                        return false;
                    };
                    all.remove(over);
                }
                all.push(Interval {
                    source,
                    claim: claim.clone(),
                    from_ns,
                    until_ns: u64::MAX,
                    holders: 1,
                });
            }
        }
        self.taken += usize::from(!was_taken);
        self.claims += 1;
        true
    }

    /// One object less says so, from this time on.
    fn release(&mut self, source: Source, claim: &Claim, at_ns: u64) {
        self.claims -= 1;
        let Some(all) = self.places.get_mut(&claim.at) else {
            return;
        };
        let held = all
            .iter_mut()
            .find(|it| it.is_open() && it.is(source, claim));
        let Some(held) = held else {
            return;
        };
        held.holders -= 1;
        if held.holders > 0 {
            return;
        }
        held.until_ns = at_ns;
        // of a list that was not taken in to its end
        all.retain(|it| it.from_ns < it.until_ns);
        if !all.iter().any(Interval::is_open) {
            self.taken -= 1;
        }
        if all.is_empty() {
            self.places.remove(&claim.at);
        }
    }

    /// Makes room for one more place, where there is none: half of those that are nobody's any more are
    /// forgotten, the longest gone first.
    fn has_room(&mut self) -> bool {
        if self.places.len() < PLACES_MAX {
            return true;
        }
        if self.places.len() == self.taken {
            return false;
        }
        let end = |all: &[Interval]| all.iter().map(|it| it.until_ns).max().unwrap_or_default();
        let mut ends: Vec<u64> = (self.places.values().map(|all| end(all)))
            .filter(|&end| end != u64::MAX)
            .collect();
        ends.sort_unstable();
        let middle = ends.get(ends.len() / 2).copied().unwrap_or_default();
        self.places.retain(|_, all| end(all) > middle);
        true
    }
}

impl Claim {
    fn canonical(self) -> Claim {
        Claim {
            at: canonical(self.at),
            ..self
        }
    }
}

/// An address of IPv4 within IPv6 as that of IPv4.
fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

/// The one service that has the address; else the pod that all of them have there.
fn common<'a>(then: &[&'a Interval]) -> Option<&'a str> {
    let mut services = then.iter().filter_map(|it| it.claim.service.as_deref());
    if let Some(service) = services.next()
        && services.all(|other| other == service)
    {
        return Some(service);
    }
    let mut pods = then.iter().map(|it| it.claim.pod.as_deref());
    let pod = pods.next()?;
    pods.all(|other| other == pod).then_some(pod)?
}

#[cfg(test)]
mod tests;
