//! One sweep: from the kernel's map of live sockets to what the engine sees.

use std::{collections::HashSet, sync::Arc};

use serde::{Deserialize, Serialize};
use tracer_ebpf::{
    AWAITED, AWAITED_BY_NOBODY, HeadKey, ROLE_PAIR, ROLE_SERVER, SOCK_ACCEPT_UNOWNED, SOCK_CLOSED,
    SOCK_CONNECTED, SOCK_PEER_CLOSED, SOCK_PREEXISTING, SOCK_RESET, SOCK_SHUTDOWN, STACK_NONE,
    STACK_TICKET, Sock, WHEN_ACCEPT, WHEN_CONNECT,
};

use super::{Session, cohorts::Member, ends, requests, requests::socket_address, responses};
use crate::{
    model::{CohortId, Connection, Ended, Family, Holder, PoolState, Remote, Role, Site, StackOf},
    procs::clock::monotonic_ns,
    symbols::helpers,
};

/// Sockets younger than this are left to the kernel: most of them end before they matter.
pub const YOUNG_NS: u64 = 1_000_000_000;
/// A descriptor scan has found the owner of a socket by then.
const OWNED_WITHIN_NS: u64 = 10_000_000_000;
/// Sockets that get older than this are not of a stream of short connections.
const LASTING_NS: u64 = 100_000_000;
/// A socket that no descriptor refers to, and whose end was not seen, is forgotten after this.
const LOST_NS: u64 = 120_000_000_000;

/// A request head in the kernel: its key and turn.
pub type Head = (HeadKey, u32);

/// Choices of cohorts remembered; beyond that all are made anew.
const CHOSEN_MAX: usize = 131_072;

/// What sockets of one cohort have in common, as far as the kernel's numbers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Facts {
    addr: [u32; 4],
    started_ticks: u64,
    tgid: u32,
    /// The process that holds the socket where the opening one has ended; else 0. Many short-lived
    /// processes may open what one keeps: together they are its leak.
    heir: u32,
    open_stack: u32,
    request_stack: u32,
    request: Option<u32>,
    netns: u32,
    /// Number of cohorts when the choice was made, where it may be made better later; else 0.
    attempt: u32,
    /// A Go client's connection whose requester was not seen.
    #[serde(default)]
    earlier: bool,
    port: u16,
    family: u8,
    role: u8,
    /// Which stacks are tickets: they are folded under other keys.
    ticketed: u8,
}

impl Facts {
    /// The opening process.
    pub fn tgid(&self) -> u32 {
        self.tgid
    }

    /// Number of its latest request.
    pub fn request(&self) -> Option<u32> {
        self.request
    }

    /// Its stacks, that of the latest request first.
    pub fn stacks(&self) -> [u32; 2] {
        [self.request_stack, self.open_stack]
    }

    /// Where a client of TCP is connected to.
    pub fn address(&self) -> Option<String> {
        let family = match i32::from(self.family) {
            libc::AF_INET => Family::Tcp4,
            libc::AF_INET6 => Family::Tcp6,
            _ => return None,
        };
        (self.role != ROLE_SERVER).then(|| socket_address(family, self.addr, self.port))
    }

    /// Whether it has a stack, whose number tells its program apart from any other.
    pub fn has_stack(&self) -> bool {
        self.open_stack != STACK_NONE || self.request_stack != STACK_NONE
    }
}

/// State left behind by one sweep for the next.
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

impl Session {
    /// Reads the kernel's maps once and shows everything to the engine. `reconciled` after a
    /// descriptor scan.
    pub(crate) fn sweep(&mut self, now_ns: u64, reconciled: bool) -> std::io::Result<()> {
        self.live.begin();
        self.tickets.begin();
        self.take_heads()?;
        let socks = Arc::clone(&self.probes.socks);
        (self.told).refresh(&mut self.runtimes, &mut self.requests, &socks)?;
        self.runtimes.begin_sweep();
        self.engine.begin_sweep(now_ns, reconciled);
        let mut totals = Totals::default();
        let mut lost = Vec::new();
        socks.for_each(|&sk, sock| {
            totals.entries += 1;
            if sock.tgid != totals.last_opener {
                totals.last_opener = sock.tgid;
                totals.openers.insert(sock.tgid);
            }
            if self.is_gone(sock, now_ns, reconciled) {
                self.show_lost(sk, sock, now_ns);
                lost.push((sk, sock.opened_ns));
            } else {
                self.show(sk, sock, now_ns, &mut totals);
            }
        })?;
        if self.target.has_ended(&self.probes) {
            // the target ended while it was looked at: what was seen before stays as it was
            self.frozen_ns = Some(monotonic_ns());
            self.alive.clear();
            return Ok(());
        }
        self.show_streams(now_ns)?;
        self.live.end();
        self.tickets.end();
        self.forget_lost(&lost)?;
        for (leaf, role, lineage) in self.cohorts.take_new() {
            self.engine.enroll(leaf, role, lineage);
        }
        if self.ends.make_room() {
            self.chosen.clear();
        }
        self.ends.deliver(&self.probes, &mut self.engine)?;
        self.show_collected()?;
        self.engine.end_sweep();
        if self.cohorts.take_renamed() {
            self.chosen.clear();
        }
        self.totals = totals;
        self.make_room();
        Ok(())
    }

    /// Request heads that came in since the last sweep.
    fn take_heads(&mut self) -> std::io::Result<()> {
        let (live, interned) = (&mut self.live, &mut self.requests);
        let mut heads = Vec::new();
        if self.probes.pins().is_some() {
            // they stay until what they say is saved
            let saving = &mut self.saving;
            saving.heads.clear();
            self.probes.heads.for_each(|key, head| {
                saving.heads.push((*key, head.turn));
                heads.push((*key, *head));
            })?;
            saving.learned |= !heads.is_empty();
        } else {
            self.probes
                .heads
                .drain(|key, head| heads.push((*key, *head)))?;
        }
        // the latest request of a socket wins
        heads.sort_unstable_by_key(|(key, head)| (key.sk, head.opened_ns, head.turn));
        for (key, head) in heads {
            if let Some(number) = requests::request(&head).and_then(|r| interned.number_of(&r)) {
                live.set_request(key.sk, head.opened_ns, number);
            }
        }
        Ok(())
    }

    /// Lets go of the request heads that were taken.
    pub(crate) fn forget_heads(&mut self) {
        for (key, turn) in self.saving.heads.drain(..) {
            let heads = &self.probes.heads;
            if heads
                .get(&key)
                .is_ok_and(|now| now.is_some_and(|now| now.turn == turn))
            {
                let _ = heads.remove(&key);
            }
        }
    }

    /// Whether an entry outlived its socket: no descriptor refers to it, and no event will tell.
    fn is_gone(&self, sock: &Sock, now_ns: u64, reconciled: bool) -> bool {
        if !reconciled || sock.scan == self.scan || sock.opened_ns >= self.scan_began_ns {
            return false;
        }
        if i32::from(sock.family) == libc::AF_UNIX {
            return true;
        }
        let since = sock.at_ns(
            sock.closed_ticks
                .max(sock.sent_ticks)
                .max(sock.received_ticks),
        );
        now_ns.saturating_sub(since.unwrap_or(sock.opened_ns)) > LOST_NS
            && sock.flags & SOCK_ACCEPT_UNOWNED == 0
    }

    /// Tells the engine of a socket that ended unseen.
    fn show_lost(&mut self, sk: u64, sock: &Sock, now_ns: u64) {
        let facts = self.facts_told(sk, sock);
        if let Some(&cohort) = self.chosen.get(&facts) {
            let ended = Ended {
                count: 1,
                lifetime_ns: now_ns.saturating_sub(sock.opened_ns),
                turns: u64::from(sock.turns),
            };
            self.engine.ended(cohort, role(sock), &ended);
        }
    }

    fn forget_lost(&mut self, lost: &[(u64, u64)]) -> std::io::Result<()> {
        for (sk, opened_ns) in lost {
            // between the scan and now the socket's memory may have become another socket
            if self
                .probes
                .socks
                .get(sk)?
                .is_some_and(|now| now.opened_ns == *opened_ns)
                && self.probes.socks.remove(sk)?
            {
                self.healed += 1;
            }
        }
        Ok(())
    }

    /// Forgets cohorts that the engine has forgotten, before there are too many.
    fn make_room(&mut self) {
        if !self.cohorts.is_crowded() {
            return;
        }
        let engine = &self.engine;
        self.cohorts.retain(|id| engine.knows(id));
        let cohorts = &self.cohorts;
        self.chosen.retain(|_, id| cohorts.get(*id).is_some());
        self.ends.retain(|id| cohorts.get(id).is_some());
    }

    /// What the cohort of a socket is chosen by, with what its own program says of it.
    pub(crate) fn facts_told(&mut self, sk: u64, sock: &Sock) -> Facts {
        let mut facts = self.facts(sk, sock);
        let Some(told) = self.told.of(sk, sock).map(|said| &said.told) else {
            return facts;
        };
        if let Some(stack) = told.stack {
            facts.request_stack = stack;
        }
        // A Go client's connection from before its probes. Go dials and sends on goroutines of its
        // own, whose stacks say nothing; whose it is may turn out when the same request is seen
        // again.
        facts.earlier = !told.server && told.stack.is_none() && facts.request.is_some();
        if facts.earlier {
            facts.attempt = u32::try_from(self.cohorts.len()).unwrap_or(u32::MAX);
        }
        facts
    }

    /// What the cohort of a socket is chosen by.
    fn facts(&mut self, sk: u64, sock: &Sock) -> Facts {
        let server = sock.role == ROLE_SERVER;
        // 0 where it had ended before anybody looked
        let started_ticks = self.people.opener(sock.tgid, sock.opened_ns).start_ticks;
        let gone = started_ticks == 0 || self.ended.contains(&sock.tgid);
        Facts {
            addr: if server { [0; 4] } else { sock.remote_addr },
            started_ticks,
            tgid: sock.tgid,
            heir: match self.holder(sock) {
                Holder::Other(pid) if gone => pid,
                _ => 0,
            },
            open_stack: self.tickets.settle(sk, sock.open_stack),
            request_stack: self.tickets.settle(sk, sock.request_stack),
            request: self.live.request(sk, sock.opened_ns),
            netns: if server { sock.netns } else { 0 },
            attempt: 0,
            earlier: false,
            port: if server {
                sock.local_port
            } else {
                sock.remote_port
            },
            family: sock.family,
            role: sock.role,
            ticketed: u8::from(sock.open_stack & STACK_TICKET != 0)
                | u8::from(sock.request_stack & STACK_TICKET != 0) << 1,
        }
    }

    /// Shows one socket to the engine.
    fn show(&mut self, sk: u64, sock: &Sock, now_ns: u64, totals: &mut Totals) {
        if sock.flags & SOCK_CLOSED != 0 {
            return;
        }
        totals.unowned += u64::from(sock.flags & SOCK_ACCEPT_UNOWNED != 0);
        let holder = self.holder(sock);
        if holder == Holder::Nobody {
            return;
        }
        totals.open += 1;
        let age_ns = now_ns.saturating_sub(sock.opened_ns);
        totals.lasting += u64::from(age_ns > LASTING_NS);
        let said = self.told.of(sk, sock).cloned();
        if let Some(number) = said.as_ref().and_then(|said| said.request) {
            self.live.set_request(sk, sock.opened_ns, number);
        }
        let facts = self.facts_told(sk, sock);
        if sock.tgid == 0 || facts.open_stack == STACK_NONE {
            totals.unattributed += 1;
        }
        if age_ns < YOUNG_NS || sock.tgid == 0 {
            totals.ownerless += u64::from(sock.tgid == 0 && age_ns > OWNED_WITHIN_NS);
            return;
        }
        let cohort = match self.chosen.get(&facts) {
            Some(&cohort) => cohort,
            None => {
                let Some(cohort) = self.choose_cohort(sock, &facts) else {
                    return;
                };
                if self.chosen.len() >= CHOSEN_MAX {
                    self.chosen.clear();
                }
                self.chosen.insert(facts, cohort);
                cohort
            }
        };
        let seen = self.as_seen(sk, sock, holder, &facts);
        if let Some(said) = said {
            self.note(cohort, &said, &seen);
        }
        self.engine.observe(cohort, role(sock), &seen);
    }

    /// A socket as the engine sees it, with what its own program says of it.
    pub(crate) fn as_seen(
        &mut self,
        sk: u64,
        sock: &Sock,
        holder: Holder,
        facts: &Facts,
    ) -> Connection {
        let mut seen = connection(sk, sock, holder);
        if let Some(request) = facts.request.and_then(|n| self.requests.value(n)) {
            seen.protocol = request.protocol();
        }
        if let Some(said) = self.told.of(sk, sock) {
            said.told.correct(&mut seen);
        } else if seen.fd.is_some() && sock.scan == self.scan && sock.role != ROLE_SERVER {
            seen.pool = self.runtimes.pool_state(sock.holder, sock.fd);
        }
        seen
    }

    /// Who has a descriptor, by the latest scan.
    pub(crate) fn holder(&self, sock: &Sock) -> Holder {
        if sock.scan == 0 || self.scan == 0 {
            // nobody can have one yet in a listener's backlog
            return Holder::Unknown;
        }
        if sock.scan != self.scan {
            return if sock.opened_ns < self.scan_began_ns {
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

    fn choose_cohort(&mut self, sock: &Sock, facts: &Facts) -> Option<CohortId> {
        let (open_stack, request_stack) = match facts.earlier {
            true => (STACK_NONE, STACK_NONE),
            false => (facts.open_stack, facts.request_stack),
        };
        let process = match facts.heir {
            0 => self.people.opener(sock.tgid, sock.opened_ns),
            heir => self.people.get(heir),
        };
        let role = role(sock);
        let family = requests::family(sock);
        let address = self.address(sock, family, role);
        let request = facts
            .request
            .and_then(|number| self.requests.value(number))
            .cloned();
        let remote = match role {
            Role::Client => requests::client_remote(family, &address, request.as_ref()),
            Role::Server => Arc::new(Remote {
                family,
                address: address.clone(),
                host: None,
                url: None,
            }),
        };
        let opener = self.site(open_stack);
        let (number, site_of) = if request_stack == STACK_NONE {
            (open_stack, moment(sock.open_stack_of))
        } else {
            (request_stack, StackOf::Request)
        };
        let mut site = self.site(number);
        let mut site_of = site_of;
        // An event loop sends when it may, not when it is asked to: then the opener says more.
        if opener_says_more(site.as_deref(), opener.as_deref()) {
            site.clone_from(&opener);
            site_of = moment(sock.open_stack_of);
        }
        // Helpers that dial and send give way to who has both done.
        if role == Role::Client
            && site_of == StackOf::Request
            && let (Some(opener), Some(request)) = (&opener, &site)
            && let Some(common) = helpers::common_owner(opener, request)
        {
            site = Some(Arc::new(common));
            site_of = moment(sock.open_stack_of);
        }
        if let (None, Some(request)) = (&site, request.as_ref().filter(|r| !r.method.is_empty())) {
            site = self.cohorts.sole_site(&process, &remote, request, role);
            site_of = StackOf::Request;
        }
        let cohort = self.cohorts.of(Member {
            process: &process,
            site,
            site_of,
            opener: if site_of == StackOf::Request {
                opener
            } else {
                None
            },
            remote: &remote,
            request: request.as_ref(),
            role,
        })?;
        if let Some(request) = request.filter(|r| !r.method.is_empty()) {
            self.cohorts
                .add_example(cohort, || requests::shown(family, &address, &request));
        }
        let coarse = ends::aggregate_key(sock, facts.open_stack, facts.request_stack);
        self.ends.belongs(coarse, cohort);
        Some(cohort)
    }

    /// A stack with names; `None` for no stack.
    pub(crate) fn site(&mut self, number: u32) -> Option<Arc<Site>> {
        if let Some(site) = self.runtimes.site(number) {
            return site;
        }
        (number != STACK_NONE).then(|| self.stacks.site(number))
    }

    /// The remote address of a client, the listening address of a server.
    pub(crate) fn address(&self, sock: &Sock, family: Family, role: Role) -> String {
        if family == Family::Unix {
            let hash = u64::from(sock.remote_addr[0]) | u64::from(sock.remote_addr[1]) << 32;
            return match self.probes.paths.get(&hash) {
                Ok(Some(path)) if hash != 0 => requests::unix_path(&path),
                _ => "(unnamed)".to_owned(),
            };
        }
        match role {
            Role::Client => socket_address(family, sock.remote_addr, sock.remote_port),
            Role::Server => {
                let key = tracer_ebpf::ListenKey {
                    netns: sock.netns,
                    port: u32::from(sock.local_port),
                };
                match self.probes.listeners.get(&key) {
                    Ok(Some(listener)) => {
                        let family = if listener.family == 10 {
                            Family::Tcp6
                        } else {
                            Family::Tcp4
                        };
                        socket_address(family, listener.addr, sock.local_port)
                    }
                    _ => socket_address(family, [0; 4], sock.local_port),
                }
            }
        }
    }
}

/// The role as the model has it; whose end is unknown counts as a client's.
pub fn role(sock: &Sock) -> Role {
    if sock.role == ROLE_SERVER {
        Role::Server
    } else {
        Role::Client
    }
}

/// The moment of the opener's stack.
fn moment(when: u8) -> StackOf {
    match when {
        WHEN_CONNECT => StackOf::Connect,
        WHEN_ACCEPT => StackOf::Accept,
        _ => StackOf::FirstIo,
    }
}

/// Whether the opener's stack has a frame to change where that of the latest request has none, or
/// one of the application's own where that has only a library's.
pub(crate) fn opener_says_more(request: Option<&Site>, opener: Option<&Site>) -> bool {
    let rank = |site: Option<&Site>| match site {
        Some(site) if site.own => 2,
        Some(site) => u8::from(site.call_site.is_some()),
        None => 0,
    };
    rank(opener) > rank(request)
}

/// Whether it is one end of a `socketpair`: a UNIX client has the path it connected to.
fn is_pair(sock: &Sock) -> bool {
    i32::from(sock.family) == libc::AF_UNIX
        && (sock.role == ROLE_PAIR || (sock.role != ROLE_SERVER && sock.remote_addr[..2] == [0, 0]))
}

/// A kernel record as the engine sees it.
pub fn connection(sk: u64, sock: &Sock, holder: Holder) -> Connection {
    Connection {
        sk,
        opened_ns: sock.opened_ns,
        sent_ns: sock.at_ns(sock.sent_ticks),
        received_ns: sock.at_ns(sock.received_ticks),
        turn_ns: sock.at_ns(sock.turn_ticks),
        peer_closed_ns: if sock.flags & SOCK_PEER_CLOSED == 0 {
            None
        } else {
            sock.at_ns(sock.peer_closed_ticks)
        },
        closed_ns: sock.at_ns(sock.closed_ticks),
        turns: sock.turns,
        unread: sock.unread,
        fd: (sock.fd >= 0).then_some(sock.fd),
        holder,
        connected: sock.flags & SOCK_CONNECTED != 0,
        reset: sock.flags & SOCK_RESET != 0,
        shutdown: sock.flags & SOCK_SHUTDOWN != 0,
        preexisting: sock.flags & SOCK_PREEXISTING != 0,
        error: sock.error,
        last_was_send: sock.last_direction == 1,
        awaited: match sock.awaited {
            AWAITED_BY_NOBODY => Some(false),
            AWAITED => Some(true),
            _ => None,
        },
        pair: is_pair(sock),
        pool: PoolState::Unknown,
        protocol: responses::protocol(sock),
        response: responses::response(sock),
    }
}
