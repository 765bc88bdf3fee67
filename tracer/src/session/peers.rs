//! Both ends of a connection in view: which server cohort talks to which client cohort.

use std::collections::{HashMap, HashSet};

use tracer_ebpf::{ROLE_SERVER, SOCK_CLOSED, Sock};

use super::Session;
use crate::{
    engine::{Judgement, explain_servers},
    model::{CohortId, Confidence, Family, Kind, Role},
};

/// Connections of suspect servers whose other end is looked for.
const LOOKED_FOR_MAX: usize = 16_384;

/// A connection of TCP as both ends know it: the client's port, the server's port.
type Ports = (u16, u16);

impl Session {
    /// Takes back what servers are charged with when the client that leaks is in view; returns
    /// the pairs of server and client that are.
    ///
    /// # Errors
    /// A message when the kernel's map can't be read.
    pub(crate) fn explain_servers(
        &mut self,
        judgements: &mut Vec<Judgement>,
    ) -> Result<Vec<(CohortId, CohortId)>, String> {
        let accused: HashSet<CohortId> = judgements
            .iter()
            .filter(|j| j.kind == Kind::AcceptedNeverClosed)
            .flat_map(|j| j.members.iter().copied())
            .collect();
        let leaking: HashSet<CohortId> = judgements
            .iter()
            .filter(|j| j.confidence >= Confidence::Medium)
            .flat_map(|j| j.members.iter().copied())
            .filter(|&id| self.role_of(id) == Some(Role::Client))
            .collect();
        if accused.is_empty() || leaking.is_empty() {
            return Ok(Vec::new());
        }
        let mut pairs = self.pairs_by_path(&accused, &leaking);
        pairs.extend(self.pairs_by_port(&accused, &leaking)?);
        explain_servers(judgements, &pairs);
        Ok(pairs)
    }

    fn role_of(&self, id: CohortId) -> Option<Role> {
        self.cohorts.get(id).map(|entry| entry.cohort.role)
    }

    /// UNIX sockets: both ends are known by the same path.
    fn pairs_by_path(
        &self,
        accused: &HashSet<CohortId>,
        leaking: &HashSet<CohortId>,
    ) -> Vec<(CohortId, CohortId)> {
        let path = |id: &CohortId| {
            let remote = &self.cohorts.get(*id)?.cohort.remote;
            (remote.family == Family::Unix).then_some(&remote.address)
        };
        let mut pairs = Vec::new();
        for server in accused {
            for client in leaking {
                if path(server).is_some_and(|of| path(client) == Some(of)) {
                    pairs.push((*server, *client));
                }
            }
        }
        pairs
    }

    /// TCP: the client's local port is the server's remote one, and the other way round. Ports may
    /// agree by chance; at least half of a server's connections must.
    fn pairs_by_port(
        &mut self,
        accused: &HashSet<CohortId>,
        leaking: &HashSet<CohortId>,
    ) -> Result<Vec<(CohortId, CohortId)>, String> {
        let failed = |e: std::io::Error| format!("reading the kernel's maps failed: {e}");
        let socks = std::sync::Arc::clone(&self.probes.socks);
        let mut servers: HashMap<Ports, CohortId> = HashMap::new();
        let mut looked_for: HashMap<CohortId, usize> = HashMap::new();
        socks
            .for_each(|&sk, sock| {
                if sock.role == ROLE_SERVER
                    && servers.len() < LOOKED_FOR_MAX
                    && let Some(cohort) = self.cohort_of(sk, sock)
                    && accused.contains(&cohort)
                {
                    let ports = (sock.remote_port, sock.local_port);
                    servers.insert(ports, cohort);
                    *looked_for.entry(cohort).or_default() += 1;
                }
            })
            .map_err(failed)?;
        let mut found: HashMap<(CohortId, CohortId), usize> = HashMap::new();
        socks
            .for_each(|&sk, sock| {
                let ports = (sock.local_port, sock.remote_port);
                if sock.role != ROLE_SERVER
                    && let Some(&server) = servers.get(&ports)
                    && let Some(client) = self.cohort_of(sk, sock)
                    && leaking.contains(&client)
                {
                    *found.entry((server, client)).or_default() += 1;
                }
            })
            .map_err(failed)?;
        found.retain(|(server, _), count| {
            *count * 2 >= looked_for.get(server).copied().unwrap_or(usize::MAX)
        });
        Ok(found.into_keys().collect())
    }

    /// The cohort that an open TCP socket is in.
    fn cohort_of(&mut self, sk: u64, sock: &Sock) -> Option<CohortId> {
        if sock.flags & SOCK_CLOSED != 0 || i32::from(sock.family) == libc::AF_UNIX {
            return None;
        }
        let facts = self.facts_told(sk, sock);
        self.chosen.get(&facts).copied()
    }
}
