//! The processes in view, by pid.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use crate::{
    cluster::Cluster,
    model::{Pod, Process},
    procs::{self, Clock, Presence, clock::monotonic_ns, listeners::Listeners, pods::Pods},
};

/// Processes remembered; beyond this the ended ones are dropped.
const REMEMBERED: usize = 8_192;

/// Processes in view; those that ended stay until room is needed, because what they leaked is
/// still to be reported.
#[derive(Debug, Default)]
pub struct Processes {
    known: HashMap<u32, Known>,
    /// Ended processes whose number another one has now.
    former: HashMap<u32, Arc<Process>>,
    /// Processes that ended, of which more than the name is kept while somebody holds a socket of
    /// theirs.
    held: HashSet<u32>,
    /// Who listens on UNIX sockets.
    listeners: Listeners,
    /// Names of pods and containers, by folders.
    pods: Pods,
    /// What the API server tells of pods, where it is asked.
    cluster: Option<Cluster>,
}

#[derive(Debug)]
struct Known {
    process: Arc<Process>,
    /// When it started, monotonic nanoseconds; never later than its first socket.
    started_ns: u64,
    /// It was found to have ended.
    ended: bool,
    /// It could not be read, though it may be alive.
    unread: bool,
}

impl Known {
    fn new(process: Process) -> Known {
        let clock = Clock::now();
        Known {
            started_ns: clock.monotonic(clock.started_at(process.start_ticks)),
            process: Arc::new(process),
            ended: false,
            unread: false,
        }
    }
}

impl Processes {
    /// With the names of pods below a root of the host, see [`Pods::below`], and what the API server
    /// tells of them.
    pub fn below(host_root: Option<PathBuf>, cluster: Option<Cluster>) -> Processes {
        Processes {
            pods: Pods::below(host_root),
            cluster,
            ..Processes::default()
        }
    }

    /// A process, read at first sight. One that is gone already has only its pid.
    pub fn get(&mut self, pid: u32) -> Arc<Process> {
        Arc::clone(&self.known(pid).process)
    }

    /// The process with this number that can have opened a socket at this time (monotonic
    /// nanoseconds): not one that started later.
    pub fn opener(&mut self, pid: u32, opened_ns: u64) -> Arc<Process> {
        let known = self.known(pid);
        if known.started_ns <= opened_ns {
            return Arc::clone(&known.process);
        }
        match self.former.get(&pid) {
            Some(former) => Arc::clone(former),
            None => Arc::new(unknown(pid)),
        }
    }

    fn known(&mut self, pid: u32) -> &Known {
        // One that could not be read, for want of descriptors, is read again.
        if self.known.get(&pid).is_some_and(|known| known.unread) {
            self.known.remove(&pid);
        }
        if !self.known.contains_key(&pid) && self.known.len() >= REMEMBERED {
            self.known
                .retain(|&pid, known| procs::alive(pid, known.process.start_ticks));
        }
        let (pods, cluster) = (&mut self.pods, self.cluster.as_ref());
        self.known
            .entry(pid)
            .or_insert_with(|| match procs::read(pid) {
                Some(process) => {
                    // while its pod has a folder
                    pod_of(pods, cluster, &process);
                    Known::new(process)
                }
                None => Known {
                    unread: Presence::of(pid) == Presence::Unknown,
                    ..Known::new(unknown(pid))
                },
            })
    }

    /// Who listens on the UNIX socket that a process is connected to.
    pub fn listener(&mut self, pid: u32, path: &str) -> Option<(u32, String)> {
        self.listeners.of(pid, path, monotonic_ns())
    }

    /// The pod and container that a process runs in, or ran in.
    pub fn pod(&mut self, process: &Process) -> Option<Pod> {
        pod_of(&mut self.pods, self.cluster.as_ref(), process)
    }

    /// Whether its pod is annotated to be left alone.
    pub fn is_annotated(&self, process: &Process) -> bool {
        let pod = |uid: &String| self.cluster.as_ref()?.pod(uid);
        let pod = process.pod_uid.as_ref().and_then(pod);
        pod.is_some_and(|pod| pod.ignored)
    }

    /// Why names of pods are not known, where the API server is to tell them.
    pub fn without_names(&self) -> Option<String> {
        self.cluster.as_ref()?.degraded()
    }

    /// Whether it was found to have ended, and sockets of it were still held.
    pub fn has_ended(&self, pid: u32) -> bool {
        self.held.contains(&pid)
    }

    /// Processes of which nothing but the name need be kept any more: those whose number another one
    /// has now, and those that ended and are not among the `openers` of a socket that is still held.
    pub fn gone(&mut self, openers: &HashSet<u32>) -> Vec<u32> {
        let mut gone = Vec::new();
        for (pid, reused) in self.ended() {
            if reused {
                gone.push(pid);
            } else {
                self.held.insert(pid);
            }
        }
        gone.extend(self.held.extract_if(|pid| !openers.contains(pid)));
        gone
    }

    /// Processes that turned out to have ended since this was last asked, and whether another one
    /// has their number now.
    fn ended(&mut self) -> Vec<(u32, bool)> {
        let mut ended = Vec::new();
        for (&pid, known) in &mut self.known {
            if known.ended || known.process.start_ticks == 0 {
                continue;
            }
            match Presence::of(pid) {
                Presence::Unknown => {}
                Presence::Alive(ticks) if ticks == known.process.start_ticks => {}
                now => {
                    known.ended = true;
                    ended.push((pid, now != Presence::Ended));
                }
            }
        }
        for &(pid, _) in ended.iter().filter(|(_, reused)| *reused) {
            if let Some(known) = self.known.remove(&pid) {
                if self.former.len() >= REMEMBERED {
                    self.former.clear();
                }
                self.former.insert(pid, known.process);
            }
        }
        ended
    }

    /// All processes.
    pub fn save(&self) -> Vec<Process> {
        let known = self.known.values().map(|known| &known.process);
        known.map(|process| process.as_ref().clone()).collect()
    }

    /// Takes over saved ones; those that have ended meanwhile are found out as ever.
    pub fn restore(&mut self, saved: Vec<Process>) {
        for process in saved {
            self.known.insert(process.pid, Known::new(process));
        }
    }

    /// Notes the language runtime of a process.
    pub fn set_runtime(&mut self, pid: u32, runtime: &str) {
        self.get(pid);
        if let Some(known) = self.known.get_mut(&pid) {
            Arc::make_mut(&mut known.process).runtime = Some(runtime.to_owned());
        }
    }

    /// The process runs another program now: it is read again at the next sight.
    pub fn forget(&mut self, pid: u32) {
        self.known.remove(&pid);
    }
}

fn pod_of(pods: &mut Pods, cluster: Option<&Cluster>, process: &Process) -> Option<Pod> {
    let uid = process.pod_uid.as_deref()?;
    let container_id = process.container_id.as_deref();
    let by_folder = pods.of(uid, container_id);
    let Some(known) = cluster.and_then(|cluster| cluster.pod(uid)) else {
        return by_folder;
    };
    Some(Pod {
        namespace: known.namespace.clone(),
        name: known.name.clone(),
        container: container_id.and_then(|id| pods.container(id)),
        workload: known.workload.clone(),
        labels: known.labels.clone(),
        ignored: known.ignored,
    })
}

fn unknown(pid: u32) -> Process {
    Process {
        pid,
        ns_pid: None,
        start_ticks: 0,
        comm: String::new(),
        exe: None,
        runtime: None,
        container_id: None,
        pod_uid: None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_ended_is_kept_while_a_socket_of_it_is_held() {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = cat.id();
        let mut processes = Processes::default();
        assert_ne!(processes.get(pid).start_ticks, 0);
        let holding = HashSet::from([pid]);
        assert!(processes.gone(&holding).is_empty() && !processes.has_ended(pid));
        drop(cat.stdin.take());
        cat.wait().unwrap();
        assert!(processes.gone(&holding).is_empty() && processes.has_ended(pid));
        assert_eq!(processes.gone(&HashSet::new()), [pid]);
        assert!(!processes.has_ended(pid));
        assert_ne!(processes.get(pid).start_ticks, 0, "its name is kept");
    }
}
