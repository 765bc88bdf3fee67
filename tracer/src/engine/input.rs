//! What the engine is told, as values: for whoever keeps it, and tells it again later.

use std::fmt;

use super::{Engine, Lineage};
use crate::model::{CohortId, Connection, Ended, Role};

/// One thing that the engine is told, in the order of its methods.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Input<'a> {
    /// [`Engine::enroll`].
    Enroll(CohortId, Role, Lineage),
    /// [`Engine::begin_sweep`].
    Begin {
        /// Time of the sweep, nanoseconds of `CLOCK_MONOTONIC`.
        now_ns: u64,
        /// It agrees with the kernel's own lists.
        reconciled: bool,
    },
    /// [`Engine::observe`].
    Observe(CohortId, Role, &'a Connection),
    /// [`Engine::ended`].
    Ended(CohortId, Role, &'a Ended),
    /// [`Engine::collected`].
    Collected(CohortId, Role, u64),
    /// [`Engine::end_sweep`].
    End,
    /// [`Engine::judge`], which remembers whom it suspects.
    Judge,
}

/// Somebody who is told everything that the engine is told.
pub trait Observer: fmt::Debug + Send {
    /// Right before the engine takes it in.
    fn told(&mut self, input: Input<'_>);
}

impl Engine {
    /// Has everything from here on told to `observer`, too.
    pub fn observed_by(&mut self, observer: Box<dyn Observer>) {
        self.observer = Some(observer);
    }

    pub(super) fn tell(&mut self, input: Input<'_>) {
        if let Some(observer) = &mut self.observer {
            observer.told(input);
        }
    }
}
