//! The latest request of each live socket that has one: all that user space keeps of single
//! sockets, because there may be a million of them.

use std::collections::HashMap;

/// Bit that tells the requests seen by the present sweep from the others.
const PARITY: u32 = 1 << 31;

/// One socket's request.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Low bits of the opening time: tell a reused address apart.
    opened: u32,
    /// Number of the request; [`PARITY`] as of the sweep that saw it last.
    request: u32,
}

/// The requests of all sockets.
#[derive(Debug, Default)]
pub struct LatestRequests {
    sockets: HashMap<u64, Entry>,
    parity: u32,
}

impl LatestRequests {
    /// Begins a sweep.
    pub fn begin(&mut self) {
        self.parity ^= PARITY;
    }

    /// Forgets the sockets that the sweep did not see.
    pub fn end(&mut self) {
        let parity = self.parity;
        self.sockets
            .retain(|_, entry| entry.request & PARITY == parity);
        if self.sockets.capacity() > 4 * self.sockets.len() + 1024 {
            self.sockets.shrink_to_fit();
        }
    }

    /// Socket, low bits of its opening time, and request of each.
    pub fn save(&self) -> Vec<(u64, u32, u32)> {
        let all = self.sockets.iter();
        all.map(|(&sk, entry)| (sk, entry.opened, entry.request & !PARITY))
            .collect()
    }

    /// Takes over saved ones.
    pub fn restore(&mut self, saved: Vec<(u64, u32, u32)>) {
        for (sk, opened, request) in saved {
            self.set_request(sk, u64::from(opened), request);
        }
    }

    /// Sets the latest request of a socket.
    pub fn set_request(&mut self, sk: u64, opened_ns: u64, number: u32) {
        let entry = Entry {
            opened: opened_ns as u32,
            request: number & !PARITY | self.parity,
        };
        self.sockets.insert(sk, entry);
    }

    /// The latest request of a socket, which is marked as seen.
    pub fn request(&mut self, sk: u64, opened_ns: u64) -> Option<u32> {
        let entry = self.sockets.get_mut(&sk)?;
        if entry.opened != opened_ns as u32 {
            return None;
        }
        entry.request = entry.request & !PARITY | self.parity;
        Some(entry.request & !PARITY)
    }
}

#[cfg(test)]
mod tests {
    use super::LatestRequests;

    #[test]
    fn a_reused_address_begins_anew_and_unseen_sockets_are_forgotten() {
        let mut live = LatestRequests::default();
        live.begin();
        live.set_request(1, 10, 7);
        live.set_request(2, 10, 8);
        live.end();
        live.begin();
        assert_eq!(live.request(1, 10), Some(7));
        assert_eq!(live.request(1, 11), None);
        live.end();
        assert_eq!(live.request(2, 10), None, "not seen by the sweep");
        live.begin();
        assert_eq!(live.request(1, 10), Some(7));
        live.set_request(1, 11, 9);
        live.end();
        assert_eq!(live.request(1, 10), None);
        assert_eq!(live.request(1, 11), Some(9));
    }
}
