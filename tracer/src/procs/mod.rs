//! What /proc and the cgroup tree say about processes.
//!
//! Processes end at any moment: everything here answers `None` or an empty list for one that is
//! gone, and never fails. The parsers are in [`parse`] and work on text alone.

pub mod budget;
pub mod capabilities;
pub mod cgroup;
pub mod clock;
pub mod listeners;
pub mod maps;
pub mod parse;
pub mod pods;
pub mod presence;
pub mod privileges;
pub mod system_calls;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::PathBuf,
};

pub use cgroup::{cgroup_id, cgroup_level, cgroup_pids, container_cgroup};
pub use clock::Clock;
pub use presence::{Presence, is_shortage, raise_descriptor_limit};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::model::Process;

fn proc_file(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn read_text(pid: u32, name: &str) -> Option<String> {
    // Names of processes need not be UTF-8.
    fs::read(proc_file(pid, name))
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads what is known of a process; `runtime` stays empty. `None` when it is gone.
#[must_use]
pub fn read(pid: u32) -> Option<Process> {
    let stat = parse::stat(&read_text(pid, "stat")?)?;
    let ns_pid = read_text(pid, "status")
        .and_then(|text| parse::ns_pids(&text).last().copied())
        .filter(|&inner| inner != pid);
    let cgroups = read_text(pid, "cgroup").map(|text| parse::cgroups(&text));
    let cgroups = cgroups.unwrap_or_default();
    Some(Process {
        pid,
        ns_pid,
        start_ticks: stat.start_ticks,
        comm: stat.comm,
        exe: exe(pid),
        runtime: None,
        container_id: parse::container_id_of(&cgroups),
        pod_uid: parse::pod_uid_of(&cgroups),
    })
}

/// The `/tmp` of a process, to open files in: every link on the way is taken as the process would
/// take it, so none leads out of its root.
///
/// # Errors
/// When the process is gone, has no `/tmp`, or is another user's and `CAP_SYS_PTRACE` is missing.
pub fn tmp(pid: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(proc_file(pid, "root"), flags, Mode::empty())?;
    let tmp = openat2(&root, "tmp", flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    Ok(tmp)
}

/// The executable's path as the process sees it, without the kernel's ` (deleted)`. `None` for
/// kernel threads, and for processes of others without `CAP_SYS_PTRACE`.
#[must_use]
pub fn exe(pid: u32) -> Option<String> {
    let link = fs::read_link(proc_file(pid, "exe")).ok()?;
    let text = link.to_string_lossy();
    Some(text.strip_suffix(" (deleted)").unwrap_or(&text).to_owned())
}

/// Start time of a process, clock ticks since boot; `None` when it is gone, only its zombie is
/// left, or it can't be looked at now (see [`Presence`]).
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    match Presence::of(pid) {
        Presence::Alive(ticks) => Some(ticks),
        Presence::Ended | Presence::Unknown => None,
    }
}

/// Whether the very process that started at `start_ticks` is still alive, not another one that
/// got its number; also where nobody can tell.
#[must_use]
pub fn alive(pid: u32, start_ticks_then: u64) -> bool {
    match Presence::of(pid) {
        Presence::Alive(ticks) => ticks == start_ticks_then,
        Presence::Ended => false,
        Presence::Unknown => true,
    }
}

/// All processes that are visible in /proc.
///
/// # Errors
/// When /proc can't be listed now: then nothing is known.
pub fn all() -> io::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// Children of a process, their children, and so on, as of now; not the process itself.
///
/// Read from the parents' numbers in `/proc/PID/stat`: `/proc/PID/task/*/children` is missing
/// without `CONFIG_PROC_CHILDREN`. A child whose parent ended belongs to another parent then and
/// is not found.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for process in all().unwrap_or_default() {
        if let Some(stat) = read_text(process, "stat").and_then(|text| parse::stat(&text)) {
            children.entry(stat.parent).or_default().push(process);
        }
    }
    below(pid, &children)
}

/// Walks the tree of processes; pids reused while /proc was read could form a loop, so each is
/// visited once.
fn below(pid: u32, children: &HashMap<u32, Vec<u32>>) -> Vec<u32> {
    let mut seen = HashSet::from([pid]);
    let mut found = Vec::new();
    let mut waiting = vec![pid];
    while let Some(parent) = waiting.pop() {
        for &child in children.get(&parent).into_iter().flatten() {
            if seen.insert(child) {
                found.push(child);
                waiting.push(child);
            }
        }
    }
    found.sort_unstable();
    found
}

/// Open descriptors of a process and its soft limit for them (`u64::MAX` when unlimited); `None`
/// when it is gone or may not be looked at.
#[must_use]
pub fn fd_usage(pid: u32) -> Option<(u64, u64)> {
    let directory = proc_file(pid, "fd");
    // Since Linux 6.2 the directory's size is the number of descriptors (fs/proc/fd.c).
    let open = match fs::metadata(&directory).ok()?.size() {
        0 => fs::read_dir(&directory).ok()?.count() as u64,
        size => size,
    };
    let limit = parse::open_files_limit(&read_text(pid, "limits")?)?;
    Some((open, limit))
}

/// Inodes of the sockets that a process holds, each with one of its descriptors.
///
/// # Errors
/// The error of listing `/proc/PID/fd`: the process is gone, or `CAP_SYS_PTRACE` is missing.
pub fn socket_fds(pid: u32) -> io::Result<Vec<(i32, u64)>> {
    let mut sockets = Vec::new();
    for entry in fs::read_dir(proc_file(pid, "fd"))? {
        let Ok(entry) = entry else { continue };
        let fd = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let inode = fs::read_link(entry.path())
            .ok()
            .and_then(|link| parse::socket_inode(link.to_str()?));
        if let (Some(fd), Some(inode)) = (fd, inode) {
            sockets.push((fd, inode));
        }
    }
    Ok(sockets)
}

/// Network namespace of a process, by inode number; `None` when it is gone or may not be looked at.
#[must_use]
pub fn network(pid: u32) -> Option<u64> {
    fs::metadata(proc_file(pid, "ns/net")).ok().map(|m| m.ino())
}

/// Whether two processes see the same network: `None` when either is gone or may not be looked
/// at.
#[must_use]
pub fn same_network(pid: u32, other: u32) -> Option<bool> {
    Some(network(pid)? == network(other)?)
}

/// The kernel's default `ip_local_port_range` (net/ipv4/af_inet.c).
pub const EPHEMERAL_RANGE_DEFAULT: (u16, u16) = (32_768, 60_999);

/// First and last ephemeral port in the network namespace of a process; the kernel's default when
/// it can't be read.
#[must_use]
pub fn ephemeral_range(pid: u32) -> (u16, u16) {
    let text = match same_network(pid, std::process::id()) {
        Some(true) => fs::read_to_string(EPHEMERAL_RANGE).ok(),
        // /proc/sys/net shows the namespace of whoever reads it
        _ => std::thread::spawn(move || {
            let namespace = fs::File::open(proc_file(pid, "ns/net")).ok()?;
            rustix::thread::move_into_link_name_space(
                namespace.as_fd(),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )
            .ok()?;
            fs::read_to_string(EPHEMERAL_RANGE).ok()
        })
        .join()
        .ok()
        .flatten(),
    };
    let text = text.unwrap_or_default();
    let mut words = text.split_whitespace().filter_map(|word| word.parse().ok());
    match (words.next(), words.next()) {
        (Some(first), Some(last)) => (first, last),
        _ => EPHEMERAL_RANGE_DEFAULT,
    }
}

const EPHEMERAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        process::{Command, Stdio, id},
    };

    use super::*;

    #[test]
    fn the_own_process_is_read() {
        let own = read(id()).unwrap();
        assert_eq!(own.pid, id());
        assert!(own.start_ticks > 0);
        assert_eq!(
            own.exe.as_deref(),
            std::env::current_exe().unwrap().to_str()
        );
        assert!(alive(id(), own.start_ticks));
        assert!(!alive(id(), own.start_ticks + 1));
    }

    #[test]
    fn links_lead_nowhere_outside_of_a_root() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("only/inside/mark")).unwrap();
        std::os::unix::fs::symlink("/only/inside", root.path().join("tmp")).unwrap();
        // Who is not root may change the root of a user namespace.
        let user = rustix::process::geteuid();
        let words = ["unshare", "--map-root-user", "python3", "-c"];
        let words = words.get(if user.is_root() { 2 } else { 0 }..).unwrap();
        let script = "import os, sys; os.chroot(sys.argv[1]); print(flush=True); sys.stdin.read()";
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .arg(script)
            .arg(root.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "\n", "python3 could not change its root");
        let directory = tmp(child.id());
        drop(child.stdin.take());
        child.wait().unwrap();
        let mark = openat2(
            directory.unwrap(),
            "mark",
            OFlags::PATH,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        );
        assert!(mark.is_ok());
    }

    #[test]
    fn a_child_is_a_descendant_until_it_ends() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id();
        assert!(descendants(id()).contains(&pid));
        let started = start_ticks(pid).unwrap();
        assert!(alive(pid, started));
        child.stdin.take().unwrap().flush().unwrap();
        child.wait().unwrap();
        assert!(!alive(pid, started));
        assert!(read(pid).is_none());
    }

    #[test]
    fn descriptors_are_counted_against_the_soft_limit() {
        let (open, limit) = fd_usage(id()).unwrap();
        assert!(open >= 3, "{open}");
        assert!(limit >= open);
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let inode = fs::metadata(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&one)
        ))
        .unwrap()
        .ino();
        assert!(
            socket_fds(id())
                .unwrap()
                .iter()
                .any(|&(_, known)| known == inode)
        );
        assert_eq!(same_network(id(), id()), Some(true));
    }

    #[test]
    fn a_loop_of_reused_pids_ends() {
        let children = HashMap::from([(1, vec![2]), (2, vec![3, 1]), (3, vec![2])]);
        assert_eq!(below(1, &children), [2, 3]);
    }
}
