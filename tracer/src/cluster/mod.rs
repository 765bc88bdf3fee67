//! What the cluster's API server tells of this node's pods: names, labels, what they were made for,
//! and whether they are to be left alone. One watch, of metadata only: no specification of a pod,
//! in which a password may stand, ever comes in. Where it is not asked for, or does not answer,
//! there are the names of folders ([`crate::procs::pods`]).

mod access;
mod directory;
mod object;
mod owner;
mod watch;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use self::directory::Directory;
pub use self::{access::Access, directory::Known};

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
    pub async fn keep(self, access: Access) {
        watch::keep(&self, &access).await;
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
