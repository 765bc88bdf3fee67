//! Populations by number: their leaves, what those are parts of, and what is shown of them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    engine::{Level, Lineage},
    findings::{Authority, Identity, Place},
    model::{Cohort, CohortId, Family, Owner, Process, Remote, Role, Site, StackOf, StackQuality},
    protocols::{self, Request, Routes},
    refused::Refusal,
    report::Caller,
};

/// Populations kept; connections of further ones go unjudged and are counted.
const COHORTS_MAX: usize = 16_384;
/// Examples of requests kept per leaf.
const EXAMPLES_MAX: usize = 5;
/// Who has seen no more requests than this may not know yet which words of their targets vary.
const FEW_TARGETS: u64 = 8;
/// Callers kept per leaf.
const CALLERS_MAX: usize = 8;
/// Authorities of one call site that are told apart; all others are one leaf. No judgement depends
/// on it: the call site is judged as a whole, too.
const AUTHORITIES_MAX: u32 = 64;
/// Addresses whose host names are remembered.
const HOSTS_MAX: usize = 16_384;

/// What identifies a population within a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    pid: u32,
    start_ticks: u64,
    identity: Identity,
}

impl Key {
    fn of(process: &Process, identity: Identity) -> Key {
        Key {
            pid: process.pid,
            start_ticks: process.start_ticks,
            identity,
        }
    }
}

/// One population with what is shown of it.
#[derive(Debug)]
pub struct Entry {
    /// What the members have in common.
    pub cohort: Cohort,
    /// What it is.
    pub identity: Identity,
    /// Requests, as shown.
    pub examples: Vec<String>,
    /// Who called the function of the call site.
    pub callers: Vec<Caller>,
    /// What its requests ask for.
    pub routes: Routes,
    /// Of a call site: how many authorities it has.
    authorities: u32,
}

/// One population in a form that outlives the session.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedCohort {
    process: Process,
    identity: Identity,
    site: Option<Site>,
    site_of: StackOf,
    opener: Option<Site>,
    remote: Remote,
    callers: Vec<Caller>,
    routes: Vec<(String, u64)>,
}

/// The host by which requests name an address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Named {
    Never,
    Once(String),
    Variously,
}

/// All populations of a session.
#[derive(Debug, Default)]
pub struct Cohorts {
    ids: HashMap<Key, CohortId>,
    entries: BTreeMap<CohortId, Entry>,
    /// Host names of addresses, by process.
    hosts: HashMap<(u32, u64, String), Named>,
    /// A host name was learned: connections without a request may belong elsewhere now.
    renamed: bool,
    /// Leaves that the engine has not been told of.
    new: Vec<(CohortId, Role, Lineage)>,
    /// The next population's number; none is used twice.
    next: u32,
    refused: u64,
}

/// What a connection brings to its population.
#[derive(Debug)]
pub struct Member<'a> {
    /// Process.
    pub process: &'a Arc<Process>,
    /// Stack to blame.
    pub site: Option<Arc<Site>>,
    /// Moment of that stack.
    pub site_of: StackOf,
    /// Stack of the opener.
    pub opener: Option<Arc<Site>>,
    /// Remote end.
    pub remote: &'a Arc<Remote>,
    /// Its latest request.
    pub request: Option<&'a Request>,
    /// Client or server.
    pub role: Role,
}

/// Who called the function of a site's call site; who called the client, where that is a function
/// inside of it that asked again.
pub fn caller(site: &Site) -> Option<Caller> {
    let at = site.call_site?;
    let outside = site.again.filter(|again| again.frame == at);
    match outside.and(site.own_frames.get(1)) {
        Some(own) => site.frames.get(own.index).map(Caller::of),
        None => caller_of(site, at),
    }
}

/// Who called the function of the frame `at`: the next that is no runtime's, such as an
/// interpreter's loop; none where it was a thread's first, or an event loop ran it.
pub fn caller_of(site: &Site, at: usize) -> Option<Caller> {
    let is_runtime = |index: usize| site.owners.get(index) == Some(&Owner::Runtime);
    let end = site.runs_loop.filter(|&runs_loop| runs_loop > at);
    let end = end.unwrap_or(site.frames.len());
    let index = (at + 1..end).find(|&index| !is_runtime(index))?;
    site.frames.get(index).map(Caller::of)
}

/// The host a request names, where it is a name.
fn host_name(remote: &Remote) -> Option<String> {
    let host = remote.host.as_deref()?;
    // over a UNIX socket a client has to name some host, and any will do
    (remote.family != Family::Unix && !host.is_empty() && !protocols::is_ip_literal(host))
        .then(|| host.to_ascii_lowercase())
}

/// The remote end with the route that most requests ask for in place of the first one's; without any
/// where none was learned, as of what populations are parts of.
fn kept_remote(entry: &Entry, route: Option<&str>) -> Remote {
    let mut remote = entry.cohort.remote.as_ref().clone();
    if let Some(url) = &remote.url {
        let scheme = protocols::Scheme::of_url(url);
        if matches!(scheme, protocols::Scheme::Of(_)) {
            return remote;
        }
        let (family, address, host) = (remote.family, &remote.address, remote.host.as_deref());
        remote.url = Some(match route {
            Some(route) => protocols::url(scheme, family, address, host, route),
            None => protocols::origin(scheme, family, address, host),
        });
    }
    remote
}

impl Cohorts {
    /// The leaf a connection belongs to; `None` when there is no room for another.
    pub fn of(&mut self, member: Member<'_>) -> Option<CohortId> {
        let authority = self.authority(&member);
        let identity = Identity::leaf(member.site.as_deref(), member.role, authority);
        let caller = member.site.as_ref().and_then(|site| caller(site));
        let known = Key::of(member.process, identity.clone());
        let id = match self.ids.get(&known) {
            Some(&id) => id,
            None => self.new_leaf(identity, &member)?,
        };
        self.add_caller(id, caller);
        self.show_better(id, &member);
        if let Some(request) = member.request.filter(|r| !r.method.is_empty())
            && let Some(entry) = self.entries.get_mut(&id)
        {
            entry.routes.add(&request.target, 1);
        }
        Some(id)
    }

    /// The authority of a connection. One that names no host goes with those that do, where all
    /// that do name the same.
    fn authority(&mut self, member: &Member<'_>) -> Authority {
        let remote = member.remote;
        if member.role == Role::Server {
            return Authority::Listening(remote.address.clone());
        }
        if remote.family == Family::Unix {
            return match remote.address.as_str() {
                "(unnamed)" => Authority::Pair,
                path => Authority::Address(path.to_owned()),
            };
        }
        if self.hosts.len() >= HOSTS_MAX {
            self.hosts.clear();
        }
        let process = member.process;
        let key = (process.pid, process.start_ticks, remote.address.clone());
        let known = self.hosts.entry(key).or_insert(Named::Never);
        let host = host_name(remote);
        let named = match (&*known, &host) {
            (Named::Never, Some(host)) => Some(Named::Once(host.clone())),
            (Named::Once(known), Some(host)) if known != host => Some(Named::Variously),
            _ => None,
        };
        if let Some(named) = named {
            *known = named;
            self.renamed = true;
        }
        match (host, &*known) {
            (Some(host), _) => Authority::Host(host),
            (None, Named::Once(host)) => Authority::Host(host.clone()),
            (None, _) => Authority::Address(remote.address.clone()),
        }
    }

    /// Whether a host name was learned since this was asked last, so that all choices are to be
    /// made anew.
    pub fn take_renamed(&mut self) -> bool {
        std::mem::take(&mut self.renamed)
    }

    /// Leaves that are new since this was asked last, with what they are parts of.
    pub fn take_new(&mut self) -> Vec<(CohortId, Role, Lineage)> {
        std::mem::take(&mut self.new)
    }

    fn new_leaf(&mut self, mut identity: Identity, member: &Member<'_>) -> Option<CohortId> {
        // a leaf and what it is a part of
        if self.entries.len() + 4 > COHORTS_MAX {
            self.refused += 1;
            Refusal::PopulationRoom.count();
            return None;
        }
        let site = self.number(identity.above(Level::Site), member)?;
        let entry = self.entries.get_mut(&site)?;
        if entry.authorities >= AUTHORITIES_MAX {
            identity.authority = Authority::Any;
            let rest = Key::of(member.process, identity.clone());
            if let Some(&id) = self.ids.get(&rest) {
                return Some(id);
            }
        } else {
            entry.authorities += 1;
        }
        let id = self.number(identity, member)?;
        self.enroll(id);
        Some(id)
    }

    /// Prepares to tell the engine what a leaf is a part of.
    fn enroll(&mut self, id: CohortId) -> Option<()> {
        let entry = self.entries.get(&id)?;
        let (identity, cohort) = (entry.identity.clone(), entry.cohort.clone());
        let member = Member {
            process: &cohort.process,
            site: cohort.site.clone(),
            site_of: cohort.site_of,
            opener: cohort.opener.clone(),
            remote: &cohort.remote,
            request: None,
            role: cohort.role,
        };
        let mut at = |level| self.number(identity.above(level), &member);
        let lineage = Lineage {
            site: at(Level::Site)?,
            authority: at(Level::Authority)?,
            process: at(Level::Process)?,
            sited: identity.place.is_some(),
            pairs: identity.authority == Authority::Pair,
        };
        self.new.push((id, cohort.role, lineage));
        Some(())
    }

    /// The number of a population, which is made where it is not known.
    fn number(&mut self, identity: Identity, member: &Member<'_>) -> Option<CohortId> {
        let key = Key::of(member.process, identity.clone());
        if let Some(&id) = self.ids.get(&key) {
            return Some(id);
        }
        let id = CohortId(self.next);
        self.next = self.next.checked_add(1)?;
        let sited = matches!(identity.level, Level::Leaf | Level::Site);
        let cohort = Cohort {
            process: Arc::clone(member.process),
            site: member.site.clone().filter(|_| sited),
            site_of: member.site_of,
            opener: member.opener.clone().filter(|_| sited),
            remote: Arc::clone(member.remote),
            role: member.role,
        };
        let entry = Entry {
            cohort,
            identity,
            examples: Vec::new(),
            callers: Vec::new(),
            routes: Routes::default(),
            authorities: 0,
        };
        self.entries.insert(id, entry);
        self.ids.insert(key, id);
        Some(id)
    }

    /// The first member's stack may have been cut where a later one's is whole, or not have shown who
    /// asked again, and it may have named no host.
    fn show_better(&mut self, id: CohortId, member: &Member<'_>) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let quality = |site: &Option<Arc<Site>>| {
            let complete = |site: &Arc<Site>| site.quality == StackQuality::Complete;
            let again = |site: &Arc<Site>| site.again.is_some();
            let is = |what: fn(&Arc<Site>) -> bool| site.as_ref().is_some_and(what);
            (site.is_some(), is(complete), is(again))
        };
        if quality(&member.site) > quality(&entry.cohort.site) {
            entry.cohort.site.clone_from(&member.site);
            entry.cohort.site_of = member.site_of;
            entry.cohort.opener.clone_from(&member.opener);
        }
        if entry.cohort.remote.host.is_none() && member.remote.host.is_some() {
            entry.cohort.remote = Arc::clone(member.remote);
        }
    }

    fn add_caller(&mut self, id: CohortId, caller: Option<Caller>) {
        let (Some(entry), Some(caller)) = (self.entries.get_mut(&id), caller) else {
            return;
        };
        if entry.callers.len() < CALLERS_MAX && !entry.callers.contains(&caller) {
            entry.callers.push(caller);
        }
    }

    /// The call site of all other connections of the process to the same remote and route, when
    /// those have one in common that have one of the application's own, or else all.
    pub fn sole_site(
        &self,
        process: &Process,
        remote: &Remote,
        request: &Request,
        role: Role,
    ) -> Option<Arc<Site>> {
        let sites = self
            .entries
            .values()
            .filter(|entry| entry.identity.level == Level::Leaf)
            .filter(|entry| {
                let c = &entry.cohort;
                c.role == role
                    && c.remote.address == remote.address
                    && c.process.pid == process.pid
                    && c.process.start_ticks == process.start_ticks
                    && entry.routes.knows(&request.target)
            })
            .filter_map(|entry| entry.cohort.site.as_ref());
        let (own, others): (Vec<_>, Vec<_>) = sites.partition(|site| site.own);
        let sites = if own.is_empty() { others } else { own };
        let first = *sites.first()?;
        sites
            .iter()
            .all(|other| Place::of(other) == Place::of(first))
            .then(|| Arc::clone(first))
    }

    /// Number of populations so far: grows with every new one.
    pub fn len(&self) -> usize {
        self.next as usize
    }

    /// One population.
    pub fn get(&self, id: CohortId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// Keeps a request as an example, where there is one.
    pub fn add_example(&mut self, id: CohortId, example: impl FnOnce() -> Option<String>) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.examples.len() < EXAMPLES_MAX
        {
            let example = example().filter(|example| !entry.examples.contains(example));
            entry.examples.extend(example);
        }
    }

    /// Numbers of all.
    pub fn ids(&self) -> impl Iterator<Item = CohortId> + '_ {
        self.entries.keys().copied()
    }

    /// What to keep of one.
    pub fn save(&self, id: CohortId) -> Option<SavedCohort> {
        let entry = self.entries.get(&id)?;
        let cohort = &entry.cohort;
        let routes = self.kept_routes(entry);
        Some(SavedCohort {
            process: cohort.process.as_ref().clone(),
            identity: entry.identity.clone(),
            site: cohort.site.as_deref().cloned(),
            site_of: cohort.site_of,
            opener: cohort.opener.as_deref().cloned(),
            remote: kept_remote(entry, routes.first().map(|(route, _)| route.as_str())),
            callers: entry.callers.clone(),
            routes,
        })
    }

    /// The routes of a population. One that has seen few targets takes words of theirs for names: its
    /// routes are as that population of the same process and address says them that says least.
    fn kept_routes(&self, entry: &Entry) -> Vec<(String, u64)> {
        let mut routes = entry.routes.all();
        if routes.iter().map(|(_, count)| count).sum::<u64>() > FEW_TARGETS {
            return routes;
        }
        let cohort = &entry.cohort;
        let beside: Vec<&Routes> = (self.entries.values())
            .filter(|other| {
                other.cohort.process.pid == cohort.process.pid
                    && other.cohort.remote.address == cohort.remote.address
            })
            .map(|other| &other.routes)
            .collect();
        for (route, _) in &mut routes {
            let said = beside.iter().filter_map(|routes| routes.path_of(route));
            let least = said.max_by_key(|(_, variables)| *variables);
            if let Some((path, 1..)) = least {
                let query = route.find('?').map_or("", |at| &route[at..]);
                *route = format!("{path}{query}");
            }
        }
        routes
    }

    /// Takes over saved ones under the numbers they had.
    pub fn restore(&mut self, saved: Vec<(CohortId, SavedCohort)>) {
        let mut leaves = Vec::new();
        for (id, saved) in saved {
            let cohort = Cohort {
                process: Arc::new(saved.process),
                site: saved.site.map(Arc::new),
                site_of: saved.site_of,
                opener: saved.opener.map(Arc::new),
                remote: Arc::new(saved.remote),
                role: saved.identity.role,
            };
            self.ids
                .insert(Key::of(&cohort.process, saved.identity.clone()), id);
            self.next = self.next.max(id.0.saturating_add(1));
            if saved.identity.level == Level::Leaf {
                leaves.push(id);
            }
            let mut routes = Routes::default();
            for (route, count) in &saved.routes {
                routes.add(route, *count);
            }
            let entry = Entry {
                cohort,
                identity: saved.identity,
                examples: Vec::new(),
                callers: saved.callers,
                routes,
                authorities: 0,
            };
            self.entries.insert(id, entry);
        }
        for id in leaves {
            self.enroll(id);
        }
    }

    /// Whether it is time to forget some.
    pub fn is_crowded(&self) -> bool {
        self.entries.len() > COHORTS_MAX / 4 * 3
    }

    /// Keeps those that `keep` names, and what they are parts of.
    pub fn retain(&mut self, keep: impl Fn(CohortId) -> bool) {
        self.entries.retain(|id, _| keep(*id));
        let entries = &self.entries;
        self.ids.retain(|_, id| entries.contains_key(id));
        self.new.retain(|(id, _, _)| entries.contains_key(id));
    }

    /// Connections that found no population.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocols::Scheme;

    fn process() -> Arc<Process> {
        Arc::new(Process {
            pid: 1,
            ns_pid: None,
            start_ticks: 1,
            comm: "app".to_owned(),
            exe: None,
            runtime: None,
            container_id: None,
            pod_uid: None,
        })
    }

    fn remote(address: &str, host: Option<&str>) -> Arc<Remote> {
        Arc::new(Remote {
            family: Family::Tcp4,
            address: address.to_owned(),
            host: host.map(str::to_owned),
            url: None,
            peer: None,
            resolved: None,
            in_cluster: None,
        })
    }

    fn add(cohorts: &mut Cohorts, address: &str, host: Option<&str>) -> Option<CohortId> {
        cohorts.of(Member {
            process: &process(),
            site: None,
            site_of: StackOf::Connect,
            opener: None,
            remote: &remote(address, host),
            request: None,
            role: Role::Client,
        })
    }

    #[test]
    fn a_host_is_one_authority_whatever_its_addresses() {
        let mut cohorts = Cohorts::default();
        let a = add(&mut cohorts, "10.0.0.1:80", Some("api.test"));
        let b = add(&mut cohorts, "10.0.0.2:80", Some("API.test"));
        assert!(a.is_some());
        assert_eq!(a, b);
        let other = add(&mut cohorts, "10.0.0.3:80", Some("other.test"));
        assert_ne!(a, other);
        let new = cohorts.take_new();
        assert_eq!(new.len(), 2);
        assert_eq!(new[0].2.site, new[1].2.site, "one call site, none");
        assert_ne!(new[0].2.authority, new[1].2.authority);
        assert_eq!(new[0].2.process, new[1].2.process);
    }

    #[test]
    fn what_names_no_host_goes_with_what_does() {
        let mut cohorts = Cohorts::default();
        let before = add(&mut cohorts, "10.0.0.1:80", None);
        assert!(!cohorts.take_renamed());
        let named = add(&mut cohorts, "10.0.0.1:80", Some("api.test"));
        assert_ne!(before, named);
        assert!(cohorts.take_renamed());
        assert_eq!(add(&mut cohorts, "10.0.0.1:80", None), named);
        // a proxy: the address says nothing of the host
        add(&mut cohorts, "10.0.0.1:80", Some("other.test"));
        assert!(cohorts.take_renamed());
        assert_eq!(add(&mut cohorts, "10.0.0.1:80", None), before);
    }

    #[test]
    fn a_flood_of_hosts_ends_in_one_leaf() {
        let mut cohorts = Cohorts::default();
        for i in 0..1000 {
            let host = format!("h{i}.test");
            assert!(add(&mut cohorts, "10.0.0.1:80", Some(&host)).is_some());
        }
        assert_eq!(cohorts.take_new().len(), AUTHORITIES_MAX as usize + 1);
        assert_eq!(cohorts.refused(), 0);
    }

    #[test]
    fn what_is_saved_comes_back_under_its_numbers() {
        let mut cohorts = Cohorts::default();
        let request = Request {
            method: "GET".to_owned(),
            target: "/a".to_owned(),
            host: None,
            scheme: Scheme::Http,
        };
        let id = cohorts.of(Member {
            process: &process(),
            site: None,
            site_of: StackOf::Connect,
            opener: None,
            remote: &remote("10.0.0.1:80", None),
            request: Some(&request),
            role: Role::Client,
        });
        let new = cohorts.take_new();
        let saved: Vec<_> = cohorts
            .ids()
            .filter_map(|id| Some((id, cohorts.save(id)?)))
            .collect();
        let mut later = Cohorts::default();
        later.restore(saved);
        assert_eq!(later.take_new(), new);
        assert_eq!(add(&mut later, "10.0.0.1:80", None), id);
        let routes = id.and_then(|id| later.get(id)).map(|e| e.routes.main());
        assert_eq!(routes, Some(Some("/a".to_owned())));
    }
}
