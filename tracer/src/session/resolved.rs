//! Names that processes resolved, by the addresses that they were told.

use std::{collections::HashMap, net::IpAddr};

use aya::maps::{MapData, RingBuf};
use tracer_ebpf::Answer;

use crate::{
    kernel::probes::{ProbeError, Probes},
    protocols::dns,
};

/// Addresses remembered, of all processes; beyond that the oldest half is forgotten.
const REMEMBERED_MAX: usize = 8_192;
/// Names of one address that are remembered.
const NAMES_MAX: usize = 4;
/// Programs go on using an answer for a while.
const LEAST_NS: u64 = 60_000_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// One name of an address, and when it was told, monotonic nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    name: String,
    at_ns: u64,
    until_ns: u64,
}

/// The names of addresses, by process.
pub struct Resolved {
    ring: RingBuf<MapData>,
    names: Names,
}

impl std::fmt::Debug for Resolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Resolved").field(&self.names).finish()
    }
}

impl Resolved {
    /// Those that the programs that were loaded tell of.
    ///
    /// # Errors
    /// When the ring is not there, or can't be used.
    pub fn new(probes: &mut Probes) -> Result<Resolved, ProbeError> {
        Ok(Resolved {
            ring: probes.answers()?,
            names: Names::default(),
        })
    }

    /// Takes in what came since the last time.
    pub fn take(&mut self) {
        while let Some(record) = self.ring.next() {
            let Ok(answer) = tracer_ebpf::decode::<Answer>(&record) else {
                continue;
            };
            let skip = if answer.stream != 0 { 2 } else { 0 };
            let Some(bytes) = answer.bytes.get(skip..answer.kept as usize) else {
                continue;
            };
            if let Some(told) = dns::read(bytes) {
                self.names.learn(answer.tgid, answer.at_ns, &told);
            }
        }
    }

    /// The name by which a process knew an address when it connected to it.
    pub fn name(&self, tgid: u32, address: &str, opened_ns: u64) -> Option<&str> {
        let address: std::net::SocketAddr = address.parse().ok()?;
        self.names.of(tgid, address.ip(), opened_ns)
    }
}

#[derive(Debug, Default)]
struct Names(HashMap<(u32, IpAddr), Vec<Told>>);

impl Names {
    fn learn(&mut self, tgid: u32, at_ns: u64, resolved: &dns::Resolved) {
        let holds_ns = (u64::from(resolved.ttl_seconds) * NS_PER_S).max(LEAST_NS);
        for &address in &resolved.addresses {
            if self.0.len() >= REMEMBERED_MAX {
                self.forget_half();
            }
            let told = self.0.entry((tgid, address)).or_default();
            let until_ns = at_ns.saturating_add(holds_ns);
            match told.iter_mut().find(|told| told.name == resolved.name) {
                // from the first time on, where it was asked for again in time
                Some(known) if known.until_ns >= at_ns => {
                    known.until_ns = known.until_ns.max(until_ns);
                }
                Some(known) => (known.at_ns, known.until_ns) = (at_ns, until_ns),
                None => {
                    if told.len() >= NAMES_MAX {
                        told.remove(0);
                    }
                    told.push(Told {
                        name: resolved.name.clone(),
                        at_ns,
                        until_ns,
                    });
                }
            }
        }
    }

    fn forget_half(&mut self) {
        let latest = |told: &Vec<Told>| told.iter().map(|told| told.until_ns).max();
        let mut ends: Vec<_> = self.0.values().map(latest).collect();
        ends.sort_unstable();
        let middle = ends.get(ends.len() / 2).copied().flatten();
        self.0.retain(|_, told| latest(told) > middle);
    }

    /// The name of an address at a time, unless it had several.
    fn of(&self, tgid: u32, address: IpAddr, at_ns: u64) -> Option<&str> {
        let told = self.0.get(&(tgid, address))?;
        let mut then = told
            .iter()
            .filter(|told| (told.at_ns..=told.until_ns).contains(&at_ns));
        let only = then.next()?;
        then.next().is_none().then_some(&only.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = NS_PER_S;

    fn resolved(name: &str, last: u8) -> dns::Resolved {
        dns::Resolved {
            name: name.to_owned(),
            addresses: vec![IpAddr::from([10, 0, 0, last])],
            ttl_seconds: 300,
        }
    }

    #[test]
    fn a_name_holds_for_its_process_and_its_time() {
        let mut names = Names::default();
        names.learn(7, 100 * S, &resolved("api.test", 1));
        let name = |tgid, last, at| names.of(tgid, IpAddr::from([10, 0, 0, last]), at * S);
        assert_eq!(name(7, 1, 101), Some("api.test"));
        assert_eq!(name(7, 1, 99), None, "before it was resolved");
        assert_eq!(name(7, 1, 401), None, "after its time");
        assert_eq!(name(8, 1, 101), None, "another process");
        assert_eq!(name(7, 2, 101), None, "another address");
    }

    #[test]
    fn an_address_with_two_names_has_none() {
        let mut names = Names::default();
        names.learn(7, 100 * S, &resolved("api.test", 1));
        names.learn(7, 200 * S, &resolved("web.test", 1));
        let name = |at| names.of(7, IpAddr::from([10, 0, 0, 1]), at * S);
        assert_eq!(name(150), Some("api.test"));
        assert_eq!(name(250), None);
        assert_eq!(name(450), Some("web.test"));
    }

    #[test]
    fn names_are_bounded() {
        let mut names = Names::default();
        for number in 0..40_000_u32 {
            let [_, _, high, low] = number.to_be_bytes();
            let told = dns::Resolved {
                name: format!("h{number}.test"),
                addresses: vec![IpAddr::from([10, 0, high, low])],
                ttl_seconds: 300,
            };
            names.learn(7, u64::from(number) * S, &told);
        }
        assert!(names.0.len() <= REMEMBERED_MAX);
    }
}
