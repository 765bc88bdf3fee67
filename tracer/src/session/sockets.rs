//! The sockets of a session: from the kernel's records to the populations that the engine sees.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};

use tracer_ebpf::{ROLE_PAIR, ROLE_SERVER, SOCK_ACCEPT_UNOWNED, SOCK_CLOSED, STACK_NONE, Sock};

use super::{
    beside::Beside,
    cohorts::{Cohorts, Member},
    ends::Ends,
    facts::{self, Facts},
    greetings,
    records::{self, YOUNG_NS},
    requests, responses,
    survey::Survey,
    told::ToldOf,
};
use crate::{
    engine::Engine,
    kernel::probes::Probes,
    model::{CohortId, Connection, Ended, Holder, Remote, Role, Site, StackOf},
    protocols::Request,
    runtimes::told::Stream,
    symbols::helpers,
};

/// A descriptor scan has found the owner of a socket by then.
const OWNED_WITHIN_NS: u64 = 10_000_000_000;
/// Sockets that get older than this are not of a stream of short connections.
const LASTING_NS: u64 = 100_000_000;
/// A socket that no descriptor refers to, and whose end was not seen, is forgotten after this.
const LOST_NS: u64 = 120_000_000_000;
/// Choices of cohorts remembered; beyond that all are made anew.
const CHOSEN_MAX: usize = 131_072;

/// What one sweep counted.
#[derive(Debug, Default)]
pub struct Totals {
    /// Live sockets, closed ones that the kernel still holds excluded.
    pub open: u64,
    /// Those of them older than [`LASTING_NS`].
    pub lasting: u64,
    /// Entries in the map.
    pub entries: u64,
    /// Open sockets without owner or stack.
    pub unattributed: u64,
    /// Of the open ones, those that have lasted without a known owner.
    pub ownerless: u64,
    /// Accepted sockets whose owner is not known yet.
    pub unowned: u64,
    /// Processes that opened or accepted one of the entries.
    pub openers: HashSet<u32>,
    /// The latest of them.
    last_opener: u32,
}

/// The latest descriptor scan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scan {
    /// Its number; 0 before the first.
    pub number: u16,
    /// When it began, monotonic nanoseconds.
    pub began_ns: u64,
}

impl Scan {
    /// The next one, which begins now.
    pub fn next(self, now_ns: u64) -> Scan {
        Scan {
            number: self.number.wrapping_add(1).max(1),
            began_ns: now_ns,
        }
    }

    /// Who has a descriptor of a socket.
    pub fn holder(self, sock: &Sock) -> Holder {
        if sock.scan == 0 || self.number == 0 {
            // nobody can have one yet in a listener's backlog
            return Holder::Unknown;
        }
        if sock.scan != self.number {
            return if sock.opened_ns < self.began_ns {
                Holder::Nobody
            } else {
                Holder::Unknown
            };
        }
        if sock.holder == sock.tgid {
            Holder::Opener
        } else {
            Holder::Other(sock.holder)
        }
    }

    /// Whether an entry outlived its socket: no descriptor refers to it, and no event will tell.
    fn is_gone(self, sock: &Sock, now_ns: u64) -> bool {
        if sock.scan == self.number || sock.opened_ns >= self.began_ns {
            return false;
        }
        if is_unix(sock) {
            return true;
        }
        let since = sock.at_ns(
            sock.closed_ticks()
                .max(sock.sent_ticks)
                .max(sock.received_ticks),
        );
        now_ns.saturating_sub(since.unwrap_or(sock.opened_ns)) > LOST_NS
            && sock.flags & SOCK_ACCEPT_UNOWNED == 0
    }
}

fn is_unix(sock: &Sock) -> bool {
    i32::from(sock.family) == libc::AF_UNIX
}

/// What is known of a session's sockets as a whole; single ones are in the kernel's map only.
#[derive(Debug, Default)]
pub struct Sockets {
    /// The latest scan.
    pub scan: Scan,
    /// What the last sweep counted.
    pub totals: Totals,
    /// Whether the target had a UNIX connection, other than a pair of its own, since the start.
    pub connects_unix: bool,
    /// Populations.
    pub cohorts: Cohorts,
    /// Connections that ended.
    pub ends: Ends,
    /// What programs say of their own connections.
    pub told: ToldOf,
    /// Cohorts chosen for what sockets have in common.
    chosen: HashMap<Facts, CohortId>,
}

impl Sockets {
    /// Reads the kernel's map once, shows everything to the engine, and tells the survey what it
    /// finds. `reconciled` after a descriptor scan. Returns the sockets that have outlived
    /// themselves, and what was counted.
    ///
    /// # Errors
    /// The kernel's, when the map can't be read.
    pub fn pass(
        &mut self,
        beside: &mut Beside<'_>,
        engine: &mut Engine,
        now_ns: u64,
        reconciled: bool,
        mut survey: Option<&mut Survey>,
    ) -> io::Result<(Vec<(u64, u64)>, Totals)> {
        let mut totals = Totals::default();
        let mut lost = Vec::new();
        let probes = beside.probes;
        probes.socks.for_each(|&sk, sock| {
            totals.entries += 1;
            self.connects_unix |= sock.role != ROLE_PAIR && is_unix(sock);
            if sock.tgid != totals.last_opener {
                totals.last_opener = sock.tgid;
                totals.openers.insert(sock.tgid);
            }
            if reconciled && self.scan.is_gone(sock, now_ns) {
                self.show_lost(beside, engine, sk, sock, now_ns);
                lost.push((sk, sock.opened_ns));
                return;
            }
            if let Some(survey) = survey.as_deref_mut() {
                survey.found(sk, sock, self.scan.holder(sock));
            }
            let shown = self.show(beside, sk, sock, now_ns, &mut totals);
            let Some((facts, leaf, seen)) = shown else {
                return;
            };
            let class = engine.observe(leaf, records::role(sock), &seen);
            if let Some(survey) = survey.as_deref_mut() {
                survey.member(sock, &facts, leaf, class);
            }
        })?;
        Ok((lost, totals))
    }

    /// Reads the kernel's map for the survey alone: what was seen before stays as it was.
    ///
    /// # Errors
    /// The kernel's, when the map can't be read.
    pub fn look(
        &mut self,
        beside: &mut Beside<'_>,
        engine: &Engine,
        survey: &mut Survey,
    ) -> io::Result<()> {
        let probes = beside.probes;
        probes.socks.for_each(|&sk, sock| {
            let holder = self.scan.holder(sock);
            survey.found(sk, sock, holder);
            if sock.flags & SOCK_CLOSED != 0 || sock.tgid == 0 {
                return;
            }
            let facts = self.facts(beside, sk, sock);
            if let Some(&leaf) = self.chosen.get(&facts) {
                let class = (holder != Holder::Nobody)
                    .then(|| self.as_seen(beside, sk, sock, holder, &facts))
                    .and_then(|seen| engine.class(records::role(sock), &seen));
                survey.member(sock, &facts, leaf, class);
            }
        })?;
        Ok(())
    }

    /// Puts one socket into its population, and makes of it what the engine sees; `None` where it
    /// is not shown.
    fn show(
        &mut self,
        beside: &mut Beside<'_>,
        sk: u64,
        sock: &Sock,
        now_ns: u64,
        totals: &mut Totals,
    ) -> Option<(Facts, CohortId, Connection)> {
        if sock.flags & SOCK_CLOSED != 0 {
            return None;
        }
        totals.unowned += u64::from(sock.flags & SOCK_ACCEPT_UNOWNED != 0);
        let holder = self.scan.holder(sock);
        if holder == Holder::Nobody {
            return None;
        }
        totals.open += 1;
        let age_ns = now_ns.saturating_sub(sock.opened_ns);
        totals.lasting += u64::from(age_ns > LASTING_NS);
        if let Some(number) = self.told.of(sk, sock).and_then(|said| said.request) {
            let latest = &mut beside.requests.latest;
            latest.set_request(sk, sock.opened_ns, number);
        }
        let facts = self.facts(beside, sk, sock);
        if sock.tgid == 0 || facts.open_stack == STACK_NONE {
            totals.unattributed += 1;
        }
        if age_ns < YOUNG_NS || sock.tgid == 0 {
            totals.ownerless += u64::from(sock.tgid == 0 && age_ns > OWNED_WITHIN_NS);
            return None;
        }
        let leaf = match self.chosen.get(&facts) {
            Some(&leaf) => leaf,
            None => {
                let leaf = self.choose(beside, sk, sock, &facts)?;
                if self.chosen.len() >= CHOSEN_MAX {
                    self.chosen.clear();
                }
                self.chosen.insert(facts, leaf);
                leaf
            }
        };
        let seen = self.as_seen(beside, sk, sock, holder, &facts);
        if let Some(said) = self.told.of(sk, sock) {
            said.note(beside.runtimes, leaf, &seen);
        }
        Some((facts, leaf, seen))
    }

    /// Tells the engine of a socket that ended unseen.
    fn show_lost(
        &mut self,
        beside: &mut Beside<'_>,
        engine: &mut Engine,
        sk: u64,
        sock: &Sock,
        now_ns: u64,
    ) {
        let facts = self.facts(beside, sk, sock);
        if let Some(&leaf) = self.chosen.get(&facts) {
            let ended = Ended {
                count: 1,
                lifetime_ns: now_ns.saturating_sub(sock.opened_ns),
                turns: u64::from(sock.turns),
            };
            engine.ended(leaf, records::role(sock), &ended);
        }
    }

    /// Removes the entries of sockets that are gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_lost(&mut self, probes: &Probes, lost: &[(u64, u64)]) -> io::Result<()> {
        for (sk, opened_ns) in lost {
            // between the scan and now the socket's memory may have become another socket
            if (probes.socks.get(sk)?).is_some_and(|now| now.opened_ns == *opened_ns)
                && probes.socks.remove(sk)?
            {
                probes.count_healed()?;
            }
        }
        Ok(())
    }

    /// Shows requests that share connections.
    ///
    /// # Errors
    /// The kernel's, when a map can't be read.
    pub fn show_streams(
        &mut self,
        beside: &mut Beside<'_>,
        engine: &mut Engine,
        followed: Vec<Stream>,
        now_ns: u64,
    ) -> io::Result<()> {
        (self.told).show_streams(beside, engine, &mut self.cohorts, followed, now_ns)
    }

    /// Shows what the map of sockets has not: connections that ended.
    ///
    /// # Errors
    /// The kernel's, when a map can't be read.
    pub fn show_ended(&mut self, beside: &mut Beside<'_>, engine: &mut Engine) -> io::Result<()> {
        for (leaf, role, lineage) in self.cohorts.take_new() {
            engine.enroll(leaf, role, lineage);
        }
        if self.ends.make_room() {
            self.chosen.clear();
        }
        self.ends.deliver(beside.probes, engine)?;
        self.told
            .show_collected(beside.runtimes, engine, &self.ends)
    }

    /// Ends a sweep: forgets the cohorts that the engine has forgotten, before there are too many.
    pub fn end_sweep(&mut self, totals: Totals, engine: &Engine) {
        if self.cohorts.take_renamed() {
            self.chosen.clear();
        }
        self.totals = totals;
        if !self.cohorts.is_crowded() {
            return;
        }
        self.cohorts.retain(|id| engine.knows(id));
        let cohorts = &self.cohorts;
        self.chosen.retain(|_, id| cohorts.get(*id).is_some());
        self.ends.retain(|id| cohorts.get(id).is_some());
    }

    /// Names may have changed: all cohorts are to be chosen anew.
    pub fn choose_anew(&mut self) {
        self.chosen.clear();
    }

    /// The process has ended: its number may be another one's.
    pub fn forget_process(&mut self, pid: u32) {
        self.chosen.retain(|facts, _| facts.tgid() != pid);
    }

    /// The process runs another program: what has no stack may be this one's.
    pub fn forget_program(&mut self, pid: u32) {
        self.chosen
            .retain(|facts, _| facts.tgid() != pid || facts.has_stack());
    }

    /// Choices of cohorts, to save.
    pub fn chosen(&self) -> impl Iterator<Item = (&Facts, &CohortId)> {
        self.chosen.iter()
    }

    /// Takes over saved choices.
    pub fn restore_chosen(&mut self, chosen: Vec<(Facts, CohortId)>) {
        self.chosen = chosen.into_iter().collect();
    }

    /// Where the population of a socket was pinned to, once it has been put into one.
    pub fn place(&mut self, beside: &mut Beside<'_>, sk: u64, sock: &Sock) -> Option<Arc<Site>> {
        let facts = self.facts(beside, sk, sock);
        let leaf = self.chosen.get(&facts)?;
        self.cohorts.get(*leaf)?.cohort.site.clone()
    }

    /// What the cohort of a socket is chosen by, with what its own program says of it.
    fn facts(&mut self, beside: &mut Beside<'_>, sk: u64, sock: &Sock) -> Facts {
        let opener = beside.processes.opener(sock.tgid, sock.opened_ns);
        let started_ticks = opener.start_ticks;
        let gone = started_ticks == 0 || beside.processes.has_ended(sock.tgid);
        let mut facts = Facts::of(
            sock,
            facts::Known {
                started_ticks,
                heir: match self.scan.holder(sock) {
                    Holder::Other(pid) if gone => pid,
                    _ => 0,
                },
                stacks: (
                    beside.settle(sk, sock.open_stack),
                    beside.settle(sk, sock.request_stack),
                ),
                request: beside.requests.latest.request(sk, sock.opened_ns),
            },
        );
        let request = facts.request.and_then(|n| beside.requests.value(n));
        // of its messages only the first are known
        facts.reused &= request.is_none_or(|request| greetings::service(request).is_none());
        let attempt = u32::try_from(self.cohorts.len()).unwrap_or(u32::MAX);
        // whose it is may turn out when the same request is seen again
        let request_site = beside.site(facts.request_stack);
        let own = request_site.as_ref().is_some_and(|site| site.own);
        let job = request_site.as_deref().is_some_and(helpers::runs_job);
        if !own && (facts.reused || job) {
            facts.attempt = attempt;
        }
        let Some(told) = self.told.of(sk, sock).map(|said| &said.told) else {
            return facts;
        };
        if let Some(stack) = told.stack {
            facts.request_stack = stack;
        }
        facts.again = told.again.is_some();
        // A Go client's connection from before its probes. Go dials and sends on goroutines of its
        // own, whose stacks say nothing; whose it is may turn out when the same request is seen
        // again.
        facts.earlier = !told.server && told.stack.is_none() && facts.request.is_some();
        if facts.earlier {
            facts.attempt = attempt;
        }
        facts
    }

    /// A socket as the engine sees it, with what its own program says of it.
    fn as_seen(
        &self,
        beside: &mut Beside<'_>,
        sk: u64,
        sock: &Sock,
        holder: Holder,
        facts: &Facts,
    ) -> Connection {
        let mut seen = records::connection(sk, sock, holder);
        let request = facts.request.and_then(|n| beside.requests.value(n));
        if let Some(protocol) = request.and_then(Request::protocol) {
            seen.protocol = protocol;
        }
        seen.in_transaction = responses::transaction_of(sock, request).is_some();
        if let Some(said) = self.told.of(sk, sock) {
            said.told.correct(&mut seen);
        } else if let Some(fd) = seen.fd
            && sock.scan == self.scan.number
            && sock.role != ROLE_SERVER
        {
            seen.pool = beside.runtimes.pool_state(sock.holder, fd);
        }
        seen
    }

    fn choose(
        &mut self,
        beside: &mut Beside<'_>,
        sk: u64,
        sock: &Sock,
        facts: &Facts,
    ) -> Option<CohortId> {
        let (open_stack, request_stack) = match facts.earlier {
            true => (STACK_NONE, STACK_NONE),
            false => (facts.open_stack, facts.request_stack),
        };
        let process = match facts.heir {
            0 => beside.processes.opener(sock.tgid, sock.opened_ns),
            heir => beside.processes.get(heir),
        };
        let role = records::role(sock);
        let family = records::family(sock);
        let address = records::address(beside.probes, sock, family, role);
        let request = facts
            .request
            .and_then(|n| beside.requests.value(n))
            .cloned();
        let remote = match role {
            Role::Client => requests::client_remote(family, &address, request.as_ref()),
            Role::Server => Arc::new(Remote {
                family,
                address: address.clone(),
                host: None,
                url: None,
                peer: None,
                resolved: None,
                in_cluster: None,
            }),
        };
        let opener = beside.site(open_stack);
        let opened = records::moment(sock.open_stack_of());
        let (number, mut site_of) = if request_stack == STACK_NONE {
            (open_stack, opened)
        } else {
            (request_stack, StackOf::Request)
        };
        let again = self.told.of(sk, sock).map(|said| &said.told.again);
        let mut site = again.cloned().flatten().or_else(|| beside.site(number));
        // A library that sends from a callback of its own was asked where it parsed the URL.
        let is_own = |site: &Option<Arc<Site>>| site.as_ref().is_some_and(|site| site.own);
        let opener_asked = is_own(&opener) && !facts.reused;
        if role == Role::Client
            && !(facts.earlier || is_own(&site) || opener_asked)
            && let Some(request) = &request
            && let Some(asked) = beside.asked_for(process.pid, &address, request)
        {
            site = Some(asked);
            site_of = StackOf::Request;
        }
        let named = request.as_ref().filter(|r| !r.method.is_empty());
        // An event loop sends when it may, not when it is asked to: then the opener says more.
        if helpers::opener_says_more(site.as_deref(), opener.as_deref()) {
            if let Some(request) = named.filter(|_| facts.reused) {
                // It asked for an earlier request; this one was perhaps asked for by others.
                let sole = self.cohorts.sole_site(&process, &remote, request, role);
                site = sole.filter(|sole| sole.own).or(site);
            } else {
                site.clone_from(&opener);
                site_of = opened;
            }
        }
        // Helpers that dial and send, or receive and answer, give way to who has both done.
        let opens = role == Role::Client && named.is_none();
        if site_of == StackOf::Request
            && let (Some(opener), Some(request)) = (&opener, &site)
            && let Some(common) = helpers::owner(opener, request, opens, facts.reused)
        {
            site = Some(Arc::new(common));
            site_of = opened;
        }
        if let Some(request) = named.filter(|_| helpers::asks_unseen(site.as_deref()))
            && let Some(sole) = self.cohorts.sole_site(&process, &remote, request, role)
            && helpers::asks_alike(site.as_deref(), &sole)
        {
            site = Some(sole);
            site_of = StackOf::Request;
        }
        let cohort = self.cohorts.of(Member {
            process: &process,
            site,
            site_of,
            opener: opener.filter(|_| site_of == StackOf::Request),
            remote: &remote,
            request: request.as_ref(),
            role,
        })?;
        if let Some(request) = named {
            self.cohorts.add_example(cohort, || {
                let kept = !beside.processes.is_annotated(&process);
                let example = kept.then(|| beside.requests.example(family, &address, request));
                example.flatten()
            });
        }
        self.ends.belongs(facts.aggregate(), cohort);
        Some(cohort)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sock(scan: u16, holder: u32, opened_ns: u64) -> Sock {
        Sock {
            tgid: 7,
            scan,
            holder,
            opened_ns,
            family: libc::AF_INET as u8,
            ..Sock::default()
        }
    }

    #[test]
    fn the_latest_scan_says_who_holds_a_socket() {
        let first = Scan::default();
        assert_eq!(first.holder(&sock(0, 0, 5)), Holder::Unknown);
        let scan = first.next(100).next(200);
        assert_eq!((scan.number, scan.began_ns), (2, 200));
        assert_eq!(scan.holder(&sock(2, 7, 5)), Holder::Opener);
        assert_eq!(scan.holder(&sock(2, 8, 5)), Holder::Other(8));
        assert_eq!(scan.holder(&sock(1, 7, 5)), Holder::Nobody);
        assert_eq!(
            scan.holder(&sock(1, 7, 300)),
            Holder::Unknown,
            "opened since"
        );
    }

    #[test]
    fn what_no_descriptor_refers_to_is_gone_after_a_while() {
        let scan = Scan::default().next(100).next(200);
        let mut lost = sock(1, 7, 5);
        assert!(!scan.is_gone(&lost, LOST_NS));
        assert!(scan.is_gone(&lost, 2 * LOST_NS));
        assert!(!scan.is_gone(&sock(2, 7, 5), 2 * LOST_NS), "it was found");
        assert!(!scan.is_gone(&sock(1, 7, 300), 2 * LOST_NS), "opened since");
        lost.flags = SOCK_ACCEPT_UNOWNED;
        assert!(!scan.is_gone(&lost, 2 * LOST_NS), "it waits to be accepted");
        lost.family = libc::AF_UNIX as u8;
        assert!(scan.is_gone(&lost, 5));
    }
}
