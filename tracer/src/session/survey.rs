//! What a pass over the kernel's sockets finds for the answer that it is made for. It is the only
//! one that the answer takes: what is asked of single sockets is gathered in it.

use std::collections::{BTreeMap, HashMap};

use tracer_ebpf::{SOCK_ACCEPT_UNOWNED, SOCK_CLOSED, Sock};

use super::{facts::Facts, records};
use crate::{
    engine::{Class, Judgement},
    model::{CohortId, Family, Holder, Role},
};

/// Different kinds of members kept of one leaf and class, and of one judgement: beyond that they
/// are counted only by the engine.
const KINDS_MAX: usize = 4_096;

/// Where a client's connections go: family, address, port.
pub type Destination = (Family, [u32; 4], u16);

/// Members of a population by what they have in common.
pub type Members = HashMap<Facts, u64>;

/// One open TCP connection in a population, as its end knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The leaf.
    pub leaf: CohortId,
    /// Its own port.
    pub local: u16,
    /// The other end's.
    pub remote: u16,
    /// Which end it is.
    pub role: Role,
}

/// What an answer wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Report,
    Connections,
}

/// What was found.
#[derive(Debug)]
pub struct Survey {
    wanted: Wanted,
    members: BTreeMap<(CohortId, Class), Members>,
    ends: Vec<End>,
    ports: HashMap<u32, HashMap<Destination, u64>>,
    oldest: Oldest,
}

impl Survey {
    /// For a report.
    pub fn for_report() -> Survey {
        Survey::new(Wanted::Report, 0)
    }

    /// For a list of at most so many connections.
    pub fn for_connections(limit: usize) -> Survey {
        Survey::new(Wanted::Connections, limit)
    }

    fn new(wanted: Wanted, limit: usize) -> Survey {
        Survey {
            wanted,
            members: BTreeMap::new(),
            ends: Vec::new(),
            ports: HashMap::new(),
            oldest: Oldest::new(limit),
        }
    }

    /// A socket that the kernel has.
    pub fn found(&mut self, sk: u64, sock: &Sock, holder: Holder) {
        if sock.flags & SOCK_CLOSED != 0 || sock.tgid == 0 {
            return;
        }
        match self.wanted {
            Wanted::Report => {
                let family = records::family(sock);
                let of_process = self.ports.entry(sock.tgid).or_default();
                if family != Family::Unix && records::role(sock) == Role::Client {
                    let to = (family, sock.remote_addr, sock.remote_port);
                    *of_process.entry(to).or_default() += 1;
                }
            }
            // The scan just made has given every accepted socket its owner: those without one wait
            // in a listener's queue, where no descriptor refers to them yet.
            Wanted::Connections if sock.flags & SOCK_ACCEPT_UNOWNED == 0 => {
                if holder != Holder::Nobody {
                    self.oldest.offer(sk, sock);
                }
            }
            Wanted::Connections => {}
        }
    }

    /// It is in a leaf, and in the class that the engine sees it in.
    pub fn member(&mut self, sock: &Sock, facts: &Facts, leaf: CohortId, class: Option<Class>) {
        if self.wanted != Wanted::Report {
            return;
        }
        if records::family(sock) != Family::Unix {
            self.ends.push(End {
                leaf,
                local: sock.local_port,
                remote: sock.remote_port,
                role: records::role(sock),
            });
        }
        let Some(class) = class else { return };
        let members = self.members.entry((leaf, class)).or_default();
        if members.len() < KINDS_MAX || members.contains_key(facts) {
            *members.entry(*facts).or_default() += 1;
        }
    }

    /// The connections that a judgement is about.
    pub fn members(&self, judgement: &Judgement) -> Members {
        let mut members = Members::new();
        for &leaf in &judgement.members {
            let of_leaf = self
                .members
                .range((leaf, Class::FIRST)..=(leaf, Class::LAST));
            let about = of_leaf.filter(|((_, class), _)| judgement.about.has(*class));
            for (facts, count) in about.flat_map(|(_, members)| members) {
                if members.len() < KINDS_MAX || members.contains_key(facts) {
                    *members.entry(*facts).or_default() += count;
                }
            }
        }
        members
    }

    /// Open TCP connections in populations.
    pub fn ends(&self) -> &[End] {
        &self.ends
    }

    /// How many connections clients have, by process and destination; processes without any to
    /// count have an empty table.
    pub fn ports(&self) -> &HashMap<u32, HashMap<Destination, u64>> {
        &self.ports
    }

    /// The oldest connections, oldest first, and how many there are beside them.
    pub fn into_oldest(self) -> (Vec<(u64, Sock)>, u64) {
        let omitted = self.oldest.omitted;
        (self.oldest.sorted(), omitted)
    }
}

/// The oldest sockets of however many: never more than asked for are kept.
#[derive(Debug)]
struct Oldest {
    limit: usize,
    kept: BTreeMap<(u64, u64), Sock>,
    omitted: u64,
}

impl Oldest {
    fn new(limit: usize) -> Oldest {
        Oldest {
            limit,
            kept: BTreeMap::new(),
            omitted: 0,
        }
    }

    fn offer(&mut self, sk: u64, sock: &Sock) {
        let key = (sock.opened_ns, sk);
        if self.kept.len() < self.limit {
            self.kept.insert(key, *sock);
            return;
        }
        self.omitted += 1;
        if self
            .kept
            .last_key_value()
            .is_some_and(|(&last, _)| key < last)
        {
            self.kept.pop_last();
            self.kept.insert(key, *sock);
        }
    }

    fn sorted(self) -> Vec<(u64, Sock)> {
        let kept = self.kept.into_iter();
        kept.map(|((_, sk), sock)| (sk, sock)).collect()
    }
}

#[cfg(test)]
mod tests {
    use tracer_ebpf::ROLE_CLIENT;

    use super::*;
    use crate::session::facts::Known;

    fn sock(opened_ns: u64, tgid: u32) -> Sock {
        Sock {
            opened_ns,
            tgid,
            role: ROLE_CLIENT,
            family: libc::AF_INET as u8,
            remote_port: 80,
            ..Sock::default()
        }
    }

    #[test]
    fn the_oldest_are_listed_and_the_rest_is_counted() {
        let mut survey = Survey::for_connections(2);
        for opened_ns in [40, 10, 30, 20] {
            survey.found(opened_ns, &sock(opened_ns, 1), Holder::Opener);
        }
        survey.found(5, &sock(5, 0), Holder::Unknown);
        survey.found(6, &sock(6, 1), Holder::Nobody);
        let (oldest, omitted) = survey.into_oldest();
        let oldest: Vec<u64> = oldest.iter().map(|(sk, _)| *sk).collect();
        assert_eq!((oldest, omitted), (vec![10, 20], 2));
    }

    #[test]
    fn members_are_counted_by_what_they_have_in_common() {
        let mut survey = Survey::for_report();
        let (leaf, sock) = (CohortId(3), sock(1, 7));
        let facts = Facts::of(&sock, Known::default());
        for class in [
            Some(Class::OneShot),
            Some(Class::OneShot),
            Some(Class::Active),
            None,
        ] {
            survey.found(1, &sock, Holder::Opener);
            survey.member(&sock, &facts, leaf, class);
        }
        assert_eq!(survey.members[&(leaf, Class::OneShot)][&facts], 2);
        assert_eq!(survey.ends().len(), 4);
        let to_80 = survey.ports()[&7].values().copied().collect::<Vec<_>>();
        assert_eq!(to_80, [4]);
    }
}
