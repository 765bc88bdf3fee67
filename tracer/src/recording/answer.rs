//! What a report is made from beside the engine's judgements, and the report made from both.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{self, Engine, Judgement},
    findings::{self, Identity, Inputs, Lives, Suspect, Watched},
    model::{Cohort, CohortId, GoPools, Pod, Process, Remote, Site, StackOf},
    report::{CalledBy, Caller, Coverage, Population, Report, Resources},
};

/// The names of a population.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Named {
    process: Process,
    site: Option<Site>,
    site_of: StackOf,
    opener: Option<Site>,
    remote: Remote,
    identity: Identity,
    callers: Vec<Caller>,
}

impl Named {
    /// Those of a population.
    #[must_use]
    pub fn of(cohort: &Cohort, identity: &Identity, callers: &[Caller]) -> Named {
        Named {
            process: cohort.process.as_ref().clone(),
            site: cohort.site.as_deref().cloned(),
            site_of: cohort.site_of,
            opener: cohort.opener.as_deref().cloned(),
            remote: cohort.remote.as_ref().clone(),
            identity: identity.clone(),
            callers: callers.to_vec(),
        }
    }

    /// The same without what one of its requests asked for.
    #[must_use]
    pub fn without_url(mut self) -> Named {
        self.remote.url = None;
        self
    }

    fn cohort(&self) -> Cohort {
        Cohort {
            process: Arc::new(self.process.clone()),
            site: self.site.clone().map(Arc::new),
            site_of: self.site_of,
            opener: self.opener.clone().map(Arc::new),
            remote: Arc::new(self.remote.clone()),
            role: self.identity.role,
        }
    }
}

/// What was found out of a suspect's members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// Its population.
    pub cohort: CohortId,
    /// Its names, with the remote and the route that its members have.
    pub named: Named,
    /// Callers with the number of leaked connections.
    pub called_by: Vec<CalledBy>,
    /// What a Go program's own pools say.
    pub go: Option<GoPools>,
    /// The Kubernetes pod of the process.
    pub pod: Option<Pod>,
}

impl Shown {
    /// That of a suspect.
    #[must_use]
    pub fn of(suspect: &Suspect) -> Shown {
        Shown {
            cohort: suspect.judgement.cohort,
            named: Named::of(&suspect.cohort, &suspect.identity, &suspect.callers),
            called_by: suspect.called_by.clone(),
            go: suspect.go.clone(),
            pod: suspect.pod.clone(),
        }
    }
}

/// Everything that a report needs beside the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// When watching began.
    pub started_at: Timestamp,
    /// The same on the monotonic clock.
    pub started_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// When the report was made.
    pub now_ns: u64,
    /// What could be seen.
    pub coverage: Coverage,
    /// Limits of the watched processes.
    pub resources: Vec<Resources>,
    /// What was closed before anybody looked.
    #[serde(default)]
    pub brief: Vec<Population>,
    /// The collector's own reasons why nothing can be concluded.
    pub unsettled: Vec<String>,
    /// Servers and clients with connections between them.
    pub pairs: Vec<(CohortId, CohortId)>,
    /// The populations by number.
    pub cohorts: Vec<(CohortId, Named)>,
    /// What was found out of those that were suspected.
    pub suspects: Vec<Shown>,
    /// The findings of earlier reports.
    #[serde(default)]
    pub lives: Lives,
    /// When those were followed on.
    #[serde(default)]
    pub told_at: Timestamp,
    /// Why findings are over, by id.
    #[serde(default)]
    pub because: BTreeMap<String, String>,
}

impl Answer {
    /// The report, from what an engine thinks now.
    #[must_use]
    pub fn report(mut self, engine: &Engine, mut judgements: Vec<Judgement>) -> Report {
        engine::explain_servers(&mut judgements, &self.pairs);
        let cohorts: HashMap<CohortId, Named> = self.cohorts.into_iter().collect();
        let watched = (engine.watched(&judgements).into_iter())
            .filter_map(|watched| {
                let cohort = cohorts.get(&watched.cohort)?.cohort();
                Some(Watched { watched, cohort })
            })
            .collect();
        let mut unsettled = Vec::new();
        for (id, what) in engine.unexplained(&judgements) {
            if let Some(named) = cohorts.get(&id) {
                unsettled.push(findings::unexplained(&named.process, &what));
            }
        }
        unsettled.extend(self.unsettled);
        let shown: HashMap<CohortId, Shown> =
            self.suspects.into_iter().map(|s| (s.cohort, s)).collect();
        let suspects = (judgements.into_iter())
            .filter_map(|judgement| {
                let shown = shown.get(&judgement.cohort);
                let named = match shown {
                    Some(shown) => &shown.named,
                    None => cohorts.get(&judgement.cohort)?,
                };
                Some(Suspect {
                    cohort: named.cohort(),
                    identity: named.identity.clone(),
                    examples: Vec::new(),
                    callers: named.callers.clone(),
                    called_by: shown.map_or_else(Vec::new, |s| s.called_by.clone()),
                    go: shown.and_then(|s| s.go.clone()),
                    pod: shown.and_then(|s| s.pod.clone()),
                    judgement,
                })
            })
            .collect();
        let mut report = findings::assemble(Inputs {
            started_at: self.started_at,
            duration_seconds: self.ended_ns.saturating_sub(self.started_ns) as f64 / 1e9,
            now_ns: self.now_ns,
            clock: (self.started_ns, self.started_at),
            coverage: self.coverage,
            node: None,
            suspects,
            watched,
            brief: self.brief,
            resources: self.resources,
            unsettled,
        });
        self.lives.follow(&mut report, self.told_at, &self.because);
        report
    }
}
