//! Who listens on a UNIX socket, by its path: from the kernel's table and the descriptors of processes.

use std::collections::{HashMap, HashSet};

use super::{Presence, all, parse, read_text, socket_fds};

/// Paths remembered.
const PATHS_MAX: usize = 1_024;
/// How long an answer holds, nanoseconds.
const FRESH_NS: u64 = 120_000_000_000;
/// The first process of all: it opens sockets for others, and keeps them.
const INIT: u32 = 1;

/// A process by id and name.
type Named = (u32, String);

/// Answers so far.
#[derive(Debug, Default)]
pub struct Listeners {
    /// By a process that sees the path, and the path.
    known: HashMap<(u32, String), (u64, Option<Named>)>,
}

impl Listeners {
    /// Who listens on a path, or an abstract name behind an `@`, as the process `pid` sees it; `None`
    /// where that is nobody whom one can look at, or nobody's alone.
    pub fn of(&mut self, pid: u32, path: &str, now_ns: u64) -> Option<Named> {
        let key = (pid, path.to_owned());
        if let Some((asked_ns, answer)) = self.known.get(&key) {
            let lives = |of: &Named| Presence::of(of.0) != Presence::Ended;
            if now_ns.saturating_sub(*asked_ns) < FRESH_NS && answer.as_ref().is_none_or(lives) {
                return answer.clone();
            }
        }
        if self.known.len() >= PATHS_MAX {
            self.known.clear();
        }
        let answer = find(pid, path);
        self.known.insert(key, (now_ns, answer.clone()));
        answer
    }
}

fn find(pid: u32, path: &str) -> Option<Named> {
    let table = read_text(pid, "net/unix")?;
    let inodes: HashSet<u64> = parse::unix_listeners(&table)
        .filter(|(_, of)| *of == path)
        .map(|(inode, _)| inode)
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let holds = |pid: &u32| {
        let held = socket_fds(*pid).unwrap_or_default();
        held.iter().any(|(_, inode)| inodes.contains(inode))
    };
    let mut holders: Vec<u32> = all().ok()?.into_iter().filter(holds).collect();
    // numbers begin anew once they have run out, so that a worker's may be the lower one
    holders.sort_by_cached_key(|&pid| match Presence::of(pid) {
        Presence::Alive(since) => (since, pid),
        _ => (u64::MAX, pid),
    });
    if holders.len() > 1 {
        holders.retain(|&pid| pid != INIT);
    }
    let named = |pid: u32| Some((pid, read_text(pid, "comm")?.trim_end().to_owned()));
    let first = named(*holders.first()?)?;
    // a server's workers have its name; with another one it is anybody's
    let same = |&pid: &u32| named(pid).is_none_or(|(_, comm)| comm == first.1);
    holders.iter().all(same).then_some(first)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_listener_of_a_path_is_found_and_nobody_of_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let own = std::process::id();
        let mut listeners = Listeners::default();
        let path = path.to_str().unwrap();
        assert_eq!(listeners.of(own, path, 1).map(|(pid, _)| pid), Some(own));
        assert_eq!(listeners.of(own, "/no/such/socket", 1), None);
    }
}
