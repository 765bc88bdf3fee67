//! Go programs in view: which processes, and what their connection pools say.

mod sites;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
    time::Duration,
};

use tracer_ebpf::{
    GO_CALL, GoConn, GoFinalizedKey, GoKey, GoLayout, GoProcess, GoStack, STACK_GO, STACK_TICKET,
};

use super::{
    creations::Creations,
    live,
    live::Now,
    offsets::Members,
    preexisting,
    programs::{Admitted, FileOffsets, GoProgram, Programs},
    settings,
    settings::TransportSettings,
    state,
    state::{GoConnection, GoKind, Implausible},
};
use crate::memory::{Budgeted, ProcessMemory};
use crate::{
    kernel::{
        maps::Table,
        pins::Pins,
        probes::{ProbeError, Probes},
    },
    model::{PoolState, Site},
    procs::{self, clock::monotonic_ns},
    symbols::blame::Blame,
};

/// Names kept of stacks.
const SITES_MAX: usize = 8_192;
/// Entries that made no sense before a program's layout is not believed any more.
const IMPLAUSIBLE_MAX: u32 = 3;

/// A watched Go process.
#[derive(Debug)]
struct GoProc {
    program: (u64, u64),
    bias: u64,
    /// Entries that made no sense, and those that did.
    implausible: u32,
    plausible: u32,
    /// Its memory could not be read at the latest sweep.
    unreadable: bool,
    /// When to look once more for connections from before the probes: what was in motion at the
    /// first look rests by then.
    look_again_ns: Option<u64>,
}

/// Time between the two looks at a process's memory.
const LOOK_AGAIN_NS: u64 = 2_000_000_000;
/// Time for finding the connections that a process had before its probes.
const EARLIER_TIME_MAX: Duration = Duration::from_secs(1);

/// Watches the connection pools of Go programs. Used from one thread.
#[derive(Debug)]
pub struct GoTracer {
    blame: Arc<Blame>,
    programs: Programs,
    processes: BTreeMap<u32, GoProc>,
    sites: HashMap<u32, Arc<Site>>,
    creations: Creations,
    settings: HashMap<(u32, u64), Option<TransportSettings>>,
    in_kernel: Tables,
    /// Connections as an earlier daemon left them: how they went on is found out in the process.
    earlier: HashMap<GoKey, GoConn>,
}

#[derive(Debug)]
struct Tables {
    processes: Table<u32, GoProcess>,
    layouts: Table<u32, GoLayout>,
    conns: Table<GoKey, GoConn>,
    stacks: Table<u32, GoStack>,
    finalized: Table<GoFinalizedKey, u64>,
}

/// `true` for stack ids that [`GoTracer::site`] knows.
#[must_use]
pub fn is_go_stack(id: u32) -> bool {
    id & (STACK_GO | STACK_TICKET) == STACK_GO
}

impl GoTracer {
    /// Takes over the Go part of loaded programs; nothing is attached yet.
    ///
    /// # Errors
    /// [`ProbeError`] when the maps that are needed are not there.
    pub fn new(probes: &mut Probes, blame: Arc<Blame>) -> Result<GoTracer, ProbeError> {
        let in_kernel = Tables {
            processes: probes.table("GO_PROCESSES")?,
            layouts: probes.table("GO_LAYOUTS")?,
            conns: probes.table("GO_CONNS")?,
            stacks: probes.table("GO_STACKS")?,
            finalized: probes.table("GO_FINALIZED")?,
        };
        let offsets = probes.offsets();
        let kernel = FileOffsets {
            task_files: offsets.task_files,
            files_fdt: offsets.files_fdt,
            fdt_fd: offsets.fdt_fd,
        };
        let mut earlier = HashMap::new();
        if probes.pins().is_some_and(Pins::resumed) {
            let read = |e: io::Error| ProbeError::Load(format!("the maps of Go programs: {e}"));
            // its numbers of layouts are not ours, and its probes ended with it
            in_kernel.processes.drain(|_, _| {}).map_err(read)?;
            in_kernel
                .conns
                .drain(|key, conn| {
                    earlier.insert(*key, *conn);
                })
                .map_err(read)?;
        }
        Ok(GoTracer {
            earlier,
            blame,
            programs: Programs::new(kernel),
            processes: BTreeMap::new(),
            sites: HashMap::new(),
            creations: Creations::default(),
            settings: HashMap::new(),
            in_kernel,
        })
    }

    /// Looks at a process that came into view or executed another program. Attaches probes when
    /// it is the first of its Go executable; does nothing for other programs and for processes
    /// that are known.
    ///
    /// # Errors
    /// When the process is gone, may not be read, or the kernel side is full. `WouldBlock` while
    /// probes that its executable had before are being detached: to be tried again.
    pub fn consider(&mut self, probes: &mut Probes, pid: u32) -> io::Result<bool> {
        if self.processes.contains_key(&pid) {
            return Ok(true);
        }
        let tables = &self.in_kernel;
        let admitted = self
            .programs
            .admit(probes.ebpf_mut(), pid, |number, layout| {
                tables.layouts.set(&number, layout)
            })?;
        let Admitted::Go { program, process } = admitted else {
            return Ok(false);
        };
        if let Some(process) = &process {
            tables.processes.set(&pid, process)?;
        }
        let bias = process.map_or(0, |p| p.bias);
        let probed = process.is_some();
        self.processes.insert(
            pid,
            GoProc {
                program,
                bias,
                implausible: 0,
                plausible: 0,
                unreadable: false,
                look_again_ns: probed.then(|| monotonic_ns() + LOOK_AGAIN_NS),
            },
        );
        if probed {
            // After attaching, so that nothing falls between.
            self.find_earlier(probes, pid)?;
        }
        Ok(true)
    }

    /// Looks a second time for connections from before the probes, where it is time.
    pub fn look_again(&mut self, probes: &Probes) {
        let now_ns = monotonic_ns();
        let mut due = Vec::new();
        for (pid, process) in &mut self.processes {
            if process.look_again_ns.is_some_and(|at| at <= now_ns) {
                process.look_again_ns = None;
                due.push(*pid);
            }
        }
        for pid in due {
            // A process that has ended has nothing to show.
            if let Err(error) = self.find_earlier(probes, pid) {
                tracing::debug!(pid, %error, "not looked at again");
            }
        }
    }

    /// Adds the connections that a process had before it was probed.
    fn find_earlier(&mut self, probes: &Probes, pid: u32) -> io::Result<()> {
        let (Some(process), Some(program)) = (self.processes.get(&pid), self.program_of(pid))
        else {
            return Ok(());
        };
        let found = preexisting::connections(
            &program.binary,
            &program.members,
            &Budgeted::new(&ProcessMemory::open(pid)?, EARLIER_TIME_MAX),
            process.bias,
            monotonic_ns(),
        );
        tracing::debug!(
            pid,
            found = found.len(),
            "connections from before the probes"
        );
        if found.is_empty() {
            return Ok(());
        }
        let descriptors: HashMap<i32, u64> = procs::socket_fds(pid)?.into_iter().collect();
        let mut sockets = HashMap::new();
        probes.socks.for_each(|&sk, sock| {
            if sock.tgid == pid || sock.holder == pid {
                sockets.insert(u64::from(sock.inode), sk);
            }
        })?;
        for preexisting::Found { object, mut conn } in found {
            let key = GoKey {
                object,
                tgid: pid,
                pad: 0,
            };
            let Some(&inode) = descriptors.get(&conn.fd) else {
                continue;
            };
            conn.inode = u32::try_from(inode).unwrap_or(0);
            conn.sk = sockets.get(&inode).copied().unwrap_or(0);
            if let Some(known) = self.earlier.remove(&key) {
                conn = gone_on(&known, conn);
            }
            // What a probe has seen meanwhile is newer.
            if self.in_kernel.conns.get(&key)?.is_none() {
                self.in_kernel.conns.set(&key, &conn)?;
            }
        }
        Ok(())
    }

    /// Forgets a process that has ended or executes another program. Probes of an executable
    /// without processes are detached.
    pub fn forget_process(&mut self, pid: u32) {
        let Some(process) = self.processes.remove(&pid) else {
            return;
        };
        let _ = self.in_kernel.processes.remove(&pid);
        let ended = self.programs.dismiss(process.program, pid);
        self.settings.retain(|(of, _), _| *of != pid);
        self.forget_entries(|tgid| tgid == pid);
        let mut stacks = Vec::new();
        let _ = self.in_kernel.stacks.for_each(|id, stack| {
            if stack.tgid == pid {
                stacks.push(*id);
            }
        });
        for id in &stacks {
            let _ = self.in_kernel.stacks.remove(id);
            self.sites.remove(id);
        }
        let file = ended.then_some(process.program);
        self.creations.forget(file, &stacks);
    }

    fn forget_entries(&self, gone: impl Fn(u32) -> bool) {
        let mut keys = Vec::new();
        let _ = self.in_kernel.conns.for_each(|key, _| {
            if gone(key.tgid) {
                keys.push(*key);
            }
        });
        for key in keys {
            let _ = self.in_kernel.conns.remove(&key);
        }
    }

    /// Every connection and stream that the watched programs know. A program whose entries make no
    /// sense is not believed from then on, and its probes are detached.
    ///
    /// # Errors
    /// The kernel's, when the map can't be read.
    pub fn sweep(&mut self) -> io::Result<Vec<GoConnection>> {
        let mut connections = Vec::new();
        let mut implausible: Vec<(GoKey, &'static str)> = Vec::new();
        let mut odd: Vec<(GoKey, &'static str)> = Vec::new();
        let mut entries = Vec::new();
        self.in_kernel
            .conns
            .for_each(|key, conn| entries.push((*key, *conn)))?;
        entries.retain(|(_, conn)| conn.kind != GO_CALL);
        for (key, conn) in entries {
            let again = || self.in_kernel.conns.get(&key);
            let Some(conn) = state::in_one_piece(conn, again)? else {
                continue;
            };
            match state::connection(&key, &conn) {
                Ok(connection) => {
                    if let Some(what) = connection.odd {
                        odd.push((key, what));
                    } else if let Some(process) = self.processes.get_mut(&key.tgid) {
                        process.plausible = process.plausible.saturating_add(1);
                    }
                    connections.push(connection);
                }
                Err(Implausible(what)) => implausible.push((key, what)),
            }
        }
        self.look(&mut connections, &mut implausible);
        for (key, _) in &implausible {
            let _ = self.in_kernel.conns.remove(key);
        }
        for (key, what) in implausible.into_iter().chain(odd) {
            let Some(process) = self.processes.get_mut(&key.tgid) else {
                continue;
            };
            process.implausible = process.implausible.saturating_add(1);
            // One odd request is not another layout: of that, nothing makes sense.
            if process.implausible >= IMPLAUSIBLE_MAX && process.plausible < process.implausible {
                let program = process.program;
                self.distrust(
                    program,
                    &format!("its structures have another layout ({what} makes no sense)"),
                );
            }
        }
        connections.retain(|c| {
            self.program_of(c.tgid)
                .is_some_and(|p| p.kernel_only.is_none())
        });
        Ok(connections)
    }

    /// Reads from memory how connections of HTTP/1 are doing; those that were closed go.
    fn look(
        &mut self,
        connections: &mut Vec<GoConnection>,
        implausible: &mut Vec<(GoKey, &'static str)>,
    ) {
        let mut memories: HashMap<u32, Option<ProcessMemory>> = HashMap::new();
        let mut closed = Vec::new();
        connections.retain_mut(|connection| {
            if connection.kind == GoKind::Stream || connection.state == PoolState::Released {
                return true;
            }
            let pid = connection.tgid;
            let memory = memories
                .entry(pid)
                .or_insert_with(|| ProcessMemory::open(pid).ok());
            let now = match (memory, self.program_of(pid)) {
                (Some(memory), Some(program)) => live::look(memory, &program.members, connection),
                _ => Ok(Now::Unreadable),
            };
            match now {
                Ok(Now::State { state, fresh }) => {
                    connection.state = state;
                    connection.fresh = fresh;
                }
                Ok(Now::Unreadable) => {
                    connection.state = PoolState::Unknown;
                    connection.fresh = false;
                }
                Ok(Now::Closed) => closed.push(connection.clone()),
                Err(Implausible(what)) => implausible.push((connection.key(), what)),
            }
            matches!(now, Ok(Now::State { .. } | Now::Unreadable))
        });
        for connection in closed {
            // Its memory may be another connection's since then.
            let kept = self.in_kernel.conns.get(&connection.key());
            if kept.is_ok_and(|kept| kept.is_some_and(|kept| kept.inode == connection.inode)) {
                self.forget_connection(&connection);
            }
        }
        for (pid, process) in &mut self.processes {
            if let Some(memory) = memories.get(pid) {
                process.unreadable = memory.is_none();
            }
        }
    }

    /// Processes whose memory may not be read, so that the states of their connections are not
    /// known.
    pub fn unreadable(&self) -> impl Iterator<Item = u32> {
        let unreadable = self.processes.iter().filter(|(_, p)| p.unreadable);
        unreadable.map(|(pid, _)| *pid)
    }

    fn distrust(&mut self, program: (u64, u64), reason: &str) {
        let pids = self.programs.distrust(program, reason);
        for pid in &pids {
            let _ = self.in_kernel.processes.remove(pid);
        }
        self.forget_entries(|tgid| pids.contains(&tgid));
    }

    /// Forgets the entry of a connection whose socket is gone.
    pub fn forget_connection(&mut self, connection: &GoConnection) {
        let _ = self.in_kernel.conns.remove(&connection.key());
    }

    /// The live settings of a transport, read once.
    pub fn settings(&mut self, pid: u32, transport: u64) -> Option<TransportSettings> {
        if let Some(known) = self.settings.get(&(pid, transport)) {
            return *known;
        }
        let members: Members = self.program_of(pid)?.members;
        let read = ProcessMemory::open(pid)
            .ok()
            .and_then(|memory| settings::read(&memory, &members, transport));
        if self.settings.len() >= SITES_MAX {
            self.settings.clear();
        }
        self.settings.insert((pid, transport), read);
        read
    }

    /// Connections that a finalizer closed since watching began, by the kernel's stack ids.
    ///
    /// # Errors
    /// The kernel's, when the map can't be read.
    pub fn finalized(&self) -> io::Result<Vec<(GoFinalizedKey, u64)>> {
        let mut all = Vec::new();
        self.in_kernel
            .finalized
            .for_each(|key, count| all.push((*key, *count)))?;
        Ok(all)
    }

    /// The program that a process runs, when it is a Go program in view.
    #[must_use]
    pub fn program_of(&self, pid: u32) -> Option<&GoProgram> {
        self.programs.get(self.processes.get(&pid)?.program)
    }

    /// Every executable in view.
    pub fn programs(&self) -> impl Iterator<Item = &GoProgram> {
        self.programs.iter()
    }

    /// The Go version that a process runs, such as `go1.27.3`.
    #[must_use]
    pub fn version(&self, pid: u32) -> Option<&str> {
        self.program_of(pid)
            .map(|p| p.binary.info.version.as_str())
            .filter(|v| !v.is_empty())
    }
}

/// A connection that was known, with the state it is in now. What was requested since, nobody saw.
fn gone_on(known: &GoConn, now: GoConn) -> GoConn {
    let same = known.inode == now.inode && (now.path_len == 0 || known.path == now.path);
    if !same {
        return now;
    }
    GoConn {
        sk: now.sk,
        fd: now.fd,
        state: now.state,
        state_ns: if known.state == now.state {
            known.state_ns
        } else {
            now.state_ns
        },
        requests: known.requests.max(now.requests),
        ..*known
    }
}
