//! The daemon: one session on its own thread, an HTTP interface to what it knows.
//!
//! ```text
//!  requests ──► api (async, one thread) ──job──► worker thread ──► session::Session
//!  others   ◄── outward, where asked for ◄─event──┘
//! ```

mod about;
pub mod access;
mod answers;
mod api;
mod events;
pub mod metrics;
pub mod outward;
mod page;
pub mod routes;
mod server;
pub mod socket;
pub mod timeline;
mod worker;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::middleware::from_fn_with_state;
use thiserror::Error;
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{info, warn};

use self::{
    about::About,
    access::Access,
    metrics::Labels,
    outward::{Destinations, Outward},
    server::Listener,
    socket::BoundSocket,
    worker::{Telling, Worker},
};
use crate::cluster::{Cluster, Remotes, Wanted};
use crate::config::Ignore;
use crate::procs::{privileges, system_calls};
use crate::session::{Options, Session, SessionError, StartError};

/// Where the socket is when nothing else is said.
pub const SOCKET_DEFAULT: &str = "/run/tracer/tracer.sock";
/// How long connections may finish their requests at the end.
const GOODBYE: Duration = Duration::from_secs(3);

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whom to watch and how.
    pub options: Options,
    /// UNIX socket to serve on.
    pub socket: PathBuf,
    /// TCP address to serve on as well.
    pub listen: Option<SocketAddr>,
    /// Who may ask what over TCP.
    pub access: Access,
    /// What to ask the cluster, where something of it is wanted.
    pub cluster: Option<Wanted>,
    /// Findings to hide.
    pub ignore: Ignore,
    /// Labels of the metrics.
    pub labels: Labels,
    /// Who is told of changes.
    pub destinations: Destinations,
}

/// What is served, beside what a session knows.
struct Served {
    about: About,
    labels: Labels,
    ignore: Ignore,
    destinations: Destinations,
}

/// Why the daemon could not start or had to stop.
#[derive(Debug, Error)]
pub enum Error {
    /// The socket can't be had.
    #[error(transparent)]
    Socket(#[from] socket::Error),
    /// The TCP address can't be had.
    #[error("cannot listen on {address}: {error}; choose another address with --listen")]
    Listen {
        /// Address asked for.
        address: SocketAddr,
        /// The kernel's answer.
        error: std::io::Error,
    },
    /// The token file can't be used.
    #[error(transparent)]
    Token(#[from] access::TokenError),
    /// The session can't be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The session stopped working.
    #[error("stopped watching: {0}")]
    Broken(SessionError),
    /// The session's thread ended by itself.
    #[error("stopped watching: its thread ended")]
    Ended,
    /// The capabilities that are not needed could not be given up.
    #[error("cannot give up the capabilities that watching does not take: {0}")]
    Privileges(std::io::Error),
    /// The operating system refused threads, timers or signals.
    #[error("cannot run the daemon's loop: {0}")]
    Runtime(std::io::Error),
}

/// Serves until SIGTERM or SIGINT; then detaches everything and removes the socket.
///
/// # Errors
/// [`enum@Error`]; nothing stays attached and no socket file stays behind.
pub fn run(settings: Settings) -> Result<(), Error> {
    if let Some(file) = &settings.access.token_file {
        access::read_tokens(file)?;
    }
    let bound = socket::bind(&settings.socket)?;
    let tcp = settings.listen.map(listen).transpose()?;
    let tcp = tcp.map(|tcp| (tcp, settings.access));
    privileges::keep_what_watching_takes(settings.options.ask_jvms)
        .map_err(|error| Error::Privileges(error.into()))?;
    if let Err(error) = system_calls::refuse() {
        warn!("system calls that are never needed stay possible: {error}");
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let served = Served {
        about: About::of(&settings.options.target),
        labels: settings.labels,
        ignore: settings.ignore,
        destinations: settings.destinations,
    };
    let mut options = settings.options;
    if let Some(wanted) = settings.cluster {
        if let Some(node) = wanted.pods_of {
            let cluster = Cluster::default();
            options.cluster = Some(cluster.clone());
            runtime.spawn(cluster.keep(node, wanted.access.clone()));
        }
        if wanted.remotes {
            let remotes = Remotes::default();
            options.remotes = Some(remotes.clone());
            runtime.spawn(remotes.keep(wanted.access));
        }
    }
    let result = runtime.block_on(async {
        // Before the probes: a signal from here on leads to a clean end.
        let mut terminate = signal(SignalKind::terminate()).map_err(Error::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Runtime)?;
        let asked_to_end = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let start = move || Session::start(options);
        serve(bound, tcp, served, start, asked_to_end).await
    });
    // a destination's name may be looked up still, which cannot be broken off
    runtime.shutdown_background();
    result
}

fn listen(address: SocketAddr) -> Result<std::net::TcpListener, Error> {
    let result = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    result.map_err(|error| Error::Listen { address, error })
}

async fn serve<S: worker::Source>(
    bound: BoundSocket,
    tcp: Option<(std::net::TcpListener, Access)>,
    served: Served,
    start: impl FnOnce() -> Result<S, StartError> + Send + 'static,
    asked_to_end: impl Future<Output = ()>,
) -> Result<(), Error> {
    let unix = UnixListener::from_std(bound.listener().map_err(Error::Runtime)?)
        .map_err(Error::Runtime)?;

    let host = served.about.host.clone();
    let (outward, deliveries) = Outward::start(served.destinations, host);
    let telling = Telling {
        ignore: served.ignore,
        outward,
    };
    let (mut worker, ended) = Worker::spawn(start, telling).map_err(Error::Runtime)?;
    let router = api::router(Arc::new(worker.handle()), served.about, served.labels);
    let (stop, stopped) = watch::channel(());
    info!("listening on {}", bound.path().display());
    let unix = Listener::Unix(unix);
    let mut servers = vec![tokio::spawn(server::serve(
        unix,
        router.clone(),
        stopped.clone(),
    ))];
    if let Some((tcp, access)) = tcp {
        let tcp = TcpListener::from_std(tcp).map_err(Error::Runtime)?;
        if let Ok(address) = tcp.local_addr() {
            let what = match access.token_file {
                Some(_) => "for who has the token",
                None => {
                    "for metrics and probes only: the page there shows nothing without --token-file"
                }
            };
            info!("listening on http://{address} {what}");
        }
        let guard = from_fn_with_state(Arc::new(access), access::guard);
        let router = router.layer(guard);
        servers.push(tokio::spawn(server::serve(
            Listener::Tcp(tcp),
            router,
            stopped,
        )));
    }

    let result = tokio::select! {
        () = asked_to_end => Ok(()),
        ended = ended => match ended {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => Err(Error::Ended),
        },
    };
    if result.is_ok() {
        info!("stopping");
    }
    // The file first: whoever starts a successor must not find us.
    drop(bound);
    let _ = stop.send(());
    let goodbye = async {
        for server in servers {
            let _ = server.await;
        }
    };
    if tokio::time::timeout(GOODBYE, goodbye).await.is_err() {
        warn!("some clients did not finish their requests");
    }
    worker.stop();
    let last_events = async {
        for delivery in deliveries {
            let _ = delivery.await;
        }
    };
    if tokio::time::timeout(GOODBYE, last_events).await.is_err() {
        warn!("some events were not delivered");
    }
    result
}

#[cfg(test)]
mod tests;
