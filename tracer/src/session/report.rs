//! What a session answers: report, connections, coverage, doctor, health.

use std::collections::{BTreeMap, HashMap};

use tracer_ebpf::Counter;

use super::{
    Health, Leading, Session, SessionError, Status, peers, records, resources::resources,
    rows::row, survey::Survey, suspects::Names,
};
use crate::{
    engine::{self, Judgement},
    findings::{self, Inputs},
    model::{CohortId, Family, Process, Role, Site},
    procs::{Presence, clock::monotonic_ns},
    recording::{Answer, Named, Shown},
    refused::Refusal,
    report::{ConnectionList, Coverage, Doctor, Finding, Population, Refused, Report, SCHEMA},
};

/// A watch shorter than this can't tell a leak from work in progress.
const SHORT_WATCH_SECONDS: f64 = 10.0;
/// Remotes told of to which all connections were too brief to be looked at.
const BRIEF_MAX: usize = 16;
/// Fewer sockets without an owner are no reason to doubt the rest.
const OWNERLESS_MAX: u64 = 5;
/// Sentences about what is not seen; of more, the number is told.
const DEGRADED_MAX: usize = 64;

impl Session {
    /// Reconciles with the kernel's own lists and judges.
    ///
    /// # Errors
    /// When reconciling failed, or the kernel's maps can't be read.
    pub fn report(&mut self) -> Result<Report, SessionError> {
        let passes = self.probes.socks.passes();
        let mut survey = Survey::for_report();
        self.refresh(&mut survey)?;
        let mut judgements = self.engine.judge();
        let pairs = peers::explain(&mut judgements, &self.sockets.cohorts, &survey);
        let growth = self.growth_by_process(&judgements);
        let mut watched = self.watched(&judgements);
        let unexplained = self.engine.unexplained(&judgements);
        let mut brief = self.brief();
        let over = self.over(&judgements);
        let (beside, sockets, _) = self.parts();
        let mut names = Names {
            cohorts: &sockets.cohorts,
            beside,
        };
        let mut suspects = names.suspects(judgements, &survey);
        let judged = suspects.len();
        // by the id of the finding that each would be
        let mut passed_over = BTreeMap::new();
        suspects.retain(|s| match self.opted_out.because(s.pod.as_ref()) {
            Some(reason) => {
                let id = s.identity.id(findings::program(&s.cohort.process));
                passed_over.insert(id, reason.to_owned());
                false
            }
            None => true,
        });
        let left_alone = judged - suspects.len();
        if !self.opted_out.is_empty() {
            watched.retain(|w| !self.is_left_alone(&w.cohort.process));
            brief.retain(|p| {
                let process = self.processes.get(p.pid);
                !self.is_left_alone(&process)
            });
        }
        if suspects
            .iter()
            .any(|s| s.judgement.first_seen_ns > self.saving.last_ns)
        {
            // when it was first seen must not be forgotten
            self.saving.learned = true;
            self.save_if_due();
        }
        let ended_ns = self.watch.frozen_ns().unwrap_or_else(monotonic_ns);
        let mut unsettled = Vec::new();
        for (id, what) in unexplained {
            let process = self
                .sockets
                .cohorts
                .get(id)
                .map(|e| e.cohort.process.clone());
            if let Some(process) = process
                && !self.is_left_alone(&process)
            {
                unsettled.push(findings::unexplained(&process, &what));
            }
        }
        let said_before = unsettled.len();
        unsettled.extend(self.without_owner());
        unsettled.extend(self.schedule.looked_away(ended_ns - self.started_ns));
        if let Some(frozen_ns) = self.watch.frozen_ns() {
            let seconds = (frozen_ns - self.started_ns) as f64 / 1e9;
            if self.saw_nothing() {
                unsettled.push("The target ended before anything could be seen.".to_owned());
            } else if seconds < SHORT_WATCH_SECONDS && self.sockets.totals.open > 0 {
                unsettled.push(format!(
                    "The target ended after {seconds:.1} s with {} connections open: too soon to \
                     tell whether it would have closed them.",
                    self.sockets.totals.open
                ));
            }
        }
        let refused = self.sockets.cohorts.refused()
            + self.requests.interner.refused()
            + self.engine.overflow();
        if refused > 0 {
            unsettled.push(format!(
                "{refused} connections were not judged because there are too many different call \
                 sites and remotes."
            ));
        }
        let mut resources = resources(&self.probes, &survey, &growth, &mut self.processes)
            .map_err(SessionError::Maps)?;
        resources.retain(|usage| {
            let process = self.processes.get(usage.pid);
            !self.is_left_alone(&process)
        });
        let mut inputs = Inputs {
            started_at: self.clock.date(self.started_ns),
            duration_seconds: (ended_ns - self.started_ns) as f64 / 1e9,
            clock: (self.started_ns, self.clock.date(self.started_ns)),
            coverage: self.coverage(),
            node: None,
            now_ns: monotonic_ns(),
            suspects,
            watched,
            brief,
            resources,
            unsettled,
        };
        let mut answer = None;
        if self.tape.is_some() {
            inputs.suspects.iter_mut().for_each(|s| s.examples.clear());
            answer = Some(self.answer(&inputs, ended_ns, pairs, said_before));
        }
        let mut report = findings::assemble(inputs);
        report.ignored = left_alone as u64;
        let because = self.because(&report, over, passed_over);
        let now = self.clock.date(monotonic_ns());
        if let (Some(tape), Some(answer)) = (&self.tape, answer) {
            tape.answer(Answer {
                lives: self.lives.clone(),
                told_at: now,
                because: because.clone(),
                ..answer
            });
        }
        self.lives.follow(&mut report, now, &because);
        tracing::debug!(
            passes = self.probes.socks.passes() - passes,
            "passes over the sockets for a report"
        );
        Ok(report)
    }

    /// Whether nothing is said of a process because its pod, or that one's namespace, opted out.
    fn is_left_alone(&mut self, process: &Process) -> bool {
        !self.opted_out.is_empty() && self.opted_out.has(self.processes.pod(process).as_ref())
    }

    /// Suspicions that are over, by the id of their finding.
    fn over(&self, judgements: &[Judgement]) -> BTreeMap<String, String> {
        let id = |cohort| {
            let entry = self.sockets.cohorts.get(cohort)?;
            let program = findings::program(&entry.cohort.process);
            Some(entry.identity.id(program))
        };
        let over = self.engine.over(judgements).into_iter();
        over.filter_map(|over| {
            let because = match over.continued_as.and_then(id) {
                Some(other) => format!("What leaks is told of by finding {other} now."),
                None => over.because,
            };
            Some((id(over.cohort)?, because))
        })
        .collect()
    }

    /// Why findings are not in this report any more, by id. `passed_over`: those of who is left alone.
    fn because(
        &self,
        report: &Report,
        mut over: BTreeMap<String, String>,
        mut passed_over: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        for finding in self.lives.missing(report) {
            if let Some(because) = passed_over.remove(&finding.id) {
                over.insert(finding.id.clone(), because);
                continue;
            }
            // what a library leaks for one caller, then for several
            let frame = |f: &Finding| f.library.as_ref().map(|library| library.frame.clone());
            let same = |other: &&Finding| frame(other).is_some() && frame(other) == frame(finding);
            if let Some(other) = report.findings.iter().find(same) {
                let because = format!("What leaks is told of by finding {} now.", other.id);
                over.insert(finding.id.clone(), because);
                continue;
            }
            let mut pids = finding.instances.iter().map(|instance| instance.pid);
            if pids.all(|pid| Presence::of(pid) == Presence::Ended) {
                let ended = match finding.instances.len() {
                    1 => "Its process ended.",
                    _ => "Its processes ended.",
                };
                over.insert(finding.id.clone(), ended.to_owned());
            }
        }
        over
    }

    /// What a recording keeps of a report, beside what the engine thinks. The first of the reasons
    /// not to conclude, `from_engine` of them, are the engine's.
    fn answer(
        &self,
        inputs: &Inputs<'_>,
        ended_ns: u64,
        pairs: Vec<(CohortId, CohortId)>,
        from_engine: usize,
    ) -> Answer {
        let named = |id| {
            let entry = self.sockets.cohorts.get(id)?;
            let named = Named::of(&entry.cohort, &entry.identity, &entry.callers);
            Some((id, named.without_url()))
        };
        Answer {
            started_at: inputs.started_at,
            started_ns: self.started_ns,
            ended_ns,
            now_ns: inputs.now_ns,
            coverage: inputs.coverage.clone(),
            brief: inputs.brief.clone(),
            resources: inputs.resources.clone(),
            unsettled: inputs.unsettled[from_engine..].to_vec(),
            pairs,
            cohorts: self.sockets.cohorts.ids().filter_map(named).collect(),
            suspects: inputs.suspects.iter().map(Shown::of).collect(),
            lives: findings::Lives::default(),
            told_at: inputs.started_at,
            because: BTreeMap::new(),
        }
    }

    fn watched(&self, judgements: &[Judgement]) -> Vec<findings::Watched> {
        let all = self.engine.watched(judgements).into_iter();
        all.filter_map(|watched| {
            let entry = self.sockets.cohorts.get(watched.cohort)?;
            let cohort = entry.cohort.clone();
            Some(findings::Watched { watched, cohort })
        })
        .collect()
    }

    /// What was opened and closed and is of no population, such as between two sweeps.
    fn brief(&mut self) -> Vec<Population> {
        let all = self.sockets.ends.brief(BRIEF_MAX).into_iter();
        all.map(|(brief, ended)| {
            let process = self.processes.get(brief.tgid);
            let sock = brief.sock();
            let (family, role) = (records::family(&sock), records::role(&sock));
            Population {
                node: None,
                pid: process.pid,
                comm: process.comm.clone(),
                call_site: None,
                remote: match role {
                    Role::Server if family != Family::Unix => {
                        records::listening(&self.probes, sock.local_port)
                    }
                    _ => records::address(&self.probes, &sock, family, role),
                },
                role,
                open: 0,
                opened: ended.count,
                closed: ended.count,
                reused: 0,
                healthy_because: engine::closed_because(ended),
            }
        })
        .collect()
    }

    /// Sockets that no process is known to own can be judged by nobody.
    fn without_owner(&self) -> Option<String> {
        let (ownerless, open) = (self.sockets.totals.ownerless, self.sockets.totals.open);
        (ownerless >= OWNERLESS_MAX && ownerless * 10 >= open).then(|| {
            format!("{ownerless} of {open} open sockets have no known owner and were not judged.")
        })
    }

    fn saw_nothing(&self) -> bool {
        self.probes.counter(Counter::Seen) == 0
    }

    fn growth_by_process(&self, judgements: &[Judgement]) -> HashMap<u32, f64> {
        let mut growth = HashMap::new();
        for judgement in judgements {
            if let Some(entry) = self.sockets.cohorts.get(judgement.cohort) {
                *growth.entry(entry.cohort.process.pid).or_insert(0.0) +=
                    judgement.growth_per_minute;
            }
        }
        growth
    }

    /// The open connections, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When reconciling failed.
    pub fn connections(&mut self, limit: usize) -> Result<ConnectionList, SessionError> {
        let mut survey = Survey::for_connections(limit);
        self.refresh(&mut survey)?;
        let (oldest, omitted) = survey.into_oldest();
        let clock = self.clock;
        let opted_out = self.opted_out.clone();
        let (mut beside, sockets, _) = self.parts();
        let connections = oldest
            .iter()
            .filter_map(|(sk, sock)| {
                if beside.is_left_alone(&opted_out, sock) {
                    return None;
                }
                let place = sockets.place(&mut beside, *sk, sock);
                Some(row(&mut beside, sockets.scan, &clock, (*sk, sock), place))
            })
            .collect();
        Ok(ConnectionList {
            schema: SCHEMA,
            connections,
            omitted,
            nodes: None,
        })
    }

    /// How things stand as of the last tick.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            sockets: self.sockets.totals.open,
            populations: self.engine.populated(),
            candidates: self.engine.candidates(),
            processes: if self.watch.target().is_host() {
                1
            } else {
                self.watch.alive().len() as u64
            },
        }
    }

    /// What may become a finding and has the most outlived connections, as of the last sweep.
    #[must_use]
    pub fn leading(&self) -> Option<Leading> {
        let (id, outlived) = self.engine.leading()?;
        let cohort = &self.sockets.cohorts.get(id)?.cohort;
        let site = cohort.site.as_deref().and_then(Site::blamed);
        let remote = &cohort.remote;
        let named = site.map(|frame| &frame.function);
        let name = named.or(remote.host.as_ref()).unwrap_or(&remote.address);
        Some(Leading {
            name: name.clone(),
            outlived,
        })
    }

    /// What can and what cannot be seen.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let events = self.probes.events();
        let weakest = [
            "syscalls",
            "raw_tracepoint",
            "tracepoint",
            "kprobe",
            "fentry",
        ]
        .into_iter()
        .find(|backend| events.iter().any(|e| e.backend == *backend))
        .unwrap_or("none");
        let losses: BTreeMap<String, u64> = Counter::ALL
            .iter()
            .filter(|c| c.is_loss())
            .map(|&c| (c.name().to_owned(), self.probes.counter(c)))
            .chain([(
                "recursion_misses".to_owned(),
                self.probes.recursion_misses(),
            )])
            .filter(|&(_, count)| count > 0)
            .collect();
        let mut degraded = self.probes.degraded().to_vec();
        degraded.extend(self.losses.sentences(self.capacity("SOCKS")));
        degraded.extend(self.runtimes.degraded());
        degraded.extend(self.paths.stacks.degraded());
        degraded.extend(self.processes.without_names());
        degraded.extend(self.requests.without_names());
        let more = degraded.len().saturating_sub(DEGRADED_MAX);
        if more > 0 {
            degraded.truncate(DEGRADED_MAX);
            degraded.push(format!("{more} more are not seen, or not all of them"));
        }
        Coverage {
            backend: weakest.to_owned(),
            hooks: events
                .iter()
                .map(|e| (e.event.to_owned(), e.backend.to_owned()))
                .collect(),
            attached: self.probes.attached().to_vec(),
            degraded,
            refused: refused(),
            lost_events: self.losses.unhealed(&self.probes),
            losses,
            sockets_seen: self.probes.counter(Counter::Seen),
            sockets_folded: self
                .probes
                .counter(Counter::Folded)
                .saturating_add(self.probes.counter(Counter::Healed)),
            sockets_tracked: self.sockets.totals.open,
            sockets_unattributed: self.sockets.totals.unattributed,
        }
    }

    fn capacity(&self, map: &str) -> u64 {
        self.probes
            .capacities()
            .get(map)
            .copied()
            .unwrap_or(u64::MAX)
    }

    /// Maps, programs and lifetimes.
    #[must_use]
    pub fn health(&self) -> Health {
        Health {
            maps: vec![(
                "SOCKS".to_owned(),
                self.sockets.totals.entries,
                self.capacity("SOCKS"),
            )],
            programs: self
                .probes
                .stats()
                .into_iter()
                .map(|(name, stats)| (name, stats.run_ns, stats.runs))
                .collect(),
            lifetimes: self.sockets.ends.lifetimes().buckets(),
            lifetime_sum_seconds: self.sockets.ends.lifetimes().sum_seconds(),
        }
    }

    /// What this kernel allows and what is attached.
    #[must_use]
    pub fn doctor(&self) -> Doctor {
        let coverage = self.coverage();
        let mut accounting = coverage.losses;
        accounting.insert("seen".to_owned(), coverage.sockets_seen);
        accounting.insert("folded".to_owned(), coverage.sockets_folded);
        accounting.insert("live".to_owned(), self.sockets.totals.entries);
        for (name, count) in [
            ("healed", self.probes.counter(Counter::Healed)),
            ("replaced", self.probes.counter(Counter::Replaced)),
            ("found_by_scan", self.probes.counter(Counter::FoundByScan)),
            ("without_room_now", self.losses.unstored()),
            ("without_owner_now", self.sockets.totals.unowned),
            ("without_stack_now", self.sockets.totals.unattributed),
        ] {
            accounting.insert(name.to_owned(), count);
        }
        let mut doctor = self.surroundings.doctor();
        doctor.events = self.probes.events().iter().map(Into::into).collect();
        doctor.degraded.splice(0..0, coverage.degraded);
        doctor.accounting = accounting;
        doctor.usable = true;
        doctor
    }
}

/// What was refused since this process began, and how often.
fn refused() -> Vec<Refused> {
    let all = Refusal::ALL.iter().map(|refusal| Refused {
        what: refusal.what().to_owned(),
        reason: refusal.reason().to_owned(),
        count: refusal.times(),
    });
    all.filter(|refused| refused.count > 0).collect()
}
