//! Whom to watch: from what the user named to what the kernel filters by.

use std::path::{Path, PathBuf};

use tracer_ebpf::{Config, FILTER_CGROUP, FILTER_HOST, FILTER_PROCESS};

use super::{StartError, Target};
use crate::{
    kernel::probes::Probes,
    procs::{self, Presence, clock::monotonic_ns},
};

/// A target as the running session keeps it.
#[derive(Debug)]
pub enum Watched {
    /// Everything.
    Host,
    /// Processes and what they fork; the kernel follows.
    Processes,
    /// A cgroup: the kernel filters by id, user space keeps the list of pids for scans.
    Cgroup(PathBuf),
    /// A cgroup v1 (or one whose level is unknown): pids only, refreshed at sweeps.
    PidsOfCgroup(PathBuf),
}

/// The target as the last sweep found it.
#[derive(Debug)]
pub struct Watch {
    watched: Watched,
    /// Processes of the target that are alive; none where it is the host.
    alive: Vec<u32>,
    /// When the last process of the target ended, while there is none: what was seen until then is kept
    /// as it was.
    frozen_ns: Option<u64>,
}

impl Watch {
    /// A watch that begins.
    pub fn new(watched: Watched) -> Watch {
        Watch {
            watched,
            alive: Vec::new(),
            frozen_ns: None,
        }
    }

    /// Whom.
    pub fn target(&self) -> &Watched {
        &self.watched
    }

    /// Processes of the target that are alive; none where it is the host.
    pub fn alive(&self) -> &[u32] {
        &self.alive
    }

    /// When the last process of the target ended, while there is none, monotonic nanoseconds.
    pub fn frozen_ns(&self) -> Option<u64> {
        self.frozen_ns
    }

    /// Looks which processes of the target are there now.
    pub fn refresh(&mut self, probes: &Probes) {
        self.watched.refresh(probes);
        self.alive = self.watched.alive(probes);
        if self.watched.is_host() || !self.alive.is_empty() {
            // a group can be without processes for a while: before a service starts, and between two runs
            self.frozen_ns = None;
        } else {
            self.frozen_ns.get_or_insert_with(monotonic_ns);
        }
    }

    /// Whether the last process has ended, since it was looked at or before.
    pub fn has_ended(&mut self, probes: &Probes) -> bool {
        let ended = self.watched.has_ended(probes);
        if ended {
            self.frozen_ns = Some(monotonic_ns());
            self.alive.clear();
        }
        ended
    }
}

/// Filter settings for a target.
///
/// # Errors
/// [`StartError::Target`] when it does not exist.
pub fn filter(target: &Target, config: &mut Config) -> Result<Watched, StartError> {
    match target {
        Target::Host => {
            config.filter = FILTER_HOST;
            Ok(Watched::Host)
        }
        Target::Processes(pids) => {
            if pids.is_empty() {
                return Err(StartError::Target("no process was named".to_owned()));
            }
            for &pid in pids {
                if Presence::of(pid) == Presence::Ended {
                    return Err(StartError::Target(format!(
                        "there is no process {pid} to watch: it has ended, or the pid is one of \
                         another pid namespace (host pids are meant)"
                    )));
                }
            }
            config.filter = FILTER_PROCESS;
            Ok(Watched::Processes)
        }
        Target::Cgroup(path) => cgroup(path, config),
    }
}

fn cgroup(path: &Path, config: &mut Config) -> Result<Watched, StartError> {
    if !path.join("cgroup.procs").exists() {
        return Err(StartError::Target(format!(
            "{} is not a cgroup directory: it has no cgroup.procs",
            path.display()
        )));
    }
    if let (Some(id), Some(level)) = (procs::cgroup_id(path), procs::cgroup_level(path)) {
        config.filter = FILTER_CGROUP;
        config.cgroup_id = id;
        config.cgroup_level = level;
        return Ok(Watched::Cgroup(path.to_owned()));
    }
    config.filter = FILTER_PROCESS;
    Ok(Watched::PidsOfCgroup(path.to_owned()))
}

impl Watched {
    /// Whether everything is watched, so that nobody keeps a list of pids.
    pub fn is_host(&self) -> bool {
        matches!(self, Watched::Host)
    }

    /// Puts the target's processes into the kernel's filter; after attaching, so that no fork
    /// falls between.
    pub fn enlist(&self, target: &Target, probes: &Probes) {
        match (self, target) {
            (Watched::Host, _) => {}
            (Watched::Cgroup(path) | Watched::PidsOfCgroup(path), _) => {
                enlist_cgroup(path, probes);
            }
            (Watched::Processes, Target::Processes(pids)) => {
                for &pid in pids {
                    for pid in procs::descendants(pid).into_iter().chain([pid]) {
                        add(probes, pid);
                    }
                }
            }
            (Watched::Processes, _) => {}
        }
    }

    /// Brings the list of pids up to date where the kernel does not do it by itself.
    pub fn refresh(&self, probes: &Probes) {
        if let Watched::Cgroup(path) | Watched::PidsOfCgroup(path) = self {
            enlist_cgroup(path, probes);
        }
    }

    /// Looks for children of target processes that are not in the list yet, because it was full;
    /// returns how many it still has no room for.
    pub fn enlist_descendants(&self, probes: &Probes) -> u64 {
        if !matches!(self, Watched::Processes) {
            return 0;
        }
        let known = probes.targets.keys().unwrap_or_default();
        let children = known.iter().flat_map(|&pid| procs::descendants(pid));
        let missing = children.filter(|pid| !known.contains(pid));
        missing.filter(|&pid| !add(probes, pid)).count() as u64
    }

    /// Processes of the target that are alive; of the host, none in particular.
    pub fn alive(&self, probes: &Probes) -> Vec<u32> {
        match self {
            Watched::Host => Vec::new(),
            Watched::Cgroup(path) | Watched::PidsOfCgroup(path) => procs::cgroup_pids(path)
                // nobody can tell: those that the kernel follows
                .unwrap_or_else(|_| probes.targets.keys().unwrap_or_default()),
            Watched::Processes => {
                let mut pids = probes.targets.keys().unwrap_or_default();
                pids.retain(|pid| {
                    let alive = Presence::of(*pid) != Presence::Ended;
                    if !alive {
                        // the exit hook does this at once where it is attached
                        let _ = probes.targets.remove(pid);
                    }
                    alive
                });
                pids
            }
        }
    }

    /// Whether all processes of the target have ended. One that is closing its descriptors to end
    /// is off the list already.
    pub fn has_ended(&self, probes: &Probes) -> bool {
        !self.is_host() && self.alive(probes).is_empty()
    }
}

fn enlist_cgroup(path: &Path, probes: &Probes) {
    let Ok(now) = procs::cgroup_pids(path) else {
        return;
    };
    for old in probes.targets.keys().unwrap_or_default() {
        if now.binary_search(&old).is_err() {
            let _ = probes.targets.remove(&old);
        }
    }
    for pid in now {
        add(probes, pid);
    }
}

/// `false` when there is no room.
fn add(probes: &Probes, pid: u32) -> bool {
    let added = probes.targets.set(&pid, &1);
    if let Err(error) = &added {
        tracing::warn!(pid, %error, "a process could not be added to the target");
    }
    added.is_ok()
}
