//! What a session answers: report, connections, coverage, doctor, health.

use std::collections::{BTreeMap, HashMap};

use super::{Health, Session, requests, sweep};
use tracer_ebpf::{Counter, ErrorKey, SOCK_ACCEPT_UNOWNED, SOCK_CLOSED, SOCK_PREEXISTING, Sock};

use crate::{
    engine::Judgement,
    findings::{self, Inputs, PortUse, ProcessUse},
    model::{CohortId, Family, Holder, Role},
    procs::{self, Presence, clock::monotonic_ns},
    recording::{Answer, Named, Shown},
    report::{
        CallSite, ConnectionList, ConnectionRow, Coverage, Doctor, Finding, Report, Resources,
        SCHEMA,
    },
};

/// Where a client's connections go: family, address, port.
type Destination = (Family, [u32; 4], u16);

/// Processes whose limits a report shows.
const PROCESSES_MAX: usize = 64;
/// Destinations whose ephemeral ports a report shows, per process.
const DESTINATIONS_MAX: usize = 8;
/// A watch shorter than this can't tell a leak from work in progress.
const SHORT_WATCH_SECONDS: f64 = 10.0;
/// Fewer sockets without an owner are no reason to doubt the rest.
const OWNERLESS_MAX: u64 = 5;
/// Fewer ports in use than this are not worth a line.
const PORTS_WORTH_SHOWING: u64 = 100;

impl Session {
    /// Reconciles with the kernel's own lists and judges.
    ///
    /// # Errors
    /// A message when reconciling failed.
    pub fn report(&mut self) -> Result<Report, String> {
        self.refresh()?;
        let mut judgements = self.engine.judge();
        let pairs = self.explain_servers(&mut judgements)?;
        let growth = self.growth_by_process(&judgements);
        let watched = self.watched(&judgements);
        let unexplained = self.engine.unexplained(&judgements);
        let over = self.over(&judgements);
        let suspects = self.suspects(judgements)?;
        if suspects
            .iter()
            .any(|s| s.judgement.first_seen_ns > self.saving.last_ns)
        {
            // when it was first seen must not be forgotten
            self.saving.learned = true;
            self.save_if_due();
        }
        let ended_ns = self.frozen_ns.unwrap_or_else(monotonic_ns);
        let mut unsettled = Vec::new();
        for (id, what) in unexplained {
            if let Some(entry) = self.cohorts.get(id) {
                unsettled.push(findings::unexplained(&entry.cohort.process, &what));
            }
        }
        let said_before = unsettled.len();
        unsettled.extend(self.without_owner());
        if let Some(frozen_ns) = self.frozen_ns {
            let seconds = (frozen_ns - self.started_ns) as f64 / 1e9;
            if self.saw_nothing() {
                unsettled.push("The target ended before anything could be seen.".to_owned());
            } else if seconds < SHORT_WATCH_SECONDS && self.totals.open > 0 {
                unsettled.push(format!(
                    "The target ended after {seconds:.1} s with {} connections open: too soon to \
                     tell whether it would have closed them.",
                    self.totals.open
                ));
            }
        }
        let refused = self.cohorts.refused() + self.requests.refused() + self.engine.overflow();
        if refused > 0 {
            unsettled.push(format!(
                "{refused} connections were not judged because there are too many different call \
                 sites and remotes."
            ));
        }
        let mut inputs = Inputs {
            started_at: self.clock.date(self.started_ns),
            duration_seconds: (ended_ns - self.started_ns) as f64 / 1e9,
            clock: (self.started_ns, self.clock.date(self.started_ns)),
            coverage: self.coverage(),
            node: None,
            now_ns: monotonic_ns(),
            suspects,
            watched,
            resources: self.resources(&growth)?,
            unsettled,
        };
        let mut answer = None;
        if self.tape.is_some() {
            inputs.suspects.iter_mut().for_each(|s| s.examples.clear());
            answer = Some(self.answer(&inputs, ended_ns, pairs, said_before));
        }
        let mut report = findings::assemble(inputs);
        let because = self.because(&report, over);
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
        Ok(report)
    }

    /// Suspicions that are over, by the id of their finding.
    fn over(&self, judgements: &[Judgement]) -> BTreeMap<String, String> {
        let id = |cohort| {
            let entry = self.cohorts.get(cohort)?;
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

    /// Why findings are not in this report any more, by id.
    fn because(
        &self,
        report: &Report,
        mut over: BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        for finding in self.lives.missing(report) {
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
            let entry = self.cohorts.get(id)?;
            let named = Named::of(&entry.cohort, &entry.identity, &entry.callers);
            Some((id, named.without_url()))
        };
        Answer {
            started_at: inputs.started_at,
            started_ns: self.started_ns,
            ended_ns,
            now_ns: inputs.now_ns,
            coverage: inputs.coverage.clone(),
            resources: inputs.resources.clone(),
            unsettled: inputs.unsettled[from_engine..].to_vec(),
            pairs,
            cohorts: self.cohorts.ids().filter_map(named).collect(),
            suspects: inputs.suspects.iter().map(Shown::of).collect(),
            lives: findings::Lives::default(),
            told_at: inputs.started_at,
            because: BTreeMap::new(),
        }
    }

    fn watched(&self, judgements: &[Judgement]) -> Vec<findings::Watched> {
        let all = self.engine.watched(judgements).into_iter();
        all.filter_map(|watched| {
            let entry = self.cohorts.get(watched.cohort)?;
            let cohort = entry.cohort.clone();
            Some(findings::Watched { watched, cohort })
        })
        .collect()
    }

    /// Sockets that no process is known to own can be judged by nobody.
    fn without_owner(&self) -> Option<String> {
        let (ownerless, open) = (self.totals.ownerless, self.totals.open);
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
            if let Some(entry) = self.cohorts.get(judgement.cohort) {
                *growth.entry(entry.cohort.process.pid).or_insert(0.0) +=
                    judgement.growth_per_minute;
            }
        }
        growth
    }

    /// Descriptors, ports and connect errors of the processes with open connections or errors.
    fn resources(&self, growth: &HashMap<u32, f64>) -> Result<Vec<Resources>, String> {
        let mut ports: HashMap<u32, HashMap<Destination, u64>> = HashMap::new();
        let mut usage: BTreeMap<u32, ProcessUse> = BTreeMap::new();
        let failed = |e: std::io::Error| format!("reading the kernel's maps failed: {e}");
        self.probes
            .socks
            .for_each(|_, sock| {
                if sock.tgid == 0 || sock.flags & SOCK_CLOSED != 0 {
                    return;
                }
                let family = requests::family(sock);
                let of_process = ports.entry(sock.tgid).or_default();
                if family != Family::Unix && sweep::role(sock) == Role::Client {
                    let to = (family, sock.remote_addr, sock.remote_port);
                    *of_process.entry(to).or_default() += 1;
                }
            })
            .map_err(failed)?;
        let mut errors: BTreeMap<u32, BTreeMap<u16, u64>> = BTreeMap::new();
        self.probes
            .errors
            .for_each(|&ErrorKey { tgid, error }, &count| {
                if let Ok(error) = u16::try_from(error) {
                    errors.entry(tgid).or_default().insert(error, count);
                }
            })
            .map_err(failed)?;
        let mut ranges: HashMap<u64, (u16, u16)> = HashMap::new();
        for pid in ports.keys().chain(errors.keys()).copied() {
            if usage.len() >= PROCESSES_MAX {
                break;
            }
            // a process that has ended holds nothing and is only shown for its connect errors
            let (fds_open, fds_limit) = procs::fd_usage(pid).unwrap_or((0, 0));
            if fds_limit == 0 && !errors.contains_key(&pid) {
                continue;
            }
            let mut destinations: Vec<(&Destination, &u64)> = ports
                .get(&pid)
                .map(|p| p.iter().collect())
                .unwrap_or_default();
            let range = match procs::network(pid) {
                Some(namespace) => *ranges
                    .entry(namespace)
                    .or_insert_with(|| procs::ephemeral_range(pid)),
                None => procs::EPHEMERAL_RANGE_DEFAULT,
            };
            let size = u64::from(range.1.saturating_sub(range.0)) + 1;
            destinations.retain(|&(_, &used)| used >= PORTS_WORTH_SHOWING || used * 2 >= size);
            destinations.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
            let growth_per_minute = growth.get(&pid).copied().unwrap_or(0.0);
            let one_destination = destinations.len() == 1;
            usage.insert(
                pid,
                ProcessUse {
                    pid,
                    fds_open,
                    fds_limit,
                    fds_growth_per_minute: growth_per_minute,
                    ports: destinations
                        .into_iter()
                        .take(DESTINATIONS_MAX)
                        .map(|(&(family, address, port), &used)| PortUse {
                            destination: requests::socket_address(family, address, port),
                            used,
                            range,
                            reserved: 0,
                            growth_per_minute: if one_destination {
                                growth_per_minute
                            } else {
                                0.0
                            },
                        })
                        .collect(),
                    connect_errors: errors.get(&pid).cloned().unwrap_or_default(),
                },
            );
        }
        Ok(usage.values().map(findings::resources).collect())
    }

    /// The open connections, oldest first, at most `limit`.
    ///
    /// # Errors
    /// A message when reconciling failed.
    pub fn connections(&mut self, limit: usize) -> Result<ConnectionList, String> {
        self.refresh()?;
        let mut oldest = Oldest::new(limit);
        let socks = std::sync::Arc::clone(&self.probes.socks);
        socks
            .for_each(|&sk, sock| {
                // The scan just made has given every accepted socket its owner: those without one
                // wait in a listener's queue, where no descriptor refers to them yet.
                let over = SOCK_CLOSED | SOCK_ACCEPT_UNOWNED;
                let open = sock.flags & over == 0 && sock.tgid != 0;
                if open && self.holder(sock) != Holder::Nobody {
                    oldest.offer(sk, sock);
                }
            })
            .map_err(|e| format!("reading the kernel's maps failed: {e}"))?;
        let now_ns = monotonic_ns();
        let omitted = oldest.omitted;
        let connections = oldest
            .sorted()
            .iter()
            .map(|(sk, sock)| self.row(*sk, sock, now_ns))
            .collect();
        Ok(ConnectionList {
            schema: SCHEMA,
            connections,
            omitted,
        })
    }

    fn row(&mut self, sk: u64, sock: &Sock, now_ns: u64) -> ConnectionRow {
        let process = self.people.opener(sock.tgid, sock.opened_ns);
        let family = requests::family(sock);
        let role = sweep::role(sock);
        let remote = match family {
            Family::Unix => self.address(sock, family, role),
            _ => requests::socket_address(family, sock.remote_addr, sock.remote_port),
        };
        let number = self.live.request(sk, sock.opened_ns);
        let request = number.and_then(|number| self.requests.value(number));
        let url = request.map(|r| requests::shown(family, &remote, r));
        let [request_stack, open_stack] =
            [sock.request_stack, sock.open_stack].map(|noted| self.tickets.settle(sk, noted));
        let [request_site, opener] = [request_stack, open_stack].map(|stack| self.site(stack));
        let opener_first = sweep::opener_says_more(request_site.as_deref(), opener.as_deref());
        let site = request_site.filter(|_| !opener_first).or(opener);
        let call_site = site.and_then(|site| {
            site.blamed().map(|frame| CallSite {
                function: frame.function.clone(),
                file: frame.file.clone(),
                line: frame.line,
                module: frame.module.clone(),
            })
        });
        let last = sock
            .at_ns(sock.sent_ticks.max(sock.received_ticks))
            .unwrap_or(sock.opened_ns);
        ConnectionRow {
            pid: process.pid,
            comm: process.comm.clone(),
            holder_pid: match self.holder(sock) {
                Holder::Other(pid) => Some(pid),
                _ => None,
            },
            fd: (sock.fd >= 0).then_some(sock.fd),
            role,
            family,
            state: state_name(sock, family).to_owned(),
            local_port: (family != Family::Unix).then_some(sock.local_port),
            remote,
            url,
            opened_at: self.clock.date(sock.opened_ns),
            preexisting: sock.flags & SOCK_PREEXISTING != 0,
            age_seconds: seconds_between(sock.opened_ns, now_ns),
            idle_seconds: seconds_between(last, now_ns),
            requests: sock.turns,
            unread: sock.unread,
            call_site,
            inode: sock.inode,
        }
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
        degraded.extend(self.gaps.sentences(self.capacity("SOCKS")));
        degraded.extend(self.runtimes.degraded());
        degraded.extend(self.stacks.degraded());
        Coverage {
            backend: weakest.to_owned(),
            hooks: events
                .iter()
                .map(|e| (e.event.to_owned(), e.backend.to_owned()))
                .collect(),
            attached: self.probes.attached().to_vec(),
            degraded,
            lost_events: self.gaps.unhealed(&self.probes),
            losses,
            sockets_seen: self.probes.counter(Counter::Seen),
            sockets_folded: self.probes.counter(Counter::Folded) + self.healed,
            sockets_tracked: self.totals.open,
            sockets_unattributed: self.totals.unattributed,
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
                self.totals.entries,
                self.capacity("SOCKS"),
            )],
            programs: self
                .probes
                .stats()
                .into_iter()
                .map(|(name, stats)| (name, stats.run_ns, stats.runs))
                .collect(),
            lifetimes: self.ends.lifetimes().buckets(),
            lifetime_sum_seconds: self.ends.lifetimes().sum_seconds(),
        }
    }

    /// What this kernel allows and what is attached.
    #[must_use]
    pub fn doctor(&self) -> Doctor {
        let coverage = self.coverage();
        let mut accounting = coverage.losses;
        accounting.insert("seen".to_owned(), coverage.sockets_seen);
        accounting.insert("folded".to_owned(), coverage.sockets_folded);
        accounting.insert("live".to_owned(), self.totals.entries);
        for (name, count) in [
            ("healed", self.healed),
            ("replaced", self.probes.counter(Counter::Replaced)),
            ("found_by_scan", self.probes.counter(Counter::FoundByScan)),
            ("without_room_now", self.gaps.unstored()),
            ("without_owner_now", self.totals.unowned),
            ("without_stack_now", self.totals.unattributed),
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

/// The oldest sockets of however many: never more than asked for are kept.
struct Oldest {
    limit: usize,
    kept: BTreeMap<(u64, u64), Sock>,
    omitted: u64,
}

impl Oldest {
    fn new(limit: usize) -> Oldest {
        Oldest {
            limit,
            kept: BTreeMap::new(),
            omitted: 0,
        }
    }

    fn offer(&mut self, sk: u64, sock: &Sock) {
        let key = (sock.opened_ns, sk);
        if self.kept.len() < self.limit {
            self.kept.insert(key, *sock);
            return;
        }
        self.omitted += 1;
        if self
            .kept
            .last_key_value()
            .is_some_and(|(&last, _)| key < last)
        {
            self.kept.pop_last();
            self.kept.insert(key, *sock);
        }
    }

    fn sorted(self) -> Vec<(u64, Sock)> {
        let kept = self.kept.into_iter();
        kept.map(|((_, sk), sock)| (sk, sock)).collect()
    }
}

fn seconds_between(from_ns: u64, to_ns: u64) -> f64 {
    (to_ns.saturating_sub(from_ns) as f64 / 1e6).round() / 1e3
}

/// The state as the kernel names it (without `TCP_`); UNIX: `connected` or `peer_closed`.
fn state_name(sock: &Sock, family: Family) -> &'static str {
    if family == Family::Unix {
        return if sock.flags & tracer_ebpf::SOCK_PEER_CLOSED != 0 {
            "peer_closed"
        } else {
            "connected"
        };
    }
    // include/net/tcp_states.h
    match sock.state {
        1 => "ESTABLISHED",
        2 => "SYN_SENT",
        3 => "SYN_RECV",
        4 => "FIN_WAIT1",
        5 => "FIN_WAIT2",
        6 => "TIME_WAIT",
        7 => "CLOSE",
        8 => "CLOSE_WAIT",
        9 => "LAST_ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        _ => "UNKNOWN",
    }
}
