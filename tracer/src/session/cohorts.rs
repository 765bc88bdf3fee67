//! Cohorts: connections of one process, call site, remote and role, under one number.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    model::{Cohort, CohortId, Process, Remote, Role, Site, StackOf, StackQuality},
    report::Caller,
};

/// Cohorts kept; connections of further ones go unjudged and are counted.
const COHORTS_MAX: usize = 16_384;
/// Examples of requests kept per cohort.
const EXAMPLES_MAX: usize = 5;

/// Callers kept per cohort.
const CALLERS_MAX: usize = 8;

/// What identifies a cohort.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    pid: u32,
    start_ticks: u64,
    /// Stacks without a call site belong together: an interpreter has many of them.
    site: Option<Place>,
    remote: Arc<Remote>,
    role: Role,
}

/// Function, file and line of a site's call site.
type Place = (String, Option<String>, Option<u32>);

fn place(site: &Site) -> Option<Place> {
    site.blamed()
        .map(|frame| (frame.function.clone(), frame.file.clone(), frame.line))
}

/// One cohort with what is shown of it.
#[derive(Debug)]
pub struct Entry {
    /// What the members have in common.
    pub cohort: Cohort,
    /// Requests, as shown.
    pub examples: Vec<String>,
    /// Who called the function of the call site.
    pub callers: Vec<Caller>,
}

/// One cohort in a form that outlives the session.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedCohort {
    process: Process,
    site: Option<Site>,
    site_of: StackOf,
    opener: Option<Site>,
    remote: Remote,
    role: Role,
    examples: Vec<String>,
    #[serde(default)]
    callers: Vec<Caller>,
}

/// All cohorts of a session.
#[derive(Debug, Default)]
pub struct Cohorts {
    ids: HashMap<Key, CohortId>,
    entries: BTreeMap<CohortId, Entry>,
    /// The next cohort's number; none is used twice.
    next: u32,
    refused: u64,
}

/// What a connection brings to its cohort.
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
    /// Client or server.
    pub role: Role,
}

/// Who called the function of a site's call site.
fn caller(site: &Site) -> Option<Caller> {
    let frame = site.frames.get(site.call_site?.checked_add(1)?)?;
    Some(Caller {
        function: frame.function.clone(),
        file: frame.file.clone(),
        line: frame.line,
    })
}

impl Cohorts {
    /// The cohort a connection belongs to; `None` when there is no room for another.
    pub fn of(&mut self, member: Member<'_>) -> Option<CohortId> {
        let site = member.site.as_ref().and_then(|site| place(site));
        let key = Key {
            pid: member.process.pid,
            start_ticks: member.process.start_ticks,
            site,
            remote: Arc::clone(member.remote),
            role: member.role,
        };
        let caller = member.site.as_ref().and_then(|site| caller(site));
        if let Some(&id) = self.ids.get(&key) {
            self.add_caller(id, caller);
            self.show_better(id, &member);
            return Some(id);
        }
        if self.entries.len() >= COHORTS_MAX {
            self.refused += 1;
            return None;
        }
        let id = CohortId(self.next);
        self.next = self.next.checked_add(1)?;
        let cohort = Cohort {
            process: Arc::clone(member.process),
            site: member.site,
            site_of: member.site_of,
            opener: member.opener,
            remote: Arc::clone(member.remote),
            role: member.role,
        };
        let (examples, callers) = (Vec::new(), Vec::new());
        let entry = Entry {
            cohort,
            examples,
            callers,
        };
        self.entries.insert(id, entry);
        self.ids.insert(key, id);
        self.add_caller(id, caller);
        Some(id)
    }

    /// The first member's stack may have been cut where a later one's is whole.
    fn show_better(&mut self, id: CohortId, member: &Member<'_>) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let quality = |site: &Option<Arc<Site>>| {
            let complete = |site: &Arc<Site>| site.quality == StackQuality::Complete;
            (site.is_some(), site.as_ref().is_some_and(complete))
        };
        if quality(&member.site) > quality(&entry.cohort.site) {
            entry.cohort.site.clone_from(&member.site);
            entry.cohort.site_of = member.site_of;
            entry.cohort.opener.clone_from(&member.opener);
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

    /// The call site of all other connections of the process to the same remote, when they have
    /// one in common.
    pub fn sole_site(&self, process: &Process, remote: &Remote, role: Role) -> Option<Arc<Site>> {
        let mut sites = self
            .entries
            .values()
            .map(|entry| &entry.cohort)
            .filter(|c| c.role == role && *c.remote == *remote && *c.process == *process)
            .filter_map(|c| c.site.as_ref());
        let first = sites.next()?;
        sites
            .all(|other| place(other) == place(first))
            .then(|| Arc::clone(first))
    }

    /// Number of cohorts so far: grows with every new one.
    pub fn len(&self) -> usize {
        self.next as usize
    }

    /// One cohort.
    pub fn get(&self, id: CohortId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// Keeps a request as an example.
    pub fn add_example(&mut self, id: CohortId, example: impl FnOnce() -> String) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.examples.len() < EXAMPLES_MAX
        {
            let example = example();
            if !entry.examples.contains(&example) {
                entry.examples.push(example);
            }
        }
    }

    /// Numbers of all.
    pub fn ids(&self) -> impl Iterator<Item = CohortId> + '_ {
        self.entries.keys().copied()
    }

    /// What to keep of one.
    pub fn save(&self, id: CohortId) -> Option<SavedCohort> {
        let Entry {
            cohort,
            examples,
            callers,
        } = self.entries.get(&id)?;
        Some(SavedCohort {
            process: cohort.process.as_ref().clone(),
            site: cohort.site.as_deref().cloned(),
            site_of: cohort.site_of,
            opener: cohort.opener.as_deref().cloned(),
            remote: cohort.remote.as_ref().clone(),
            role: cohort.role,
            examples: examples.clone(),
            callers: callers.clone(),
        })
    }

    /// Takes over saved ones under the numbers they had.
    pub fn restore(&mut self, saved: Vec<(CohortId, SavedCohort)>) {
        for (id, saved) in saved {
            let cohort = Cohort {
                process: Arc::new(saved.process),
                site: saved.site.map(Arc::new),
                site_of: saved.site_of,
                opener: saved.opener.map(Arc::new),
                remote: Arc::new(saved.remote),
                role: saved.role,
            };
            let site = cohort.site.as_deref().and_then(place);
            let key = Key {
                pid: cohort.process.pid,
                start_ticks: cohort.process.start_ticks,
                site,
                remote: Arc::clone(&cohort.remote),
                role: cohort.role,
            };
            self.ids.insert(key, id);
            self.next = self.next.max(id.0 + 1);
            let entry = Entry {
                cohort,
                examples: saved.examples,
                callers: saved.callers,
            };
            self.entries.insert(id, entry);
        }
    }

    /// Whether it is time to forget some.
    pub fn is_crowded(&self) -> bool {
        self.entries.len() > COHORTS_MAX / 4 * 3
    }

    /// Keeps those that `keep` names.
    pub fn retain(&mut self, keep: impl Fn(CohortId) -> bool) {
        self.entries.retain(|id, _| keep(*id));
        let entries = &self.entries;
        self.ids.retain(|_, id| entries.contains_key(id));
    }

    /// Connections that found no cohort.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}
