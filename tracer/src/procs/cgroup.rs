//! The cgroup tree: v2, v1 and hybrid hosts.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use rustix::fs::statfs;

use super::{
    all, is_shortage, parse,
    parse::{Membership, Mount},
    read_text,
};

/// `f_type` of cgroup2 (include/uapi/linux/magic.h).
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// `f_type` of cgroup v1.
const CGROUP1_MAGIC: u64 = 0x0027_e0eb;
/// Inode of the first cgroup namespace (`PROC_CGROUP_INIT_INO`, include/linux/proc_ns.h).
const FIRST_NAMESPACE: u64 = 0xEFFF_FFFB;
/// Directories below a cgroup are followed this deep; real trees are shallower.
const DEPTH_MAX: usize = 64;

/// Which kind of hierarchy a directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hierarchy {
    /// cgroup v2: the kernel can filter by its id.
    V2,
    /// cgroup v1: only its list of processes can be used.
    V1,
}

/// Which hierarchy `path` is in; `None` when it is no cgroup directory.
#[must_use]
pub fn hierarchy(path: &Path) -> Option<Hierarchy> {
    if !path.is_dir() {
        return None;
    }
    // The field's type differs between architectures; the numbers fit all of them.
    match statfs(path).ok()?.f_type as u64 {
        CGROUP2_MAGIC => Some(Hierarchy::V2),
        CGROUP1_MAGIC => Some(Hierarchy::V1),
        _ => None,
    }
}

/// The kernel's id of a cgroup v2 directory, as `bpf_get_current_cgroup_id` gives it: its inode
/// number (`kernfs_node` ids are inode numbers on 64-bit kernels). `None` for v1 or no cgroup.
#[must_use]
pub fn cgroup_id(path: &Path) -> Option<u64> {
    match hierarchy(path)? {
        Hierarchy::V2 => fs::metadata(path).ok().map(|meta| meta.ino()),
        Hierarchy::V1 => None,
    }
}

/// Level of a cgroup v2 directory below the root, as `bpf_get_current_ancestor_cgroup_id` counts
/// (the root is 0). `None` for v1, and inside a cgroup namespace, where the depth of what is seen
/// as the root can't be known.
#[must_use]
pub fn cgroup_level(path: &Path) -> Option<u32> {
    if hierarchy(path)? != Hierarchy::V2
        || fs::metadata("/proc/self/ns/cgroup").ok()?.ino() != FIRST_NAMESPACE
    {
        return None;
    }
    let path = path.canonicalize().ok()?;
    mounts()
        .iter()
        .filter(|mount| mount.controllers.is_empty())
        .find_map(|mount| level_below(&path, mount))
}

fn level_below(path: &Path, mount: &Mount) -> Option<u32> {
    let below = path.strip_prefix(&mount.point).ok()?;
    let names = |path: &Path| {
        path.components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .count()
    };
    u32::try_from(names(below) + names(Path::new(&mount.root))).ok()
}

fn mounts() -> Vec<Mount> {
    let mountinfo = fs::read("/proc/self/mountinfo").unwrap_or_default();
    parse::cgroup_mounts(&String::from_utf8_lossy(&mountinfo))
}

/// Processes in a cgroup directory and all below it, on v1 and v2.
///
/// # Errors
/// When there are no descriptors or no memory to look: then nothing is known. A directory that is
/// gone has no processes.
pub fn cgroup_pids(path: &Path) -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    let mut waiting = vec![(path.to_owned(), 0)];
    while let Some((directory, depth)) = waiting.pop() {
        match fs::read_to_string(directory.join("cgroup.procs")) {
            // 0 stands for a process of another pid namespace.
            Ok(text) => pids.extend(
                text.lines()
                    .filter_map(|l| l.parse::<u32>().ok())
                    .filter(|&pid| pid != 0),
            ),
            Err(error) if is_shortage(&error) => return Err(error),
            Err(_) => {}
        }
        if depth == DEPTH_MAX {
            continue;
        }
        let entries = match fs::read_dir(&directory) {
            Err(error) if is_shortage(&error) => return Err(error),
            entries => entries,
        };
        for entry in entries.into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push((entry.path(), depth + 1));
            }
        }
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Where a membership's directory is to be found below a mount, if that mount shows it.
fn directory(membership: &Membership, mount: &Mount) -> Option<PathBuf> {
    let same = if membership.unified() {
        mount.controllers.is_empty()
    } else {
        membership
            .controllers
            .iter()
            .all(|name| mount.controllers.contains(name))
    };
    if !same {
        return None;
    }
    let below = Path::new(&membership.path).strip_prefix(&mount.root).ok()?;
    // A path that leaves the namespace's root can only be shown by a mount of that outer root.
    if below.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    Some(Path::new(&mount.point).join(below))
}

/// The cgroup directory of a container, given its id or the first 12 digits or more of it: by the
/// cgroups of running processes, else by name in the cgroup tree. v2 directories are preferred,
/// since the kernel can filter by them. `None` when there is none, or more than one container has
/// that prefix.
#[must_use]
pub fn container_cgroup(id: &str) -> Option<PathBuf> {
    if id.len() < 12 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let id = id.to_ascii_lowercase();
    let mounts = mounts();
    let mut found = Found::default();
    for pid in all().unwrap_or_default() {
        let Some(text) = read_text(pid, "cgroup") else {
            continue;
        };
        for membership in parse::cgroups(&text) {
            let Some((container, path)) = container_part(&membership, &id) else {
                continue;
            };
            for mount in &mounts {
                if let Some(directory) = directory(&path, mount)
                    && directory.is_dir()
                {
                    found.add(container, directory, membership.unified());
                }
            }
        }
    }
    if found.directories.is_empty() {
        for mount in &mounts {
            find_below(
                Path::new(&mount.point),
                &id,
                mount.controllers.is_empty(),
                &mut found,
            );
        }
    }
    found.only()
}

/// The container's id and the membership cut after its component, for a process that may be in
/// the container's own sub-cgroups.
fn container_part<'a>(membership: &'a Membership, id: &str) -> Option<(&'a str, Membership)> {
    let container = parse::container_id(&membership.path)?;
    if !container.starts_with(id) {
        return None;
    }
    let at = membership.path.rfind(container)?;
    let end = membership.path[at..]
        .find('/')
        .map_or(membership.path.len(), |slash| at + slash);
    Some((
        container,
        Membership {
            controllers: membership.controllers.clone(),
            path: membership.path[..end].to_owned(),
        },
    ))
}

#[derive(Default)]
struct Found {
    containers: Vec<String>,
    /// Directory, and whether it is of the unified hierarchy.
    directories: Vec<(PathBuf, bool)>,
}

impl Found {
    fn add(&mut self, container: &str, directory: PathBuf, unified: bool) {
        if !self.containers.iter().any(|known| known == container) {
            self.containers.push(container.to_owned());
        }
        self.directories.push((directory, unified));
    }

    fn only(self) -> Option<PathBuf> {
        if self.containers.len() != 1 {
            return None;
        }
        let best = self
            .directories
            .iter()
            .find(|(_, unified)| *unified)
            .or(self.directories.first())?;
        Some(best.0.clone())
    }
}

fn find_below(root: &Path, id: &str, unified: bool, found: &mut Found) {
    let mut waiting = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = waiting.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name();
            let name = name.to_string_lossy();
            match parse::container_id(&name) {
                Some(container) if container.starts_with(id) => {
                    found.add(container, entry.path(), unified);
                }
                _ if depth < DEPTH_MAX => waiting.push((entry.path(), depth + 1)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;

    const ID: &str = "4f1d0a5c9b8e7f6a4f1d0a5c9b8e7f6a4f1d0a5c9b8e7f6a4f1d0a5c9b8e7f6a";

    fn mount(root: &str, point: &str, controllers: &[&str]) -> Mount {
        Mount {
            root: root.to_owned(),
            point: point.to_owned(),
            controllers: controllers.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn membership(text: &str) -> Membership {
        parse::cgroups(text).remove(0)
    }

    #[test]
    fn a_membership_leads_to_its_directory() {
        let host = mount("/", "/sys/fs/cgroup", &[]);
        let member = membership("0::/system.slice/a.service");
        assert_eq!(
            directory(&member, &host).unwrap(),
            Path::new("/sys/fs/cgroup/system.slice/a.service")
        );
        let cpu = mount("/", "/sys/fs/cgroup/cpu", &["rw", "cpu", "cpuacct"]);
        assert_eq!(directory(&member, &cpu), None);
        let member = membership("4:cpu,cpuacct:/docker/x");
        assert_eq!(
            directory(&member, &cpu).unwrap(),
            Path::new("/sys/fs/cgroup/cpu/docker/x")
        );
        assert_eq!(directory(&member, &host), None);
    }

    #[test]
    fn a_mount_of_the_outer_root_shows_paths_outside_the_namespace() {
        let own = mount("/", "/sys/fs/cgroup", &[]);
        let host = mount("/../..", "/host/cgroup", &[]);
        let member = membership("0::/../../kubepods/x");
        assert_eq!(directory(&member, &own), None);
        assert_eq!(
            directory(&member, &host).unwrap(),
            Path::new("/host/cgroup/kubepods/x")
        );
    }

    #[test]
    fn the_path_of_a_container_ends_at_its_own_directory() {
        let member = membership(&format!("0::/machine.slice/libpod-{ID}.scope/container"));
        let (container, cut) = container_part(&member, &ID[..12]).unwrap();
        assert_eq!(container, ID);
        assert_eq!(cut.path, format!("/machine.slice/libpod-{ID}.scope"));
        assert!(container_part(&member, "0123456789ab").is_none());
    }

    #[test]
    fn an_ambiguous_prefix_finds_nothing() {
        let mut found = Found::default();
        found.add("a1", "/v1/a1".into(), false);
        found.add("a1", "/v2/a1".into(), true);
        found.add("a2", "/v2/a2".into(), true);
        assert_eq!(found.only(), None);
        let mut found = Found::default();
        found.add("a1", "/v1/a1".into(), false);
        found.add("a1", "/v2/a1".into(), true);
        assert_eq!(found.only().unwrap(), Path::new("/v2/a1"));
    }

    #[test]
    fn levels_count_from_the_root() {
        let host = mount("/", "/sys/fs/cgroup", &[]);
        assert_eq!(level_below(Path::new("/sys/fs/cgroup"), &host), Some(0));
        assert_eq!(level_below(Path::new("/sys/fs/cgroup/a/b"), &host), Some(2));
        let part = mount("/a", "/mnt", &[]);
        assert_eq!(level_below(Path::new("/mnt/b"), &part), Some(2));
        assert_eq!(level_below(Path::new("/tmp"), &host), None);
    }

    #[test]
    fn ordinary_directories_are_no_cgroups() {
        assert_eq!(hierarchy(Path::new("/proc")), None);
        assert_eq!(cgroup_id(Path::new("/no/such/cgroup")), None);
        assert_eq!(container_cgroup("short"), None);
        assert_eq!(container_cgroup("../../../../etc/passwd"), None);
        assert_eq!(container_cgroup(&"0".repeat(64)), None);
    }

    #[test]
    fn a_container_is_found_by_name_in_the_tree() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join(format!("kubepods/pod1/{ID}"));
        fs::create_dir_all(&directory).unwrap();
        let mut found = Found::default();
        find_below(root.path(), &ID[..12], true, &mut found);
        assert_eq!(found.only().unwrap(), directory);
    }

    #[test]
    fn processes_below_are_listed_once() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("a");
        fs::create_dir(&below).unwrap();
        fs::write(root.path().join("cgroup.procs"), "12\n0\n7\n").unwrap();
        fs::write(below.join("cgroup.procs"), "12\n99\n").unwrap();
        assert_eq!(cgroup_pids(root.path()).unwrap(), [7, 12, 99]);
    }
}
