//! PendingStacks: stacks whose copies were on their way when the kernel noted them.

use std::collections::HashMap;

use tracer_ebpf::{STACK_NONE, STACK_TICKET};

/// PendingStacks remembered; the kernel's own budget per process is far below.
const REMEMBERED: usize = 65_536;

/// Stack ids by socket and ticket. Copies that were taken before there was a socket are kept under
/// 0: a ticket's number alone is seldom used twice, and only within one thread's few moments.
#[derive(Debug, Default)]
pub struct PendingStacks {
    ids: HashMap<(u64, u32), Redeemed>,
    sweep: u32,
}

#[derive(Debug, Clone, Copy)]
struct Redeemed {
    id: u32,
    /// Sweep that saw it last, or during which it came.
    sweep: u32,
}

impl PendingStacks {
    /// A copy was unwound.
    pub fn redeem(&mut self, sk: u64, ticket: u32, id: u32) {
        if self.ids.len() < REMEMBERED {
            let sweep = self.sweep;
            self.ids.insert((sk, ticket), Redeemed { id, sweep });
        }
    }

    /// The stack id behind what the kernel noted.
    pub fn settle(&mut self, sk: u64, noted: u32) -> u32 {
        if noted & STACK_TICKET == 0 {
            return noted;
        }
        let key = [(sk, noted), (0, noted)]
            .into_iter()
            .find(|key| self.ids.contains_key(key));
        match key.and_then(|key| self.ids.get_mut(&key)) {
            Some(redeemed) => {
                redeemed.sweep = self.sweep;
                redeemed.id
            }
            None => STACK_NONE,
        }
    }

    /// Socket, ticket and id of each.
    pub fn save(&self) -> Vec<(u64, u32, u32)> {
        let all = self.ids.iter();
        all.map(|(&(sk, ticket), redeemed)| (sk, ticket, redeemed.id))
            .collect()
    }

    /// Takes over saved ones.
    pub fn restore(&mut self, saved: Vec<(u64, u32, u32)>) {
        for (sk, ticket, id) in saved {
            self.redeem(sk, ticket, id);
        }
    }

    /// Begins a sweep.
    pub fn begin(&mut self) {
        self.sweep = self.sweep.wrapping_add(1);
    }

    /// Drops the tickets that neither this sweep nor the one before asked for.
    pub fn end(&mut self) {
        if self.ids.len() > REMEMBERED / 16 {
            let sweep = self.sweep;
            self.ids
                .retain(|_, redeemed| sweep.wrapping_sub(redeemed.sweep) <= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_kept_while_sockets_ask_for_them() {
        let mut tickets = PendingStacks::default();
        for sk in 0..5_000 {
            tickets.redeem(sk, STACK_TICKET | 7, 3);
        }
        for _ in 0..3 {
            tickets.begin();
            assert_eq!(tickets.settle(1, STACK_TICKET | 7), 3);
            tickets.end();
        }
        assert_eq!(tickets.settle(2, STACK_TICKET | 7), STACK_NONE);
        assert_eq!(tickets.settle(2, 9), 9);
        assert_eq!(tickets.ids.len(), 1);
    }
}
