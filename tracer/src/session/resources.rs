//! What the watched processes have used of their limits.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use tracer_ebpf::ErrorKey;

use super::{
    processes::Processes,
    records,
    survey::{Destination, Survey},
};
use crate::{
    findings::{self, PortUse, ProcessUse},
    kernel::probes::Probes,
    procs,
    report::Resources,
};

/// Processes whose limits a report shows.
const PROCESSES_MAX: usize = 64;
/// Destinations whose ephemeral ports a report shows, per process.
const DESTINATIONS_MAX: usize = 8;
/// Fewer ports in use than this are not worth a line.
const PORTS_WORTH_SHOWING: u64 = 100;

/// Descriptors, ports and connect errors of the processes with open connections or errors.
pub fn resources(
    probes: &Probes,
    survey: &Survey,
    growth: &HashMap<u32, f64>,
    processes: &mut Processes,
) -> io::Result<Vec<Resources>> {
    let ports = survey.ports();
    let mut usage: BTreeMap<u32, ProcessUse> = BTreeMap::new();
    let mut errors: BTreeMap<u32, BTreeMap<u16, u64>> = BTreeMap::new();
    probes
        .errors
        .for_each(|&ErrorKey { tgid, error }, &count| {
            if let Ok(error) = u16::try_from(error) {
                errors.entry(tgid).or_default().insert(error, count);
            }
        })?;
    let mut ranges: HashMap<u64, (u16, u16)> = HashMap::new();
    for pid in ports.keys().chain(errors.keys()).copied() {
        if usage.len() >= PROCESSES_MAX {
            break;
        }
        // a process that has ended holds nothing and is only shown for its connect errors
        let (fds_open, fds_limit) = procs::fd_usage(pid).unwrap_or((0, 0));
        if fds_limit == 0 && !errors.contains_key(&pid) {
            continue;
        }
        let mut destinations: Vec<(&Destination, &u64)> = ports
            .get(&pid)
            .map(|p| p.iter().collect())
            .unwrap_or_default();
        let range = match procs::network(pid) {
            Some(namespace) => *ranges
                .entry(namespace)
                .or_insert_with(|| procs::ephemeral_range(pid)),
            None => procs::EPHEMERAL_RANGE_DEFAULT,
        };
        let size = u64::from(range.1.saturating_sub(range.0)) + 1;
        destinations.retain(|&(_, &used)| used >= PORTS_WORTH_SHOWING || used * 2 >= size);
        destinations.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let growth_per_minute = growth.get(&pid).copied().unwrap_or(0.0);
        let process = processes.get(pid);
        let one_destination = destinations.len() == 1;
        usage.insert(
            pid,
            ProcessUse {
                pid,
                comm: process.comm.clone(),
                pod: processes.pod(&process),
                fds_open,
                fds_limit,
                fds_growth_per_minute: growth_per_minute,
                ports: destinations
                    .into_iter()
                    .take(DESTINATIONS_MAX)
                    .map(|(&(family, address, port), &used)| PortUse {
                        destination: records::socket_address(family, address, port),
                        used,
                        range,
                        reserved: 0,
                        growth_per_minute: if one_destination {
                            growth_per_minute
                        } else {
                            0.0
                        },
                    })
                    .collect(),
                connect_errors: errors.get(&pid).cloned().unwrap_or_default(),
            },
        );
    }
    Ok(usage.values().map(findings::resources).collect())
}
