//! What the cluster's API server tells, where it is asked: of this node's pods names, labels, what they
//! were made for, and whether they are to be left alone ([`Cluster`]); and names of remote addresses, from
//! services and their endpoints ([`Remotes`]). Of pods there is one watch, of metadata only: no
//! specification of a pod, in which a password may stand, ever comes in. Where pods are not asked for, or
//! the server does not answer, there are the names of folders ([`crate::procs::pods`]).

mod access;
mod directory;
mod namers;
mod node_pods;
mod object;
mod owner;
mod remotes;
mod services;
mod slices;
mod watch;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

pub use self::{access::Access, directory::Known};
use self::{
    directory::Directory, namers::Namers, node_pods::NodePods, remotes::Names, services::Service,
    slices::Slice,
};

/// What is to be asked of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// How it is reached.
    pub access: Access,
    /// The node whose pods are followed, where they are.
    pub pods_of: Option<String>,
    /// Names of remote addresses are.
    pub remotes: bool,
}

/// What is known of this node's pods: filled by [`watch::keep`], asked by the session.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    directory: Arc<Mutex<Directory>>,
}

impl Cluster {
    /// The pod with this uid, also if it has ended since.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Option<Arc<Known>> {
        self.directory().pod(uid, Instant::now())
    }

    /// What is not known, and why, as a sentence.
    #[must_use]
    pub fn degraded(&self) -> Option<String> {
        self.directory().degraded()
    }

    /// Follows the pods of a node, until the end of the runtime that this is spawned on.
    pub async fn keep(self, node: String, access: Access) {
        watch::keep(NodePods::of(node, self), &access).await;
    }

    fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same one.
impl PartialEq for Cluster {
    fn eq(&self, other: &Cluster) -> bool {
        Arc::ptr_eq(&self.directory, &other.directory)
    }
}

impl Eq for Cluster {}

/// What is known of remote addresses: filled by [`watch::keep`], asked by the session.
#[derive(Debug, Clone, Default)]
pub struct Remotes {
    names: Arc<Mutex<Names>>,
}

impl Remotes {
    /// The name of an address (`address:port`) for what was connected to it at this time, monotonic
    /// nanoseconds; with the port.
    #[must_use]
    pub fn name(&self, address: &str, opened_ns: u64) -> Option<String> {
        let at: SocketAddr = address.parse().ok()?;
        let names = self.names();
        let name = names.name(at, opened_ns)?;
        Some(format!("{name}:{}", at.port()))
    }

    /// What is not known, and why, as a sentence.
    #[must_use]
    pub fn degraded(&self) -> Option<String> {
        self.names().degraded()
    }

    /// Follows services and their endpoints, until the end of the runtime that this is spawned on.
    pub async fn keep(self, access: Access) {
        let services = Namers::<Service>::of(self.clone());
        let slices = Namers::<Slice>::of(self);
        tokio::join!(watch::keep(services, &access), watch::keep(slices, &access));
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same one.
impl PartialEq for Remotes {
    fn eq(&self, other: &Remotes) -> bool {
        Arc::ptr_eq(&self.names, &other.names)
    }
}

impl Eq for Remotes {}
