//! Go programs in a session: what their own connection pools say, joined with the kernel's sockets.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher as _},
    io,
    sync::Arc,
};

use tracer_ebpf::Sock;

use super::{GoConnection, GoKind, GoRequest, GoTracer, is_go_stack, notes, repeats::Repeats};
use crate::{
    kernel::{
        maps::Table,
        probes::{ProbeError, Probes},
    },
    model::{CohortId, Connection, GoPools, GoSettings, GoSight, Kind, PoolState, Site},
    procs::clock::monotonic_ns,
    protocols::{Request, Scheme, redact_target},
    runtimes::{
        Runtime,
        told::{Collected, Stream, Told},
        view::InView,
    },
    symbols::blame::Blame,
    unwind::modules::Modules,
};

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

/// A stream whose socket is not known after this time, nanoseconds, has ended.
const SOCKETLESS_NS: u64 = 10_000_000_000;
/// Who makes calls that have one answer.
const ONE_ANSWER: &str = "google.golang.org/grpc.invoke";
/// Stacks remembered.
const STACKS_MAX: usize = 16_384;
/// Stacks named at one sweep for whose goroutines' beginnings are to be watched.
const NEW_STACKS_MAX: usize = 64;
/// Pairs of transport and host whose peaks are remembered.
const HOSTS_MAX: usize = 16_384;

/// Transports told apart in one cohort; more are all alike.
const TRANSPORTS_MAX: usize = 4_096;

/// Go programs in a session.
#[derive(Debug)]
pub struct Go {
    wanted: bool,
    /// None until the kernel side is there.
    tracer: Option<GoTracer>,
    streams: Vec<Stream>,
    /// Whether stacks are of calls of grpc that have one answer.
    awaiting: HashMap<u32, bool>,
    repeats: Repeats,
    pools: HashMap<CohortId, Pools>,
    hosts: HashMap<u64, Host>,
}

impl Go {
    /// A view of nothing yet; whether Go programs are looked at.
    #[must_use]
    pub fn new(wanted: bool) -> Go {
        Go {
            wanted,
            tracer: None,
            streams: Vec::new(),
            awaiting: HashMap::new(),
            repeats: Repeats::default(),
            pools: HashMap::new(),
            hosts: HashMap::new(),
        }
    }
}

impl Runtime for Go {
    fn name(&self) -> &'static str {
        "Go"
    }

    fn begin(&mut self, probes: &mut Probes, blame: &Arc<Blame>) -> Result<(), ProbeError> {
        self.tracer = Some(GoTracer::new(probes, Arc::clone(blame))?);
        self.repeats = Repeats::new(Arc::clone(blame));
        Ok(())
    }

    fn attach(&mut self, process: &mut InView<'_>, probes: &mut Probes) -> io::Result<()> {
        let Some(tracer) = self.tracer.as_mut().filter(|_| self.wanted) else {
            return Ok(());
        };
        tracer.consider(probes, process.pid()).map(|_| ())
    }

    fn followed(&mut self, probes: &mut Probes, _: &mut Modules) {
        if let Some(tracer) = &mut self.tracer {
            tracer.look_again(probes);
            tracer.watch_creations(probes);
        }
    }

    fn version(&self, pid: u32) -> Option<String> {
        self.tracer.as_ref()?.version(pid).map(str::to_owned)
    }

    fn forget(&mut self, pid: u32) {
        self.awaiting.clear();
        self.repeats.forget(pid);
        if let Some(tracer) = &mut self.tracer {
            tracer.forget_process(pid);
        }
    }

    fn refresh(&mut self, socks: &Table<u64, Sock>) -> io::Result<Vec<Told>> {
        let mut told = Vec::new();
        self.streams.clear();
        self.pools.clear();
        for host in self.hosts.values_mut() {
            host.now = 0;
        }
        let Some(tracer) = &mut self.tracer else {
            return Ok(told);
        };
        let connections = tracer.sweep()?;
        let stacks = connections.iter().filter_map(|connection| connection.stack);
        tracer.name_new(stacks, NEW_STACKS_MAX);
        for connection in connections {
            self.repeats.add(&connection);
            if connection.kind == GoKind::Stream {
                if has_ended(&connection, socks)? {
                    tracer.forget_connection(&connection);
                    continue;
                }
                let mut stream = stream(&connection);
                let like = stream.stack.and_then(|stack| tracer.begun_like(stack));
                stream.stack = like.or(stream.stack);
                if stream.state == PoolState::Reading
                    && awaits_answer(tracer, &mut self.awaiting, stream.stack)
                {
                    stream.state = PoolState::InFlight;
                }
                self.streams.push(stream);
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
                tracer.forget_connection(&connection);
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
            let again = connection.stack.and_then(|stack| {
                let like = || tracer.site(tracer.begun_like(stack)?);
                self.repeats.site(stack).or_else(like)
            });
            told.push(Told {
                sk: connection.sk,
                inode: connection.inode,
                tgid: connection.tgid,
                state: connection.state,
                request: connection.request.as_ref().map(request),
                stack: connection.stack,
                requests: connection.requests,
                request_ns: connection.request_ns,
                server: connection.kind == GoKind::Server,
                fresh: connection.fresh,
                pool: connection.transport,
                host,
                again,
            });
        }
        if self.hosts.len() >= HOSTS_MAX {
            self.hosts.retain(|_, host| host.now > 0);
        }
        self.repeats.settle(|stack| tracer.site(stack));
        Ok(told)
    }

    fn streams(&mut self) -> Vec<Stream> {
        std::mem::take(&mut self.streams)
    }

    fn collected(&mut self) -> io::Result<Vec<Collected>> {
        let all = self.tracer.as_ref().map(GoTracer::finalized).transpose()?;
        let all = all.unwrap_or_default().into_iter();
        Ok(all
            .map(|(key, count)| Collected {
                tgid: key.tgid,
                open_stack: key.open_stack,
                request_stack: key.request_stack,
                count,
            })
            .collect())
    }

    fn note(&mut self, cohort: CohortId, told: &Told, seen: &Connection) {
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
            pools.transports.insert(told.pool);
        }
        if let Some(host) = told.host.and_then(|host| self.hosts.get(&host)) {
            pools.peak_per_host = pools.peak_per_host.max(host.peak);
        }
    }

    fn note_stream(&mut self, cohort: CohortId, state: PoolState) {
        let pools = self.pools.entry(cohort).or_default();
        *pools.states.entry(state_name(state)).or_default() += 1;
        pools.streams += 1;
        pools.requests += 1;
    }

    fn info(&mut self, cohort: CohortId, pid: u32, kind: Kind) -> Option<GoPools> {
        let tracer = self.tracer.as_mut()?;
        let program = tracer.program_of(pid)?;
        let mut info = GoPools {
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
        let settings = transport.and_then(|t| tracer.settings(pid, t));
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
        info.transport = settings.map(|s| GoSettings {
            max_conns_per_host: s.max_conns_per_host,
            max_idle_conns: s.max_idle_conns,
            max_idle_conns_per_host: s.max_idle_conns_per_host,
            idle_conn_timeout_seconds: s.idle_conn_timeout.as_secs_f64(),
            disable_keep_alives: s.disable_keep_alives,
        });
        info.notes = notes::go_notes(&info, kind);
        Some(info)
    }

    fn site(&mut self, number: u32) -> Option<Arc<Site>> {
        self.tracer.as_mut()?.site(number)
    }

    fn has_stack(&self, number: u32) -> bool {
        is_go_stack(number)
    }

    fn degraded(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        if !self.wanted {
            sentences.push("Go programs: only the kernel's view, as asked for".to_owned());
        }
        let Some(tracer) = &self.tracer else {
            return sentences;
        };
        for program in tracer.programs() {
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
        for pid in tracer.unreadable() {
            sentences.push(format!(
                "process {pid}: its memory can't be read (CAP_SYS_PTRACE is needed), so the state of \
                 its Go connections is what the kernel shows"
            ));
        }
        sentences
    }
}

/// Whether a stream's socket is gone: a transport that ends with its connection does not close what
/// had not been sent yet.
fn has_ended(of: &GoConnection, socks: &Table<u64, Sock>) -> io::Result<bool> {
    let Some(began_ns) = of.request_ns.filter(|_| of.sk != 0) else {
        return Ok(false);
    };
    if monotonic_ns().saturating_sub(began_ns) < SOCKETLESS_NS {
        return Ok(false);
    }
    let sock = socks.get(&of.sk)?;
    Ok(sock.is_none_or(|sock| sock.inode != 0 && of.inode != 0 && sock.inode != of.inode))
}

/// Whether a stack is of a call of grpc that has one answer, so that it waits for that as long as it
/// is open. What is not known does, too: it is no stream that goes on.
fn awaits_answer(
    tracer: &mut GoTracer,
    known: &mut HashMap<u32, bool>,
    stack: Option<u32>,
) -> bool {
    let Some(stack) = stack else { return true };
    if let Some(&awaits) = known.get(&stack) {
        return awaits;
    }
    let Some(site) = tracer.site(stack) else {
        return true;
    };
    let awaits = site.frames.iter().any(|f| f.function == ONE_ANSWER);
    if known.len() >= STACKS_MAX {
        known.clear();
    }
    known.insert(stack, awaits);
    awaits
}

fn stream(of: &GoConnection) -> Stream {
    Stream {
        tgid: of.tgid,
        object: of.object,
        sk: of.sk,
        fd: of.fd,
        state: of.state,
        request: of.request.as_ref().map(request),
        stack: of.stack,
        began_ns: of.request_ns.unwrap_or(of.last_progress_ns),
        last_progress_ns: of.last_progress_ns,
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
