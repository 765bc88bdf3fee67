//! The members of the judged populations: what they asked for, where they went, who made them.
//!
//! The engine counts; names are looked up once it has decided, for those connections only that a
//! judgement is about.

use std::{collections::BTreeMap, sync::Arc};

use tracer_ebpf::STACK_NONE;

use super::{
    beside::Beside,
    cohorts::{self, Cohorts},
    survey::{Members, Survey},
};
use crate::{
    engine::{Judgement, Level},
    findings::Suspect,
    model::{Cohort, Family, Remote, Role, Site},
    protocols::{self, Routes},
    report::{CalledBy, Caller},
};

/// Examples of requests of one finding.
const EXAMPLES_MAX: usize = 5;
/// Callers of one finding.
const CALLERS_MAX: usize = 8;

/// What suspects are named by.
#[derive(Debug)]
pub struct Names<'a> {
    /// Populations.
    pub cohorts: &'a Cohorts,
    /// Stacks, requests and runtimes.
    pub beside: Beside<'a>,
}

impl Names<'_> {
    /// Makes suspects of judgements: with the call site, the remote, the requests and the callers
    /// that their members have.
    pub fn suspects(&mut self, judgements: Vec<Judgement>, survey: &Survey) -> Vec<Suspect> {
        let all = judgements.into_iter();
        all.filter_map(|judgement| {
            let members = survey.members(&judgement);
            self.suspect(judgement, &members)
        })
        .collect()
    }

    fn suspect(&mut self, judgement: Judgement, members: &Members) -> Option<Suspect> {
        let entry = self.cohorts.get(judgement.cohort)?;
        let mut cohort = entry.cohort.clone();
        let identity = entry.identity.clone();
        let pid = cohort.process.pid;
        let go = judgement
            .members
            .iter()
            .find_map(|&leaf| self.beside.runtimes.info(leaf, pid, judgement.kind));
        let mut examples = self.examples(members);
        for leaf in &judgement.members {
            let entry = self.cohorts.get(*leaf);
            for example in entry.iter().flat_map(|e| &e.examples) {
                if examples.len() < EXAMPLES_MAX && !examples.contains(example) {
                    examples.push(example.clone());
                }
            }
        }
        let called_by = self.called_by(&judgement, members);
        let mut callers: Vec<Caller> = Vec::new();
        for leaf in &judgement.members {
            for caller in self.cohorts.get(*leaf).iter().flat_map(|e| &e.callers) {
                if callers.len() < CALLERS_MAX && !callers.contains(caller) {
                    callers.push(caller.clone());
                }
            }
        }
        let mut remote = self.remote(&judgement, &cohort, members);
        if remote.family == Family::Unix && cohort.role == Role::Client {
            let processes = &mut self.beside.processes;
            remote.peer = processes.listener(pid, &remote.address);
        }
        if remote.url.is_none() && remote.host.is_none() && cohort.role == Role::Client {
            let opened_ns = judgement.first_seen_ns;
            let requests = &self.beside.requests;
            remote.resolved = requests.resolved(pid, &remote.address, opened_ns);
            if remote.resolved.is_none() {
                remote.in_cluster = requests.in_cluster(&remote.address, opened_ns);
            }
        }
        cohort.remote = Arc::new(remote);
        let pod = self.beside.processes.pod(&cohort.process);
        Some(Suspect {
            go,
            cohort,
            identity,
            examples,
            callers,
            called_by,
            pod,
            judgement,
        })
    }

    /// Requests of the members, the most frequent first.
    fn examples(&self, members: &Members) -> Vec<String> {
        let mut counts: BTreeMap<(u32, String), u64> = BTreeMap::new();
        for (facts, count) in members {
            if let (Some(number), Some(address)) = (facts.request, facts.address()) {
                *counts.entry((number, address)).or_default() += count;
            }
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let mut examples = Vec::new();
        for ((number, address), _) in counts {
            let Some(request) = self.beside.requests.value(number) else {
                continue;
            };
            if request.method.is_empty() {
                continue;
            }
            let family = if address.starts_with('[') {
                Family::Tcp6
            } else {
                Family::Tcp4
            };
            let example = self.beside.requests.example(family, &address, request);
            examples.extend(example.filter(|example| !examples.contains(example)));
            if examples.len() == EXAMPLES_MAX {
                break;
            }
        }
        examples
    }

    /// Who called the function of the call site, with the number of members each made; where call
    /// sites are many, those.
    fn called_by(&mut self, judgement: &Judgement, members: &Members) -> Vec<CalledBy> {
        let mut counts: BTreeMap<(String, Option<String>, Option<u32>), u64> = BTreeMap::new();
        let by_site = !matches!(judgement.level, Level::Authority | Level::Process);
        // where neither opener nor request say who asked, another stack did
        let asked = self.cohorts.get(judgement.cohort);
        let asked = asked.and_then(|entry| entry.cohort.site.clone());
        let asked = asked.filter(|site| by_site && site.own);
        for (facts, count) in members {
            let taken = facts.stacks().into_iter();
            let mut taken = taken.filter(|&stack| stack != STACK_NONE).peekable();
            let asked = asked.clone().filter(|_| taken.peek().is_some());
            let site = taken
                .filter_map(|stack| self.beside.site(stack))
                .find(|site| site.own)
                .or(asked);
            let Some(site) = site else {
                continue;
            };
            let caller = match by_site {
                true => self.caller(judgement, &site),
                false => site.blamed().map(Caller::of),
            };
            if let Some(caller) = caller {
                let key = (caller.function, caller.file, caller.line);
                *counts.entry(key).or_default() += count;
            }
        }
        let mut all: Vec<CalledBy> = counts
            .into_iter()
            .map(|((function, file, line), count)| CalledBy {
                function,
                file,
                line,
                count,
            })
            .collect();
        all.sort_by_key(|caller| std::cmp::Reverse(caller.count));
        all.truncate(CALLERS_MAX);
        all
    }

    /// Who called the function of a judgement's call site, in one member's stack.
    fn caller(&self, judgement: &Judgement, site: &Site) -> Option<Caller> {
        let entry = self.cohorts.get(judgement.cohort)?;
        let place = entry.identity.place.as_ref()?;
        let asked = entry.cohort.site.as_deref();
        let is_inside = |of: &Site| {
            of.again
                .is_some_and(|again| Some(again.frame) == of.call_site)
        };
        if asked.is_some_and(is_inside) {
            // who called the client
            return match site.again {
                Some(_) => cohorts::caller(site),
                None => site.blamed().map(Caller::of),
            };
        }
        let at = site
            .frames
            .iter()
            .position(|frame| frame.function == place.function);
        match at {
            Some(at) => cohorts::caller_of(site, at),
            None => cohorts::caller(site),
        }
    }

    /// The other end as its members have it: the address most of them go to, the host that all of
    /// them name, the route that most of them ask for.
    fn remote(&self, judgement: &Judgement, cohort: &Cohort, members: &Members) -> Remote {
        let mut remote = cohort.remote.as_ref().clone();
        let mut addresses: BTreeMap<String, u64> = BTreeMap::new();
        let mut hosts: BTreeMap<String, u64> = BTreeMap::new();
        let mut databases: BTreeMap<String, u64> = BTreeMap::new();
        let mut routes = Routes::default();
        let mut scheme = None;
        let mut requests: Vec<(u32, u64)> = Vec::new();
        for (facts, count) in members {
            if let Some(address) = facts.address() {
                *addresses.entry(address).or_default() += count;
            }
            requests.extend(facts.request.map(|number| (number, *count)));
        }
        requests.sort_unstable();
        for (number, count) in requests {
            let Some(request) = self.beside.requests.value(number) else {
                continue;
            };
            scheme = Some(request.scheme);
            if let Some(host) = &request.host {
                *hosts.entry(host.clone()).or_default() += count;
            }
            if !request.method.is_empty() {
                routes.add(&request.target, count);
            } else if !request.target.is_empty() {
                *databases.entry(request.target.clone()).or_default() += count;
            }
        }
        let most = |counts: &BTreeMap<String, u64>| {
            let all = counts.iter();
            all.max_by(|a, b| a.1.cmp(b.1).then_with(|| b.0.cmp(a.0)))
                .map(|(text, _)| text.clone())
        };
        if let Some(address) = most(&addresses) {
            remote.address = address;
        }
        if hosts.len() > 1 {
            remote.host = None;
        } else if let Some(host) = most(&hosts) {
            remote.host = Some(host);
        }
        let learned = routes.main().or_else(|| {
            let leaves = judgement.members.iter();
            leaves
                .filter_map(|&leaf| self.cohorts.get(leaf)?.routes.main())
                .next()
        });
        if let Some(route) = learned {
            let scheme = scheme.or_else(|| {
                let url = remote.url.as_deref()?;
                Some(protocols::Scheme::of_url(url))
            });
            let host = match hosts.len() {
                0 | 1 => remote.host.clone(),
                _ => Some("{}".to_owned()),
            };
            remote.url = Some(protocols::url(
                scheme.unwrap_or(protocols::Scheme::Http),
                remote.family,
                &remote.address,
                host.as_deref(),
                &route,
            ));
        } else if let (Some(scheme), true) = (scheme, hosts.len() < 2) {
            let host = remote.host.as_deref();
            let origin = protocols::origin(scheme, remote.family, &remote.address, host);
            // the database that all have, of those that name one
            let database = most(&databases).filter(|_| databases.len() == 1);
            remote.url = Some(origin + &database.unwrap_or_default());
        } else if judgement.level != Level::Leaf {
            remote.url = None;
        }
        remote
    }
}
