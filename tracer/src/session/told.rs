//! What programs say of their own connections, joined with the kernel's sockets.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use tracer_ebpf::Sock;

use super::{
    beside::Beside,
    cohorts::{Cohorts, Member},
    ends::Ends,
    interner::Interner,
    records::{self, YOUNG_NS},
    requests,
};
use crate::{
    engine::Engine,
    kernel::maps::Table,
    model::{CohortId, Connection, Ended, Holder, Owner, PoolState, Role, Site, StackOf},
    protocols::Request,
    runtimes::{
        Runtimes,
        told::{Stream, Told},
    },
};

/// Identity of a stream: process, address, start.
type StreamId = (u32, u64, u64);

/// What a program says of one socket.
#[derive(Debug, Clone)]
pub struct OfSocket {
    /// The runtime's place in the list.
    runtime: usize,
    /// What it says; its request is at `request`.
    pub told: Told,
    /// Number of the latest request.
    pub request: Option<u32>,
}

/// What programs said at the last sweep.
#[derive(Debug, Default)]
pub struct ToldOf {
    by_socket: HashMap<u64, OfSocket>,
    /// Streams that were shown, and where.
    streams: HashMap<StreamId, CohortId>,
    /// Connections closed by finalizers that the engine knows of, by process and stacks.
    collected: HashMap<(u32, u32, u32), u64>,
}

impl ToldOf {
    /// Asks all runtimes.
    ///
    /// # Errors
    /// The kernel's, when a map can't be read.
    pub fn refresh(
        &mut self,
        runtimes: &mut Runtimes,
        interner: &mut Interner<Request>,
        socks: &Table<u64, Sock>,
    ) -> io::Result<()> {
        self.by_socket.clear();
        for (runtime, of) in runtimes.iter_mut() {
            for mut told in of.refresh(socks)? {
                let request = told.request.take().and_then(|r| interner.number_of(&r));
                let said = OfSocket {
                    runtime,
                    told,
                    request,
                };
                self.by_socket.insert(said.told.sk, said);
            }
        }
        Ok(())
    }

    /// What its program says of a socket.
    pub fn of(&self, sk: u64, sock: &Sock) -> Option<&OfSocket> {
        self.by_socket
            .get(&sk)
            // The kernel may use a socket's memory again before the entry goes.
            .filter(|said| said.told.tgid == sock.tgid)
            .filter(|said| sock.inode == 0 || said.told.inode == sock.inode)
    }

    /// Shows requests that share connections to the engine as connections of their own: one that
    /// never ends is a leak, however healthy the connection that carries it. `followed` are those that
    /// no runtime tells of, but the kernel's programs.
    ///
    /// # Errors
    /// The kernel's, when a map can't be read.
    pub fn show_streams(
        &mut self,
        beside: &mut Beside<'_>,
        engine: &mut Engine,
        cohorts: &mut Cohorts,
        mut followed: Vec<Stream>,
        now_ns: u64,
    ) -> io::Result<()> {
        let all = beside.runtimes.iter_mut();
        let mut all: Vec<_> = all.map(|(place, of)| (Some(place), of.streams())).collect();
        let told: HashSet<u64> = all
            .iter()
            .flat_map(|(_, streams)| streams.iter().map(|stream| stream.sk))
            .collect();
        followed.retain(|stream| !told.contains(&stream.sk));
        all.push((None, followed));
        let mut seen = HashMap::new();
        for (place, streams) in all {
            for stream in streams {
                if now_ns.saturating_sub(stream.began_ns) < YOUNG_NS {
                    continue;
                }
                let id = (stream.tgid, stream.object, stream.began_ns);
                let cohort = match self.streams.get(&id) {
                    Some(&cohort) => Some(cohort),
                    None => stream_cohort(beside, cohorts, &stream, place.is_some())?,
                };
                let Some(cohort) = cohort else {
                    continue;
                };
                seen.insert(id, cohort);
                if let Some(runtime) = place.and_then(|place| beside.runtimes.at(place)) {
                    runtime.note_stream(cohort, stream.state);
                }
                engine.observe(cohort, Role::Client, &stream_connection(&stream));
            }
        }
        let before = std::mem::take(&mut self.streams);
        let ended = before.iter().filter(|(id, _)| !seen.contains_key(*id));
        for ((_, _, began_ns), cohort) in ended {
            let ended = Ended {
                count: 1,
                lifetime_ns: now_ns.saturating_sub(*began_ns),
                turns: 1,
            };
            engine.ended(*cohort, Role::Client, &ended);
        }
        self.streams = seen;
        Ok(())
    }

    /// Tells the engine which connections a garbage collector had to close.
    ///
    /// # Errors
    /// The kernel's, when a map can't be read.
    pub fn show_collected(
        &mut self,
        runtimes: &mut Runtimes,
        engine: &mut Engine,
        ends: &Ends,
    ) -> io::Result<()> {
        let mut all = Vec::new();
        for (_, runtime) in runtimes.iter_mut() {
            all.extend(runtime.collected()?);
        }
        for of in all {
            let stacks = (of.tgid, of.open_stack, of.request_stack);
            let told = self.collected.get(&stacks).copied().unwrap_or(0);
            let cohort = ends.with_stacks(of.tgid, of.open_stack, of.request_stack);
            if let Some(cohort) = cohort
                && of.count > told
            {
                engine.collected(cohort, Role::Client, of.count - told);
                self.collected.insert(stacks, of.count);
            }
        }
        Ok(())
    }

    /// Finalized connections that the engine knows of.
    pub fn save_collected(&self) -> Vec<((u32, u32, u32), u64)> {
        let all = self.collected.iter();
        all.map(|(key, count)| (*key, *count)).collect()
    }

    /// Takes over saved ones.
    pub fn restore_collected(&mut self, saved: Vec<((u32, u32, u32), u64)>) {
        self.collected = saved.into_iter().collect();
    }
}

impl OfSocket {
    /// Tells the runtime that the socket was shown.
    pub fn note(&self, runtimes: &mut Runtimes, cohort: CohortId, seen: &Connection) {
        if let Some(runtime) = runtimes.at(self.runtime) {
            runtime.note(cohort, &self.told, seen);
        }
    }
}

/// Whether a stack shows who asked: code of the application, or of a dependency.
fn asks(site: &Site) -> bool {
    let owner = site.call_site.and_then(|frame| site.owners.get(frame));
    site.own || owner == Some(&Owner::Dependency)
}

/// The population of a stream; `None` where it can't be known, or there is no room for it. Where its
/// runtime did not tell of it, the stack is that of the send, which may be an event loop's.
fn stream_cohort(
    beside: &mut Beside<'_>,
    cohorts: &mut Cohorts,
    stream: &Stream,
    told: bool,
) -> io::Result<Option<CohortId>> {
    let Some(sock) = beside.probes.socks.get(&stream.sk)? else {
        return Ok(None);
    };
    let Some(request) = stream.request.as_ref() else {
        return Ok(None);
    };
    let process = beside.processes.get(stream.tgid);
    let family = records::family(&sock);
    let address = records::address(beside.probes, &sock, family, Role::Client);
    let site = stream.stack.and_then(|id| beside.site(id));
    let site = site.filter(|site| told || asks(site));
    if told && let Some(number) = beside.requests.interner.number_of(request) {
        let latest = &mut beside.requests.latest;
        latest.set_request(stream.sk, sock.opened_ns, number);
    }
    let cohort = cohorts.of(Member {
        process: &process,
        site,
        site_of: StackOf::Request,
        opener: None,
        remote: &requests::client_remote(family, &address, Some(request)),
        request: Some(request),
        role: Role::Client,
    });
    if let Some(cohort) = cohort {
        cohorts.add_example(cohort, || {
            let kept = !beside.processes.is_annotated(&process);
            let example = kept.then(|| beside.requests.example(family, &address, request));
            example.flatten()
        });
    }
    Ok(cohort)
}

/// A stream in the form of a connection.
fn stream_connection(stream: &Stream) -> Connection {
    let began_ns = stream.began_ns;
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
        awaited: None,
        pair: false,
        pool: stream.state,
        protocol: crate::model::Protocol::Stream,
        response: None,
        in_transaction: false,
    }
}
