//! Streams of HTTP/2, as the kernel side follows them by their frames: in the clear, and inside TLS.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use aya::maps::{MapData, RingBuf};
use tracer_ebpf::{
    Block, Http2, STACK_GO, STACK_NONE, STACK_TICKET, STREAM_ANSWERED, Sock, StreamKey,
};

use super::{
    interner::Interner,
    pending_stacks::PendingStacks,
    requests::Requests,
    tls_streams::{Carrier, TlsConnections, is_of_tls},
};
use crate::{
    kernel::{
        maps::Table,
        probes::{ProbeError, Probes},
    },
    model::PoolState,
    protocols::{Http2Block, Http2Requests, Request, Scheme},
    runtimes::told::Stream,
};

/// What is known of one connection's requests.
#[derive(Debug)]
struct Of {
    opened_ns: u64,
    requests: Http2Requests,
}

/// The streams of all connections.
pub struct Streams {
    ring: RingBuf<MapData>,
    connections: Table<u64, Http2>,
    tls: TlsConnections,
    streams: Table<StreamKey, tracer_ebpf::Stream>,
    known: HashMap<u64, Of>,
    /// Opening time of the connection, and number of the request, by connection and stream.
    requests: HashMap<(u64, u32), (u64, u32)>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams")
            .field("connections", &self.known.len())
            .field("requests", &self.requests.len())
            .finish_non_exhaustive()
    }
}

impl Streams {
    /// Those of the programs that were loaded.
    ///
    /// # Errors
    /// When a map is not there, or can't be used.
    pub fn new(probes: &mut Probes) -> Result<Streams, ProbeError> {
        Ok(Streams {
            ring: probes.header_blocks()?,
            connections: probes.table("HTTP2")?,
            tls: TlsConnections::new(probes)?,
            streams: probes.table("STREAMS")?,
            known: HashMap::new(),
            requests: HashMap::new(),
        })
    }

    /// Takes in the header blocks that were sent since the last time.
    ///
    /// # Errors
    /// The kernel's, when a map can't be read.
    pub fn take(&mut self, of_session: &mut Requests, socks: &Table<u64, Sock>) -> io::Result<()> {
        self.tls.refresh(socks)?;
        while let Some(record) = self.ring.next() {
            let Some((head, rest)) = record.split_at_checked(size_of::<Block>()) else {
                continue;
            };
            let Ok(head) = tracer_ebpf::decode::<Block>(head) else {
                continue;
            };
            let block = Http2Block {
                number: head.number,
                flags: head.flags,
                cut: head.cut != 0,
                payload: rest.get(..head.len as usize).unwrap_or(rest),
            };
            let new = || Of {
                opened_ns: head.opened_ns,
                requests: Http2Requests::default(),
            };
            let known = self.known.entry(head.sk).or_insert_with(new);
            if known.opened_ns != head.opened_ns {
                *known = new();
            }
            let inside = is_of_tls(head.sk);
            let scheme = if inside { Scheme::Https } else { Scheme::Http };
            let said = known.requests.read(&block, scheme);
            if let Some(number) = said.and_then(|said| of_session.interner.number_of(&said)) {
                if inside {
                    self.tls.set_request(head.sk, number);
                } else {
                    of_session
                        .latest
                        .set_request(head.sk, head.opened_ns, number);
                }
                self.requests
                    .insert((head.sk, head.stream), (head.opened_ns, number));
            }
        }
        self.tls.hand_on(of_session);
        Ok(())
    }

    /// The streams that are open and whose beginning was seen. Of those whose connection ended, or
    /// lost a frame, nothing is known: they are dropped.
    ///
    /// # Errors
    /// The kernel's, when a map can't be read.
    pub fn open(
        &mut self,
        interner: &Interner<Request>,
        pending: &mut PendingStacks,
    ) -> io::Result<Vec<Stream>> {
        let mut connections = HashMap::new();
        self.connections.for_each(|&sk, of| {
            connections.insert(sk, *of);
        })?;
        self.tls
            .forget_others(&mut connections, &self.connections)?;
        self.known.retain(|sk, _| connections.contains_key(sk));
        let mut open = Vec::new();
        let (mut dropped, mut present) = (Vec::new(), HashSet::new());
        let requests = &self.requests;
        self.streams.for_each(|key, stream| {
            let of = connections.get(&key.sk);
            let followed = of.is_some_and(|of| {
                of.opened_ns == stream.opened_ns && of.since_ns <= stream.began_ns
            });
            if !followed {
                dropped.push(*key);
                return;
            }
            present.insert((key.sk, key.stream));
            let sk = match self.tls.carrier(key.sk) {
                Carrier::Itself => key.sk,
                Carrier::Socket(sk) => sk,
                // what becomes of its streams, or whose they are, can't be seen
                Carrier::Unknown => return,
            };
            // its runtime tells of it
            if stream.stack & (STACK_GO | STACK_TICKET) == STACK_GO {
                return;
            }
            let request = requests
                .get(&(key.sk, key.stream))
                .filter(|(opened_ns, _)| *opened_ns == stream.opened_ns)
                .and_then(|&(_, number)| interner.value(number));
            let stack = pending.settle(key.sk, stream.stack);
            open.push(Stream {
                tgid: stream.tgid,
                object: key.sk << 32 | u64::from(key.stream),
                sk,
                fd: None,
                // whether somebody waits for the rest can't be seen
                state: match stream.state {
                    STREAM_ANSWERED => PoolState::Reading,
                    _ => PoolState::InFlight,
                },
                request: request.cloned(),
                stack: (stack != STACK_NONE).then_some(stack),
                began_ns: stream.began_ns,
                last_progress_ns: stream.progress_ns.max(stream.began_ns),
            });
        })?;
        self.requests.retain(|key, _| present.contains(key));
        for key in dropped {
            self.streams.remove(&key)?;
        }
        Ok(open)
    }
}
