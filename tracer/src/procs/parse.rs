//! Parsers of /proc's text files: text in, values out, no I/O.
//!
//! Not by `procfs`: it reads all fields of a file and refuses the whole of it for one that it does
//! not expect, and here a process may choose its own name, mappings and cgroup.

use super::pods::is_uid;

/// What `/proc/PID/stat` says, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Name (field 2, without its parentheses).
    pub comm: String,
    /// State letter (field 3).
    pub state: char,
    /// Parent's pid (field 4).
    pub parent: u32,
    /// Start time, clock ticks since boot (field 22).
    pub start_ticks: u64,
}

impl Stat {
    /// A zombie or dead: its descriptors are closed.
    #[must_use]
    pub const fn ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Parses `/proc/PID/stat` (proc_pid_stat(5)). The name may hold spaces, parentheses and line
/// ends, so fields are counted from its last `)`.
#[must_use]
pub fn stat(text: &str) -> Option<Stat> {
    let open = text.find('(')?;
    let close = text.rfind(')')?;
    let comm = text.get(open + 1..close)?.to_owned();
    let mut fields = text.get(close + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 5 comes next.
    let start_ticks = fields.nth(22 - 5)?.parse().ok()?;
    Some(Stat {
        comm,
        state,
        parent,
        start_ticks,
    })
}

fn status_field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// Pids of a process from `/proc/PID/status`, outermost namespace first; empty before Linux 4.1.
#[must_use]
pub fn ns_pids(status: &str) -> Vec<u32> {
    status_field(status, "NSpid")
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect()
}

/// Effective capabilities from `/proc/PID/status`, one bit each (include/uapi/linux/capability.h).
#[must_use]
pub fn effective_capabilities(status: &str) -> Option<u64> {
    u64::from_str_radix(status_field(status, "CapEff")?, 16).ok()
}

/// Whether a process has a handler for a signal, from `/proc/PID/status`.
#[must_use]
pub fn catches(status: &str, signal: i32) -> bool {
    in_signal_set(status, "SigCgt", signal)
}

/// Whether a process ignores a signal, from `/proc/PID/status`.
#[must_use]
pub fn ignores(status: &str, signal: i32) -> bool {
    in_signal_set(status, "SigIgn", signal)
}

fn in_signal_set(status: &str, name: &str, signal: i32) -> bool {
    let set = status_field(status, name).and_then(|hex| u64::from_str_radix(hex, 16).ok());
    set.is_some_and(|set| (1..=64).contains(&signal) && set >> (signal - 1) & 1 == 1)
}

/// Effective user and group from `/proc/PID/status`, as numbers outside of its user namespace.
#[must_use]
pub fn effective_ids(status: &str) -> Option<(u32, u32)> {
    // real, effective, saved, and that of the file system
    let effective = |name| {
        let ids = status_field(status, name)?;
        ids.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    Some((effective("Uid")?, effective("Gid")?))
}

/// Soft limit of open files from `/proc/PID/limits`; `u64::MAX` when unlimited.
#[must_use]
pub fn open_files_limit(limits: &str) -> Option<u64> {
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_ascii_whitespace()
        .next()?;
    if soft == "unlimited" {
        return Some(u64::MAX);
    }
    soft.parse().ok()
}

/// Inode from the target of a `/proc/PID/fd` link to a socket, such as `socket:[1234]`.
#[must_use]
pub fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// `__SO_ACCEPTCON` (include/linux/net.h): the socket listens.
const LISTENS: u32 = 1 << 16;

/// Inode and path of the sockets that listen, of `/proc/PID/net/unix`; an abstract name begins with `@`.
pub fn unix_listeners(table: &str) -> impl Iterator<Item = (u64, &str)> {
    table.lines().skip(1).filter_map(|line| {
        // number, references, protocol, flags, type, state, inode, path
        let mut rest = line;
        let mut word = || {
            let (word, after) = rest.trim_start().split_once(' ')?;
            rest = after;
            Some(word)
        };
        let (_, _, _) = (word()?, word()?, word()?);
        let flags = u32::from_str_radix(word()?, 16).ok()?;
        let (_, _) = (word()?, word()?);
        let inode = word()?.parse().ok()?;
        (flags & LISTENS != 0).then_some((inode, rest))
    })
}

/// One line of `/proc/PID/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Controllers of a v1 hierarchy (or `name=…`); empty for v2.
    pub controllers: Vec<String>,
    /// Path below the hierarchy's root; starts with `/`.
    pub path: String,
}

impl Membership {
    /// The unified (v2) hierarchy.
    #[must_use]
    pub fn unified(&self) -> bool {
        self.controllers.is_empty()
    }
}

/// Parses `/proc/PID/cgroup` (cgroups(7)); lines that make no sense are left out.
#[must_use]
pub fn cgroups(text: &str) -> Vec<Membership> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let _hierarchy: u32 = parts.next()?.parse().ok()?;
            let controllers = parts.next()?;
            let path = parts.next()?;
            // What the kernel says of a cgroup that was removed while its last process lives.
            let path = path.strip_suffix(" (deleted)").unwrap_or(path);
            path.starts_with('/').then(|| Membership {
                controllers: controllers
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect(),
                path: path.to_owned(),
            })
        })
        .collect()
}

/// The container a process runs in: the innermost one of its v2 path, else of any v1 path.
#[must_use]
pub fn container_id_of(memberships: &[Membership]) -> Option<String> {
    memberships
        .iter()
        .filter(|m| m.unified())
        .chain(memberships.iter().filter(|m| !m.unified()))
        .find_map(|m| container_id(&m.path))
        .map(str::to_owned)
}

/// Container id in a cgroup path, innermost first: 64 hexadecimal digits, alone
/// (`/docker/ID`, `/kubepods/pod…/ID`) or with a runtime's prefix and suffix
/// (`docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`).
#[must_use]
pub fn container_id(path: &str) -> Option<&str> {
    path.rsplit('/').find_map(container_id_of_component)
}

fn container_id_of_component(component: &str) -> Option<&str> {
    // Podman runs a container's own init in `libpod-ID.scope/container`; `conmon` scopes hold the
    // monitor of the container, not the container.
    let name = component.strip_suffix(".scope").unwrap_or(component);
    if name.contains("conmon") {
        return None;
    }
    // containerd without systemd writes `cri-containerd:ID` below a slice.
    let id = name.rsplit(['-', ':']).next()?;
    let hex = id.len() == 64 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    hex.then_some(id)
}

/// The pod that a process runs in, by the uid in its paths (kubelet, pkg/kubelet/cm): `pod-UID`,
/// `podUID`, or `kubepods-burstable-podUID.slice` with underscores for dashes.
#[must_use]
pub fn pod_uid_of(memberships: &[Membership]) -> Option<String> {
    let unified = memberships.iter().filter(|m| m.unified());
    let others = memberships.iter().filter(|m| !m.unified());
    unified
        .chain(others)
        .find_map(|m| m.path.rsplit('/').find_map(pod_uid_of_component))
}

fn pod_uid_of_component(component: &str) -> Option<String> {
    let name = match component.split_once(".slice") {
        Some((slice, _)) => slice.rsplit_once("-pod")?.1,
        None => component.strip_prefix("pod")?,
    };
    let uid = name.replace('_', "-");
    is_uid(&uid).then_some(uid)
}

/// One mounted cgroup hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Which of the hierarchy's directories is mounted; `/` for the whole.
    pub root: String,
    /// Where.
    pub point: String,
    /// Controllers of a v1 hierarchy (with other options); empty for v2.
    pub controllers: Vec<String>,
}

/// The cgroup mounts among `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
#[must_use]
pub fn cgroup_mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ').skip(3);
            let (root, point) = (left.next()?, left.next()?);
            let mut right = right.split(' ');
            let controllers = match right.next()? {
                "cgroup2" => Vec::new(),
                "cgroup" => right.nth(1)?.split(',').map(str::to_owned).collect(),
                _ => return None,
            };
            Some(Mount {
                root: unescape(root),
                point: unescape(point),
                controllers,
            })
        })
        .collect()
}

/// Undoes the kernel's octal escapes of space, tab, line end and backslash.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escaped) = rest.split_at(at);
        out.push_str(before);
        let code = escaped
            .get(1..4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok())
            .filter(u8::is_ascii);
        if let Some(code) = code {
            out.push(char::from(code));
            rest = escaped.get(4..).unwrap_or_default();
        } else {
            out.push('\\');
            rest = escaped.get(1..).unwrap_or_default();
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "4f1d0a5c9b8e7f6a4f1d0a5c9b8e7f6a4f1d0a5c9b8e7f6a4f1d0a5c9b8e7f6a";

    #[test]
    fn listeners_of_unix_sockets() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            00000000dce8903e: 00000003 00000000 00000000 0001 03 43160633 /run/a\n\
            00000000a5d1d827: 00000002 00000000 00010000 0001 01 43158179 /run/a b\n\
            00000000a5d1d828: 00000002 00000000 00010000 0001 01     1234 @name\n\
            00000000a5d1d829: 00000002 00000000 00010000 0001 01\n";
        let found: Vec<_> = unix_listeners(table).collect();
        assert_eq!(found, [(43_158_179, "/run/a b"), (1_234, "@name")]);
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "77 (a) b (c) S 12 77 77 0 -1 4194304 102 0 0 0 0 0 0 0 20 0 1 0 253345 3133440";
        let stat = stat(text).unwrap();
        assert_eq!(stat.comm, "a) b (c");
        assert_eq!(stat.state, 'S');
        assert_eq!(stat.parent, 12);
        assert_eq!(stat.start_ticks, 253_345);
    }

    #[test]
    fn a_short_stat_is_refused() {
        assert_eq!(stat("77 (cat) S 12 77"), None);
        assert_eq!(stat(""), None);
        assert_eq!(stat(")("), None);
    }

    #[test]
    fn the_innermost_pid_comes_last() {
        let status = "Name:\tcat\nNStgid:\t9\t1\nNSpid:\t4242\t17\t1\nCapEff:\t000001ffffffffff\n";
        assert_eq!(ns_pids(status), [4242, 17, 1]);
        assert_eq!(effective_capabilities(status), Some(0x1ff_ffff_ffff));
        assert_eq!(ns_pids("Name:\tcat\n"), [] as [u32; 0]);
    }

    #[test]
    fn effective_ids_and_caught_signals_are_told() {
        let status = "Uid:\t0\t33\t0\t0\nGid:\t0\t34\t0\t0\nSigCgt:\t0000000000000004\n";
        assert_eq!(effective_ids(status), Some((33, 34)));
        assert!(catches(status, 3));
        assert!(!catches(status, 2) && !catches(status, 0) && !catches(status, 65));
        assert!(!catches("", 3) && effective_ids("Uid:\t0\n").is_none());
    }

    #[test]
    fn the_soft_limit_is_taken() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
             Max processes             96551                96551                processes\n\
             Max open files            1024                 524288               files\n";
        assert_eq!(open_files_limit(limits), Some(1024));
        assert_eq!(
            open_files_limit("Max open files            unlimited            unlimited   files"),
            Some(u64::MAX)
        );
        assert_eq!(open_files_limit("Max open files"), None);
    }

    #[test]
    fn sockets_are_told_from_other_descriptors() {
        assert_eq!(socket_inode("socket:[1234]"), Some(1234));
        assert_eq!(socket_inode("pipe:[1234]"), None);
        assert_eq!(socket_inode("socket:[]"), None);
    }

    #[test]
    fn containers_of_all_runtimes_are_found() {
        for path in [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/kubepods/burstable/pod8f2e/{ID}"),
            format!("/kubepods.slice/kubepods-pod8f2e.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods.slice/kubepods-pod8f2e.slice:cri-containerd:{ID}"),
            format!("/kubepods.slice/crio-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/docker/{ID}/init.scope"),
            format!("/../../docker/{ID}"),
        ] {
            assert_eq!(container_id(&path), Some(ID), "{path}");
        }
        for path in [
            "/",
            "/user.slice/session-2.scope",
            "/process/7b220a5960776ab853123a66f41703db",
        ] {
            assert_eq!(container_id(path), None, "{path}");
        }
        let monitor = format!("/machine.slice/libpod-conmon-{ID}.scope");
        assert_eq!(container_id(&monitor), None);
    }

    #[test]
    fn a_nested_container_is_the_innermost() {
        let inner = ID.replace('4', "5");
        assert_eq!(
            container_id(&format!("/docker/{ID}/docker/{inner}")),
            Some(inner.as_str())
        );
    }

    #[test]
    fn hybrid_hosts_have_the_container_in_v1_paths() {
        let text = format!("9:name=systemd:/docker/{ID}\n4:cpu,cpuacct:/docker/{ID}\n0::/\n");
        let memberships = cgroups(&text);
        assert_eq!(memberships.len(), 3);
        assert!(memberships[2].unified());
        assert_eq!(memberships[1].controllers, ["cpu", "cpuacct"]);
        assert_eq!(container_id_of(&memberships).as_deref(), Some(ID));
    }

    #[test]
    fn pods_are_found_whatever_drives_their_cgroups() {
        const UID: &str = "8f2e1d0c-5b6a-4f7e-9d8c-0a1b2c3d4e5f";
        let slice = UID.replace('-', "_");
        for path in [
            format!("/kubepods/burstable/pod{UID}/{ID}"),
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{ID}.scope"
            ),
            format!("/kubepods.slice/kubepods-pod{slice}.slice/crio-{ID}.scope/container"),
            format!("/system.slice/kubepods-besteffort-pod{slice}.slice:cri-containerd:{ID}"),
            format!("/docker/{ID}/kubelet/kubepods/pod{UID}/{ID}"),
        ] {
            let found = pod_uid_of(&cgroups(&format!("0::{path}")));
            assert_eq!(found.as_deref(), Some(UID), "{path}");
        }
        for path in [
            "/",
            "/machine.slice/pod.slice",
            "/podman/pod12",
            "/user.slice/podcast",
        ] {
            assert_eq!(pod_uid_of(&cgroups(&format!("0::{path}"))), None, "{path}");
        }
    }

    #[test]
    fn mounts_of_both_versions_are_told_apart() {
        let mountinfo = "\
            30 25 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw\n\
            31 25 0:27 /docker/x /sys/fs/cgroup/my\\040cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            32 25 0:28 / /proc rw - proc proc rw\n";
        let mounts = cgroup_mounts(mountinfo);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].point, "/sys/fs/cgroup/unified");
        assert!(mounts[0].controllers.is_empty());
        assert_eq!(mounts[1].root, "/docker/x");
        assert_eq!(mounts[1].point, "/sys/fs/cgroup/my cpu");
        assert_eq!(mounts[1].controllers, ["rw", "cpu", "cpuacct"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC*|[0-9a-z():\\\\/ \n\t.-]{0,200}") {
            let _ = stat(&text);
            let _ = ns_pids(&text);
            let _ = effective_capabilities(&text);
            let _ = (catches(&text, 3), effective_ids(&text));
            let _ = open_files_limit(&text);
            let _ = socket_inode(&text);
            let _ = (container_id_of(&cgroups(&text)), pod_uid_of(&cgroups(&text)));
            let _ = cgroup_mounts(&text);
            let _ = unescape(&text);
        }

        #[test]
        fn any_name_survives(comm in "[ -~\n]{0,15}", parent: u32, start: u64) {
            let text = format!("1 ({comm}) R {parent} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0");
            let stat = stat(&text).unwrap();
            prop_assert_eq!(stat.comm, comm);
            prop_assert_eq!(stat.parent, parent);
            prop_assert_eq!(stat.start_ticks, start);
        }
    }
}
