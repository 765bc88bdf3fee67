//! Go programs in a session: what their own connection pools say, joined with the kernel's sockets.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher as _},
    io,
    sync::Arc,
};

use tracer_ebpf::Sock;

use super::{GoConnection, GoKind, GoRequest, GoTracer, notes};
use crate::session::{
    Session,
    cohorts::Member,
    processes::People,
    requests,
    requests::{Interner, Request},
};
use crate::{
    kernel::{maps::Table, probes::Probes},
    model::{CohortId, Connection, Ended, Holder, Kind, PoolState, Role, Site, StackOf},
    procs,
    protocols::{Scheme, redact_target},
    report::{GoInfo, GoSight, GoTransport},
};

/// Streams younger than this are left alone, as sockets are.
const YOUNG_NS: u64 = 1_000_000_000;

/// What a Go program says of one of its client connections.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    /// State in the pool.
    state: PoolState,
    /// Number of the latest request.
    pub request: Option<u32>,
    /// Stack id of whoever issued it.
    pub stack: Option<u32>,
    /// Requests so far, which probes count for clients only.
    requests: u32,
    request_ns: Option<u64>,
    /// A connection of a server, which has no request and no transport.
    pub server: bool,
    fresh: bool,
    transport: u64,
    /// Transport and host of the latest request, as a hash.
    host: Option<u64>,
    tgid: u32,
    inode: u32,
}

impl Told {
    /// Puts what the pool knows in place of what the kernel guesses.
    pub fn correct(&self, connection: &mut Connection) {
        if self.server {
            // Which of them are served and which are idle is told in the report only: the rules
            // for servers go by what the kernel sees.
            return;
        }
        connection.pool = self.state;
        // Handshakes of TLS look like turns to the kernel.
        connection.turns = self.requests;
        connection.turn_ns = self.request_ns.or(connection.turn_ns);
    }
}

/// What the pools say of one cohort, as of the last sweep.
#[derive(Debug, Default)]
struct Pools {
    states: BTreeMap<&'static str, u64>,
    transports: HashSet<u64>,
    connections: u64,
    requests: u64,
    reused: u64,
    streams: u64,
    server: bool,
    peak_per_host: u64,
}

/// Connections of one transport to one host.
#[derive(Debug, Default)]
struct Host {
    now: u64,
    peak: u64,
}

/// Pairs of transport and host whose peaks are remembered.
const HOSTS_MAX: usize = 16_384;

/// Transports told apart in one cohort; more are all alike.
const TRANSPORTS_MAX: usize = 4_096;

/// Identity of a stream: process, address, start.
type StreamId = (u32, u64, u64);

/// The Go part of a session.
#[derive(Debug)]
pub struct GoView {
    tracer: GoTracer,
    probed: bool,
    considered: HashSet<u32>,
    by_socket: HashMap<u64, Told>,
    pools: HashMap<CohortId, Pools>,
    hosts: HashMap<u64, Host>,
    streams: Vec<GoConnection>,
    stream_cohorts: HashMap<StreamId, CohortId>,
    /// Connections closed by finalizers that the engine knows of, by process and stacks.
    collected: HashMap<(u32, u32, u32), u64>,
}

impl GoView {
    /// A view of nothing yet; `probed`: whether Go programs are looked at.
    pub fn new(tracer: GoTracer, probed: bool) -> GoView {
        GoView {
            tracer,
            probed,
            considered: HashSet::new(),
            by_socket: HashMap::new(),
            pools: HashMap::new(),
            hosts: HashMap::new(),
            streams: Vec::new(),
            stream_cohorts: HashMap::new(),
            collected: HashMap::new(),
        }
    }

    /// Looks at processes that came into view, and forgets those that went.
    pub fn follow(&mut self, probes: &mut Probes, people: &mut People, pids: &[u32]) {
        let gone: Vec<u32> = self
            .considered
            .iter()
            .copied()
            .filter(|pid| !pids.contains(pid))
            .collect();
        for pid in gone {
            self.forget(pid);
        }
        for &pid in pids {
            if self.probed && self.considered.insert(pid) {
                // A process that has just ended, or that may not be looked at, has no pools to ask.
                if let Err(error) = self.tracer.consider(probes, pid) {
                    if error.kind() == io::ErrorKind::WouldBlock {
                        self.considered.remove(&pid);
                    }
                    tracing::debug!(pid, %error, "not looked at as a Go program");
                }
                if let Some(version) = self.tracer.version(pid) {
                    people.set_runtime(pid, version);
                }
            }
        }
        self.tracer.look_again(probes);
    }

    /// Finalized connections that the engine knows of.
    pub fn collected(&self) -> Vec<((u32, u32, u32), u64)> {
        self.collected
            .iter()
            .map(|(key, count)| (*key, *count))
            .collect()
    }

    /// Takes over saved ones.
    pub fn restore_collected(&mut self, saved: Vec<((u32, u32, u32), u64)>) {
        self.collected = saved.into_iter().collect();
    }

    /// A process ended or runs another program now.
    pub fn forget(&mut self, pid: u32) {
        self.considered.remove(&pid);
        self.tracer.forget_process(pid);
    }

    /// Reads what the pools say now.
    pub fn refresh(
        &mut self,
        interner: &mut Interner<Request>,
        socks: &Table<u64, Sock>,
    ) -> io::Result<()> {
        self.by_socket.clear();
        self.streams.clear();
        self.pools.clear();
        for host in self.hosts.values_mut() {
            host.now = 0;
        }
        for connection in self.tracer.sweep()? {
            if connection.kind == GoKind::Stream {
                self.streams.push(connection);
                continue;
            }
            if connection.sk == 0 {
                continue;
            }
            // net/http does not say when the new owner closes what it handed over.
            if connection.state == PoolState::Released
                && socks
                    .get(&connection.sk)?
                    .is_none_or(|sock| sock.tgid != connection.tgid)
            {
                self.tracer.forget_connection(&connection);
                continue;
            }
            let host = connection
                .request
                .as_ref()
                .map(|r| hash(&(connection.tgid, connection.transport, r.https, &r.host)));
            if let Some(host) = host
                && (self.hosts.len() < HOSTS_MAX || self.hosts.contains_key(&host))
            {
                let host = self.hosts.entry(host).or_default();
                host.now += 1;
                host.peak = host.peak.max(host.now);
            }
            let request = connection.request.as_ref().map(request);
            let told = Told {
                state: connection.state,
                request: request.and_then(|r| interner.number_of(&r)),
                stack: connection.stack,
                requests: connection.requests,
                request_ns: connection.request_ns,
                server: connection.kind == GoKind::Server,
                fresh: connection.fresh,
                transport: connection.transport,
                host,
                tgid: connection.tgid,
                inode: connection.inode,
            };
            self.by_socket.insert(connection.sk, told);
        }
        if self.hosts.len() >= HOSTS_MAX {
            self.hosts.retain(|_, host| host.now > 0);
        }
        Ok(())
    }

    /// What the program says of a socket.
    pub fn of(&self, sk: u64, sock: &Sock) -> Option<Told> {
        self.by_socket
            .get(&sk)
            // The kernel may use a socket's memory again before the entry goes.
            .filter(|told| told.tgid == sock.tgid)
            .filter(|told| sock.inode == 0 || told.inode == sock.inode)
            .copied()
    }

    /// Notes that a connection was shown in a cohort.
    pub fn note(&mut self, cohort: CohortId, told: &Told, seen: &Connection) {
        let pools = self.pools.entry(cohort).or_default();
        let state = match (told.server, told.fresh) {
            (true, true) => "new",
            (true, false) => server_state_name(told.state),
            (false, _) => state_name(told.state),
        };
        *pools.states.entry(state).or_default() += 1;
        pools.connections += 1;
        pools.requests += u64::from(seen.turns);
        pools.reused += u64::from(seen.turns.saturating_sub(1));
        pools.server |= told.server;
        if !told.server && pools.transports.len() < TRANSPORTS_MAX {
            pools.transports.insert(told.transport);
        }
        if let Some(host) = told.host.and_then(|host| self.hosts.get(&host)) {
            pools.peak_per_host = pools.peak_per_host.max(host.peak);
        }
    }

    /// What the pools say of a cohort, and what that means for a kind of leak.
    pub fn info(&mut self, cohort: CohortId, pid: u32, kind: Kind) -> Option<GoInfo> {
        let program = self.tracer.program_of(pid)?;
        let mut info = GoInfo {
            main_module: program.binary.info.main_module.clone(),
            view: GoSight::Pools,
            offsets_from: program.offsets_from,
            notes: Vec::new(),
            states: BTreeMap::new(),
            transports: 0,
            requests_per_connection: 0.0,
            reuse_ratio: 0.0,
            peak_per_host: 0,
            goroutines: 0,
            transport: None,
        };
        if let Some(reason) = &program.kernel_only {
            info.view = GoSight::Kernel;
            info.notes.push(format!(
                "Its own pools were not asked, because {reason}: call site, URL and condition are \
                 those that the kernel shows."
            ));
            return Some(info);
        }
        let Some(pools) = self.pools.get(&cohort) else {
            // Connections of its own, or of a transport that no probe knows.
            let unseen = program.unseen.iter();
            info.view = GoSight::Kernel;
            info.notes = unseen
                .map(|unseen| format!("Of this program, {unseen}."))
                .collect();
            return (!info.notes.is_empty()).then_some(info);
        };
        // The first, so that every report asks the same one.
        let transport = pools.transports.iter().copied().min();
        let settings = transport.and_then(|t| self.tracer.settings(pid, t));
        info.states = pools
            .states
            .iter()
            .map(|(&state, &count)| (state.to_owned(), count))
            .collect();
        info.transports = pools.transports.len() as u64;
        info.requests_per_connection = match pools.connections + pools.streams {
            0 => 0.0,
            n => (pools.requests as f64 / n as f64 * 100.0).round() / 100.0,
        };
        info.reuse_ratio = match pools.requests {
            0 => 0.0,
            n => (pools.reused as f64 / n as f64 * 100.0).round() / 100.0,
        };
        info.peak_per_host = pools.peak_per_host;
        info.goroutines = match pools.server {
            true => pools.connections,
            false => 2 * pools.connections + pools.streams,
        };
        info.transport = settings.map(|s| GoTransport {
            max_conns_per_host: s.max_conns_per_host,
            max_idle_conns: s.max_idle_conns,
            max_idle_conns_per_host: s.max_idle_conns_per_host,
            idle_conn_timeout_seconds: s.idle_conn_timeout.as_secs_f64(),
            disable_keep_alives: s.disable_keep_alives,
        });
        info.notes = notes::go_notes(&info, kind);
        Some(info)
    }

    /// The stack of a request, by an id with [`tracer_ebpf::STACK_GO`].
    pub fn site(&mut self, id: u32) -> Option<Arc<Site>> {
        self.tracer.site(id)
    }

    /// Sentences about Go programs whose pools can't be asked.
    pub fn degraded(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if !self.probed {
            sentences.push("Go programs: only the kernel's view, as asked for".to_owned());
        }
        for program in self.tracer.programs() {
            if let Some(reason) = &program.kernel_only {
                sentences.push(format!(
                    "{}: only the kernel's view, because {reason}",
                    program.path
                ));
            }
            for unseen in &program.unseen {
                sentences.push(format!("{}: {unseen}", program.path));
            }
        }
        for pid in self.tracer.unreadable() {
            sentences.push(format!(
                "process {pid}: its memory can't be read (CAP_SYS_PTRACE is needed), so the state of \
                 its Go connections is what the kernel shows"
            ));
        }
        sentences
    }
}

fn request(request: &GoRequest) -> Request {
    Request {
        method: request.method.clone(),
        target: redact_target(request.target.as_bytes(), request.cut),
        host: (!request.host.is_empty()).then(|| request.host.clone()),
        scheme: if request.https {
            Scheme::Https
        } else {
            Scheme::Http
        },
    }
}

impl Session {
    /// Brings the Go programs in view up to date. `scan`: look for new processes of the whole
    /// host, too.
    pub(crate) fn follow_go(&mut self, scan: bool) {
        let pids = if self.target.is_host() {
            if !scan {
                return;
            }
            procs::all()
        } else {
            self.alive.clone()
        };
        self.go.follow(&mut self.probes, &mut self.people, &pids);
        (self.runtimes).follow(&pids, self.stacks.modules(), &mut self.probes);
    }

    /// Shows the HTTP/2 streams to the engine as connections of their own: one that is never ended
    /// is a leak, however healthy the connection that carries it.
    pub(crate) fn show_streams(&mut self, now_ns: u64) -> io::Result<()> {
        let streams = std::mem::take(&mut self.go.streams);
        let mut seen = HashMap::new();
        for stream in &streams {
            let began_ns = stream.request_ns.unwrap_or(stream.last_progress_ns);
            if now_ns.saturating_sub(began_ns) < YOUNG_NS {
                continue;
            }
            let id = (stream.tgid, stream.object, began_ns);
            let cohort = match self.go.stream_cohorts.get(&id) {
                Some(&cohort) => Some(cohort),
                None => self.stream_cohort(stream)?,
            };
            if let Some(cohort) = cohort {
                seen.insert(id, cohort);
                let pools = self.go.pools.entry(cohort).or_default();
                *pools.states.entry(state_name(stream.state)).or_default() += 1;
                pools.streams += 1;
                pools.requests += 1;
                let connection = stream_connection(stream, began_ns);
                self.engine.observe(cohort, Role::Client, &connection);
            }
        }
        for ((_, _, began_ns), cohort) in self
            .go
            .stream_cohorts
            .iter()
            .filter(|(id, _)| !seen.contains_key(*id))
        {
            let ended = Ended {
                count: 1,
                lifetime_ns: now_ns.saturating_sub(*began_ns),
                turns: 1,
            };
            self.engine.ended(*cohort, Role::Client, &ended);
        }
        self.go.stream_cohorts = seen;
        self.go.streams = streams;
        Ok(())
    }

    /// Tells the engine which connections the garbage collector had to close.
    pub(crate) fn show_collected(&mut self) -> io::Result<()> {
        for (key, count) in self.go.tracer.finalized()? {
            let stacks = (key.tgid, key.open_stack, key.request_stack);
            let told = self.go.collected.get(&stacks).copied().unwrap_or(0);
            let cohort = self
                .by_aggregate
                .iter()
                .find(|(of, _)| (of.tgid, of.open_stack, of.request_stack) == stacks);
            if let Some((_, &cohort)) = cohort
                && count > told
            {
                self.engine.collected(cohort, Role::Client, count - told);
                self.go.collected.insert(stacks, count);
            }
        }
        Ok(())
    }

    fn stream_cohort(&mut self, stream: &GoConnection) -> io::Result<Option<CohortId>> {
        let Some(sock) = self.probes.socks.get(&stream.sk)? else {
            return Ok(None);
        };
        let Some(request) = stream.request.as_ref().map(request) else {
            return Ok(None);
        };
        let process = self.people.get(stream.tgid);
        let family = requests::family(&sock);
        let address = self.address(&sock, family, Role::Client);
        let site = stream.stack.and_then(|id| self.go.site(id));
        let cohort = self.cohorts.of(Member {
            process: &process,
            site,
            site_of: StackOf::Request,
            opener: None,
            remote: &requests::client_remote(family, &address, Some(&request)),
            request: Some(&request),
            role: Role::Client,
        });
        if let Some(cohort) = cohort {
            self.cohorts
                .add_example(cohort, || requests::shown(family, &address, &request));
        }
        Ok(cohort)
    }
}

/// Names in the report.
fn state_name(state: PoolState) -> &'static str {
    match state {
        PoolState::Unknown => "unknown",
        PoolState::InFlight => "in_flight",
        PoolState::Response => "response",
        PoolState::Reading => "reading",
        PoolState::Idle => "idle",
        PoolState::Released => "handed_over",
    }
}

/// As `net/http.ConnState` calls them.
fn server_state_name(state: PoolState) -> &'static str {
    match state {
        PoolState::InFlight => "active",
        PoolState::Released => "hijacked",
        state => state_name(state),
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A stream in the form of a connection.
fn stream_connection(stream: &GoConnection, began_ns: u64) -> Connection {
    let responded = matches!(stream.state, PoolState::Response | PoolState::Reading);
    Connection {
        sk: stream.object,
        opened_ns: began_ns,
        sent_ns: Some(began_ns),
        received_ns: responded.then_some(stream.last_progress_ns),
        turn_ns: Some(began_ns),
        peer_closed_ns: None,
        closed_ns: None,
        turns: 1,
        unread: 0,
        fd: stream.fd,
        holder: Holder::Opener,
        connected: true,
        reset: false,
        shutdown: false,
        preexisting: false,
        error: 0,
        last_was_send: !responded,
        pair: false,
        pool: stream.state,
        protocol: crate::model::Protocol::Http,
        response: None,
    }
}
