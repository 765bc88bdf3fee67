//! What user space remembers of each live socket between sweeps: little, because there may be a
//! million.

use std::collections::HashMap;

use crate::model::CohortId;

/// No request or cohort yet.
const NONE: u32 = u32::MAX;

/// One socket.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    opened_ns: u64,
    /// Number of the latest request.
    request: u32,
    cohort: u32,
    /// Hash of what the cohort was chosen by.
    chosen_by: u32,
    /// Sweep that saw it last.
    sweep: u32,
}

/// All sockets.
#[derive(Debug, Default)]
pub struct Live {
    sockets: HashMap<u64, Memory>,
    sweep: u32,
}

impl Live {
    /// Begins a sweep.
    pub fn begin(&mut self) {
        self.sweep = self.sweep.wrapping_add(1);
    }

    /// Forgets the sockets that the sweep did not see.
    pub fn end(&mut self) {
        let sweep = self.sweep;
        self.sockets.retain(|_, memory| memory.sweep == sweep);
        if self.sockets.capacity() > 4 * self.sockets.len() + 1024 {
            self.sockets.shrink_to_fit();
        }
    }

    /// What is known of a socket, marked as seen; a reused address begins anew.
    pub fn memory(&mut self, sk: u64, opened_ns: u64) -> &mut Memory {
        let fresh = Memory {
            opened_ns,
            request: NONE,
            cohort: NONE,
            chosen_by: 0,
            sweep: self.sweep,
        };
        let memory = self.sockets.entry(sk).or_insert(fresh);
        if memory.opened_ns != opened_ns {
            *memory = fresh;
        }
        memory.sweep = self.sweep;
        memory
    }

    /// Whether the last sweep saw it.
    pub fn knows(&self, sk: u64, opened_ns: u64) -> bool {
        self.sockets
            .get(&sk)
            .is_some_and(|m| m.opened_ns == opened_ns)
    }

    /// The cohort a socket was last put into.
    pub fn cohort(&self, sk: u64, opened_ns: u64) -> Option<CohortId> {
        let memory = self.sockets.get(&sk).filter(|m| m.opened_ns == opened_ns)?;
        (memory.cohort != NONE).then_some(CohortId(memory.cohort))
    }
}

impl Memory {
    /// The latest request's number.
    pub fn request(&self) -> Option<u32> {
        (self.request != NONE).then_some(self.request)
    }

    /// Sets it.
    pub fn set_request(&mut self, number: u32) {
        self.request = number;
    }

    /// The cohort, if it was chosen by the same facts.
    pub fn cohort(&self, chosen_by: u32) -> Option<CohortId> {
        (self.cohort != NONE && self.chosen_by == chosen_by).then_some(CohortId(self.cohort))
    }

    /// Sets it.
    pub fn set_cohort(&mut self, cohort: CohortId, chosen_by: u32) {
        self.cohort = cohort.0;
        self.chosen_by = chosen_by;
    }
}

#[cfg(test)]
mod tests {
    use super::{CohortId, Live};

    #[test]
    fn a_reused_address_begins_anew_and_unseen_sockets_are_forgotten() {
        let mut live = Live::default();
        live.begin();
        live.memory(1, 10).set_request(7);
        live.memory(1, 10).set_cohort(CohortId(3), 5);
        live.end();
        assert_eq!(live.cohort(1, 10), Some(CohortId(3)));
        assert_eq!(live.memory(1, 10).cohort(6), None);
        assert_eq!(live.memory(1, 11).request(), None);
        live.begin();
        live.end();
        assert_eq!(live.cohort(1, 11), None);
    }
}
