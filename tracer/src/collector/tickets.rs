//! Tickets: stacks whose copies were on their way when the kernel noted them.

use std::collections::HashMap;

use tracer_ebpf::{STACK_NONE, STACK_TICKET};

use super::live::Live;

/// Tickets remembered; the kernel's own budget per process is far below.
const REMEMBERED: usize = 65_536;

/// Stack ids by socket and ticket.
#[derive(Debug, Default)]
pub struct Tickets {
    ids: HashMap<(u64, u32), (u64, u32)>,
}

impl Tickets {
    /// A copy was unwound.
    pub fn redeem(&mut self, sk: u64, opened_ns: u64, ticket: u32, id: u32) {
        if self.ids.len() < REMEMBERED {
            self.ids.insert((sk, ticket), (opened_ns, id));
        }
    }

    /// The stack id behind what the kernel noted.
    pub fn settle(&self, sk: u64, noted: u32) -> u32 {
        if noted & STACK_TICKET == 0 {
            return noted;
        }
        self.ids.get(&(sk, noted)).map_or(STACK_NONE, |&(_, id)| id)
    }

    /// Drops the tickets of sockets that are gone.
    pub fn retain_live(&mut self, live: &Live) {
        if self.ids.len() > REMEMBERED / 16 {
            self.ids
                .retain(|&(sk, _), &mut (opened_ns, _)| live.knows(sk, opened_ns));
        }
    }
}
