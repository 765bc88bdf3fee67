//! From the TARGET options to what the collector watches.

use std::path::{Path, PathBuf};

use super::{Failure, args::TargetArgs};
use crate::{procs, procs::cgroup, session::Target};

/// Shortest prefix of a container id that is accepted, as printed by `docker ps`.
const CONTAINER_DIGITS_MIN: usize = 12;

/// Resolves the options; nothing given means the whole host.
///
/// # Errors
/// [`Failure`] (status 2) naming the process, cgroup or container that is not there.
pub fn resolve(args: &TargetArgs) -> Result<Target, Failure> {
    if !args.pid.is_empty() {
        return processes(&args.pid);
    }
    if let Some(path) = &args.cgroup {
        return cgroup(path).map(Target::Cgroup);
    }
    if let Some(id) = &args.container {
        return container(id).map(Target::Cgroup);
    }
    Ok(Target::Host)
}

fn processes(pids: &[u32]) -> Result<Target, Failure> {
    for &pid in pids {
        if procs::start_ticks(pid).is_none() {
            return Err(Failure::usage(format!(
                "--pid: there is no running process {pid} (pids are those of the host, as `ps` \
                 shows them there)"
            )));
        }
    }
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    pids.dedup();
    Ok(Target::Processes(pids))
}

fn cgroup(path: &Path) -> Result<PathBuf, Failure> {
    let wrong = |what: &str| {
        Failure::usage(format!(
            "--cgroup: {} {what}; give a directory below /sys/fs/cgroup",
            path.display()
        ))
    };
    let path = path
        .canonicalize()
        .map_err(|e| wrong(&format!("cannot be opened: {e}")))?;
    match cgroup::hierarchy(&path) {
        Some(_) => Ok(path),
        None => Err(wrong("is no cgroup directory")),
    }
}

fn container(id: &str) -> Result<PathBuf, Failure> {
    let wrong = |what: &str| Failure::usage(format!("--container: {what}"));
    if id.len() < CONTAINER_DIGITS_MIN || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong(&format!(
            "`{id}` is no container id; give {CONTAINER_DIGITS_MIN} or more of its hexadecimal \
             digits, as `docker ps` or `crictl ps` show them"
        )));
    }
    procs::container_cgroup(id).ok_or_else(|| {
        wrong(&format!(
            "no cgroup of a container {id} was found, or several begin with these digits; is it \
             running, and is the host's /sys/fs/cgroup visible here?"
        ))
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;

    #[test]
    fn nothing_means_the_host() {
        assert_eq!(resolve(&TargetArgs::default()).unwrap(), Target::Host);
    }

    #[test]
    fn pids_must_exist_and_count_once() {
        let own = std::process::id();
        let args = |pid| TargetArgs {
            pid,
            ..TargetArgs::default()
        };
        assert_eq!(
            resolve(&args(vec![own, own])).unwrap(),
            Target::Processes(vec![own])
        );
        let failure = resolve(&args(vec![own, 4_194_305])).unwrap_err();
        assert_eq!(failure.status, 2);
        assert!(failure.to_string().contains("4194305"), "{failure}");
    }

    #[test]
    fn cgroups_and_containers_that_are_not_there_are_named() {
        for (cgroup, container, name) in [
            (Some("/no/such/cgroup"), None, "/no/such/cgroup"),
            (Some("/proc"), None, "/proc"),
            (None, Some("web"), "web"),
            (None, Some("00000000000f"), "00000000000f"),
        ] {
            let failure = resolve(&TargetArgs {
                pid: Vec::new(),
                cgroup: cgroup.map(PathBuf::from),
                container: container.map(str::to_owned),
            })
            .unwrap_err();
            assert_eq!(failure.status, 2);
            assert!(failure.to_string().contains(name), "{failure}");
        }
    }
}
