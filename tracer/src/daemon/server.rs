//! Serving HTTP/1 to clients that may be slow, many, or hostile: each has a bound of time and room,
//! and costs nobody else anything.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

use crate::refused::Refusal;

/// Connections at one time, on each listener.
const CONNECTIONS_MAX: usize = 64;
/// Connections at one time from one address.
const CONNECTIONS_OF_ADDRESS_MAX: usize = 16;
/// Time for a request's head to arrive, from the connection's or the last answer's end on.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// Largest head of a request.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Lines in a head.
const HEADERS_MAX: usize = 64;
/// A connection is closed after this long, whatever it does: one that reads its answer byte by byte
/// holds its place no longer.
const CONNECTION_TIME: Duration = Duration::from_secs(120);
/// Rest after the kernel refused to accept, for want of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// A listening socket.
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Listener {
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Option<IpAddr>)> {
        Ok(match self {
            Listener::Unix(listener) => (Box::new(listener.accept().await?.0), None),
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                (Box::new(stream), Some(peer.ip()))
            }
        })
    }
}

/// Serves until `stopped` changes, and the requests under way to their end.
pub(super) async fn serve(listener: Listener, router: Router, mut stopped: watch::Receiver<()>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let peers = Arc::new(Peers::default());
    let mut connections = JoinSet::new();
    let end = stopped.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => break,
        };
        // Those that have ended are let go of.
        while connections.try_join_next().is_some() {}
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a client could not be accepted");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        // Who comes while all places are taken is sent away at once.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            Refusal::ClientPlaces.count();
            continue;
        };
        let Some(seat) = Peers::seat(&peers, peer) else {
            Refusal::ClientAddress.count();
            continue;
        };
        connections.spawn(connection(stream, router.clone(), end.clone(), place, seat));
    }
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: Box<dyn Stream>,
    router: Router,
    mut stopped: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
    _seat: Seat,
) {
    let service = TowerToHyperService::new(router);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = timeout(CONNECTION_TIME, async {
        tokio::select! {
            ended = serving.as_mut() => ended,
            _ = stopped.changed() => {
                serving.as_mut().graceful_shutdown();
                serving.as_mut().await
            }
        }
    });
    match ended.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            if error.is_timeout() {
                Refusal::ClientSlow.count();
            } else if error.is_parse() || error.is_parse_too_large() {
                Refusal::ClientNonsense.count();
            }
            tracing::debug!(%error, "a client's connection failed");
        }
        Err(_) => Refusal::ClientLong.count(),
    }
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Peers(Mutex<HashMap<IpAddr, usize>>);

impl Peers {
    /// A seat for one more connection of an address; those of the local socket have no address.
    fn seat(peers: &Arc<Peers>, peer: Option<IpAddr>) -> Option<Seat> {
        if let Some(peer) = peer {
            let mut all = peers.0.lock().unwrap_or_else(PoisonError::into_inner);
            let seats = all.entry(peer).or_default();
            if *seats >= CONNECTIONS_OF_ADDRESS_MAX {
                return None;
            }
            *seats += 1;
        }
        Some(Seat {
            peers: Arc::clone(peers),
            peer,
        })
    }
}

/// One connection of an address.
#[derive(Debug)]
struct Seat {
    peers: Arc<Peers>,
    peer: Option<IpAddr>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(peer) = self.peer else { return };
        let mut all = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seats) = all.get_mut(&peer) {
            *seats -= 1;
            if *seats == 0 {
                all.remove(&peer);
            }
        }
    }
}
