//! Both ends of a connection in view: which server cohort talks to which client cohort.

use std::collections::{HashMap, HashSet};

use super::{
    cohorts::Cohorts,
    survey::{End, Survey},
};
use crate::{
    engine::{Judgement, explain_servers},
    model::{CohortId, Confidence, Family, Kind, Role},
};

/// Connections of suspect servers whose other end is looked for.
const LOOKED_FOR_MAX: usize = 16_384;

/// A connection of TCP as both ends know it: the client's port, the server's port.
type Ports = (u16, u16);

/// Takes back what servers are charged with when the client that leaks is in view; returns the
/// pairs of server and client that are.
pub fn explain(
    judgements: &mut Vec<Judgement>,
    cohorts: &Cohorts,
    survey: &Survey,
) -> Vec<(CohortId, CohortId)> {
    let role_of = |id| cohorts.get(id).map(|entry| entry.cohort.role);
    let accused: HashSet<CohortId> = judgements
        .iter()
        .filter(|j| j.kind == Kind::AcceptedNeverClosed)
        .flat_map(|j| j.members.iter().copied())
        .collect();
    let leaking: HashSet<CohortId> = judgements
        .iter()
        .filter(|j| j.confidence >= Confidence::Medium)
        .flat_map(|j| j.members.iter().copied())
        .filter(|&id| role_of(id) == Some(Role::Client))
        .collect();
    if accused.is_empty() || leaking.is_empty() {
        return Vec::new();
    }
    let mut pairs = by_path(cohorts, &accused, &leaking);
    pairs.extend(by_port(survey.ends(), &accused, &leaking));
    pairs.extend(by_itself(survey.ends(), cohorts, &accused, &leaking));
    explain_servers(judgements, &pairs);
    pairs
}

/// UNIX sockets: both ends are known by the same path.
fn by_path(
    cohorts: &Cohorts,
    accused: &HashSet<CohortId>,
    leaking: &HashSet<CohortId>,
) -> Vec<(CohortId, CohortId)> {
    let path = |id: &CohortId| {
        let remote = &cohorts.get(*id)?.cohort.remote;
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
fn by_port(
    ends: &[End],
    accused: &HashSet<CohortId>,
    leaking: &HashSet<CohortId>,
) -> Vec<(CohortId, CohortId)> {
    let mut servers: HashMap<Ports, CohortId> = HashMap::new();
    let mut looked_for: HashMap<CohortId, usize> = HashMap::new();
    let suspect = |end: &&End| end.role == Role::Server && accused.contains(&end.leaf);
    for end in ends.iter().filter(suspect).take(LOOKED_FOR_MAX) {
        servers.insert((end.remote, end.local), end.leaf);
        *looked_for.entry(end.leaf).or_default() += 1;
    }
    let mut found: HashMap<(CohortId, CohortId), usize> = HashMap::new();
    for end in ends {
        if end.role == Role::Client
            && let Some(&server) = servers.get(&(end.local, end.remote))
            && leaking.contains(&end.leaf)
        {
            *found.entry((server, end.leaf)).or_default() += 1;
        }
    }
    found.retain(|(server, _), count| {
        *count * 2 >= looked_for.get(server).copied().unwrap_or(usize::MAX)
    });
    found.into_keys().collect()
}

/// A process that is connected with itself, as some libraries wake their loops: what it accepts so
/// leaks with what else the same line opens.
fn by_itself(
    ends: &[End],
    cohorts: &Cohorts,
    accused: &HashSet<CohortId>,
    leaking: &HashSet<CohortId>,
) -> Vec<(CohortId, CohortId)> {
    let of = |id: CohortId| {
        let entry = cohorts.get(id)?;
        Some((entry.cohort.process.pid, entry.identity.place.as_ref()?))
    };
    let mut clients: HashMap<Ports, u32> = HashMap::new();
    for end in ends.iter().filter(|end| end.role == Role::Client) {
        if let Some(entry) = cohorts.get(end.leaf) {
            clients.insert((end.local, end.remote), entry.cohort.process.pid);
        }
    }
    let mut pairs = Vec::new();
    for &server in accused {
        let Some((pid, place)) = of(server) else {
            continue;
        };
        let own = ends.iter().filter(|end| end.leaf == server);
        let to_itself = |end: &&End| clients.get(&(end.remote, end.local)) == Some(&pid);
        let (all, to_itself) = (own.clone().count(), own.filter(to_itself).count());
        let opens = leaking
            .iter()
            .filter(|client| of(**client) == Some((pid, place)));
        if to_itself > 0 && to_itself * 2 >= all {
            pairs.extend(opens.map(|client| (server, *client)));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: CohortId = CohortId(1);
    const CLIENT: CohortId = CohortId(2);

    fn end(leaf: CohortId, role: Role, local: u16, remote: u16) -> End {
        End {
            leaf,
            local,
            remote,
            role,
        }
    }

    fn pairs(ends: &[End]) -> Vec<(CohortId, CohortId)> {
        by_port(ends, &HashSet::from([SERVER]), &HashSet::from([CLIENT]))
    }

    #[test]
    fn ends_are_paired_by_their_ports_and_not_by_chance() {
        let mut ends: Vec<End> = (40_000..40_004)
            .map(|port| end(SERVER, Role::Server, 80, port))
            .collect();
        ends.push(end(CLIENT, Role::Client, 40_000, 80));
        assert_eq!(pairs(&ends), [], "one of four");
        ends.push(end(CLIENT, Role::Client, 40_001, 80));
        assert_eq!(pairs(&ends), [(SERVER, CLIENT)]);
        ends.push(end(CohortId(3), Role::Client, 40_002, 80));
        assert_eq!(pairs(&ends).len(), 1, "another client does not leak");
    }
}
