//! Node.js programs in a session: probes on their event loop, so that a connection's stack is that
//! of the function that asked for it.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use aya::programs::{
    UProbe,
    uprobe::{UProbeAttachLocation, UProbeLink, UProbeScope},
};

use super::Session;
use crate::{
    kernel::probes::Probes,
    stack::{
        Stacks,
        image::{Image, ImageKey},
    },
};

/// Executables that are looked into, by name.
const PROGRAMS: [&str; 2] = ["node", "nodejs"];
/// Files with libuv in them: the executable, or a library of its own.
const FILES: [&str; 3] = ["node", "libnode", "libuv"];
/// Programs, and the functions they sit on.
const PROBES: [(&str, &str); 3] = [
    ("uv_handle_made", "uv_tcp_init"),
    ("uv_handle_made", "uv_tcp_init_ex"),
    ("uv_connecting", "uv_tcp_connect"),
];

/// The event loops that are probed.
#[derive(Debug, Default)]
pub struct EventLoops {
    /// Processes looked at.
    known: HashSet<u32>,
    links: HashMap<ImageKey, Vec<UProbeLink>>,
    degraded: Vec<String>,
}

impl EventLoops {
    /// Looks at the processes that came into view, and forgets those that are gone.
    fn follow(&mut self, probes: &mut Probes, stacks: &mut Stacks, pids: &[u32]) {
        for &pid in pids {
            if self.known.insert(pid) && is_node(pid) {
                self.consider(probes, stacks, pid);
            }
        }
        if self.known.len() > pids.len() {
            let present: HashSet<u32> = pids.iter().copied().collect();
            self.known.retain(|pid| present.contains(pid));
        }
    }

    /// The process runs another program now.
    pub fn forget(&mut self, pid: u32) {
        self.known.remove(&pid);
    }

    /// What can't be seen, and why.
    pub fn degraded(&self) -> &[String] {
        &self.degraded
    }

    fn consider(&mut self, probes: &mut Probes, stacks: &mut Stacks, pid: u32) {
        for (path, image) in stacks.images(pid) {
            let name = path.rsplit('/').next().unwrap_or(&path);
            let fits = FILES.iter().any(|file| name.starts_with(file));
            if !fits || self.links.contains_key(&image.key()) {
                continue;
            }
            match attach(probes, &image) {
                Ok(links) => {
                    self.links.insert(image.key(), links);
                }
                Err(reason) => {
                    self.degraded.push(format!(
                        "{path}: connections are charged to the event loop, because {reason}"
                    ));
                    self.links.insert(image.key(), Vec::new());
                }
            }
        }
    }
}

impl Session {
    /// Probes the event loops of the target.
    pub(super) fn follow_loops(&mut self, pids: &[u32]) {
        self.loops.follow(&mut self.probes, &mut self.stacks, pids);
    }
}

fn is_node(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| {
        let name = exe.file_name().unwrap_or_default().to_string_lossy();
        let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
        PROGRAMS.contains(&name)
    })
}

/// Attaches all probes, or none; none to a file without libuv.
fn attach(probes: &mut Probes, image: &Image) -> Result<Vec<UProbeLink>, String> {
    let functions = image.symbols(&PROBES.map(|(_, function)| function));
    let Some(fd) = image.fd() else {
        return Ok(Vec::new());
    };
    if functions.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let mut links = Vec::new();
    for ((name, function), symbol) in PROBES.into_iter().zip(functions) {
        let offset = symbol
            .and_then(|(address, _)| image.part_at(address))
            .ok_or_else(|| format!("it has no {function}"))?
            .bytes
            .start;
        let failed = |e: &dyn std::error::Error| {
            let cause = e.source().map(|s| format!(": {s}")).unwrap_or_default();
            format!("{function} could not be probed: {e}{cause}")
        };
        let program: &mut UProbe = probes
            .ebpf_mut()
            .program_mut(name)
            .ok_or_else(|| format!("the object has no program {name}"))?
            .try_into()
            .map_err(|e: aya::programs::ProgramError| failed(&e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| failed(&e))?;
        }
        let path = Path::new("/proc/self/fd").join(fd.to_string());
        let link = program
            .attach(
                UProbeAttachLocation::AbsoluteOffset(offset as u64),
                &path,
                UProbeScope::AllProcesses,
            )
            .and_then(|id| program.take_link(id))
            .map_err(|e| failed(&e))?;
        links.push(link);
    }
    Ok(links)
}
