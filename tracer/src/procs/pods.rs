//! Names of pods and their containers, from the kubelet's folders of logs: no request goes to the
//! cluster, and none is needed to know them. A pod's folder is `/var/log/pods/NAMESPACE_NAME_UID`,
//! the uid is in the path of its cgroups; `/var/log/containers` has a link
//! `NAME_NAMESPACE_CONTAINER-ID.log` for each container (kubelet, pkg/kubelet/kuberuntime).

use std::{
    collections::HashMap,
    ffi::CStr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, openat2};

use crate::model::Pod;

/// The root of the host: that of its first process, where its processes are in view at all.
const ROOT: &str = "/proc/1/root";
const PODS: &str = "var/log/pods";
const CONTAINERS: &str = "var/log/containers";
/// Entries read of a folder; a node has some hundred pods.
const ENTRIES_MAX: usize = 16_384;
/// Pods and containers remembered, those that ended among them.
const REMEMBERED: usize = 8_192;
/// The folders are not read again before that.
const REST: Duration = Duration::from_secs(5);

/// What the folders said, also of pods that ended since.
#[derive(Debug, Default)]
pub struct Pods {
    /// Namespace and name by uid.
    pods: HashMap<String, (String, String)>,
    /// Names by id.
    containers: HashMap<String, String>,
    root: Option<PathBuf>,
    read_at: Option<Instant>,
}

impl Pods {
    /// Below a root of the host; where none is given that of its first process.
    #[must_use]
    pub fn below(root: Option<PathBuf>) -> Pods {
        Pods {
            root,
            ..Pods::default()
        }
    }

    /// The pod with this uid, and the name of one of its containers by its id. The folders are read
    /// for what is not known yet.
    pub fn of(&mut self, uid: &str, container_id: Option<&str>) -> Option<Pod> {
        let new = container_id.is_some_and(|id| !self.containers.contains_key(id));
        if (new || !self.pods.contains_key(uid)) && self.rested() {
            self.read();
        }
        let (namespace, name) = self.pods.get(uid)?.clone();
        Some(Pod {
            namespace,
            name,
            container: container_id.and_then(|id| self.container(id)),
            ..Pod::default()
        })
    }

    /// The name of a container, as far as it was read.
    #[must_use]
    pub fn container(&self, id: &str) -> Option<String> {
        self.containers.get(id).cloned()
    }

    fn rested(&self) -> bool {
        self.read_at.is_none_or(|at| at.elapsed() >= REST)
    }

    fn read(&mut self) {
        self.read_at = Some(Instant::now());
        let root = self.root.as_deref().unwrap_or(Path::new(ROOT));
        let (pods, containers) = (names(root, PODS), names(root, CONTAINERS));
        keep(&mut self.pods, pods.iter().filter_map(|name| pod(name)));
        keep(
            &mut self.containers,
            containers.iter().filter_map(|name| container(name)),
        );
    }
}

/// Adds what is new; where that is more than is remembered, what was before is forgotten.
fn keep<T>(known: &mut HashMap<String, T>, found: impl Iterator<Item = (String, T)>) {
    let found: HashMap<_, _> = found.take(REMEMBERED).collect();
    if known.len() + found.len() > REMEMBERED {
        known.clear();
    }
    known.extend(found);
}

/// Names in a folder below a root that no link leads out of; none where it can't be read.
fn names(root: &Path, folder: &str) -> Vec<String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || -> rustix::io::Result<OwnedFd> {
        let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, path, Mode::empty())?;
        openat2(&root, folder, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    };
    let Some(entries) = open().ok().and_then(|folder| Dir::new(folder).ok()) else {
        return Vec::new();
    };
    let name = |name: &CStr| Some(name.to_str().ok()?.to_owned());
    entries
        .map_while(Result::ok)
        .filter_map(|entry| name(entry.file_name()))
        .take(ENTRIES_MAX)
        .collect()
}

/// Uid, namespace and name out of the name of a pod's folder.
fn pod(folder: &str) -> Option<(String, (String, String))> {
    let [namespace, name, uid] = folder.split('_').collect::<Vec<_>>().try_into().ok()?;
    let named = is_name(namespace) && is_name(name) && is_uid(uid);
    named.then(|| (uid.to_owned(), (namespace.to_owned(), name.to_owned())))
}

/// Id and name out of the name of a container's link.
fn container(link: &str) -> Option<(String, String)> {
    let link = link.strip_suffix(".log")?;
    let [_, _, container] = link.split('_').collect::<Vec<_>>().try_into().ok()?;
    let (name, id) = container.rsplit_once('-')?;
    let whole = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
    (whole && is_name(name)).then(|| (id.to_owned(), name.to_owned()))
}

/// A subdomain as RFC 1123 has it: what namespaces, pods and containers are called.
pub fn is_name(text: &str) -> bool {
    let of_it = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    (1..=253).contains(&text.len()) && text.bytes().all(of_it)
}

/// A UUID, or what pods from a file have: 32 hexadecimal digits.
pub fn is_uid(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = text.bytes().filter(|&b| b == b'-').count();
    digits == 32 && digits + dashes == text.len() && matches!(dashes, 0 | 4)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    const UID: &str = "8f2e1d0c-5b6a-4f7e-9d8c-0a1b2c3d4e5f";
    const ID: &str = "4f1d0a5c9b8e7f6a4f1d0a5c9b8e7f6a4f1d0a5c9b8e7f6a4f1d0a5c9b8e7f6a";

    #[test]
    fn pods_and_containers_have_the_names_of_their_logs() {
        let root = tempfile::tempdir().unwrap();
        let (pods, containers) = (root.path().join(PODS), root.path().join(CONTAINERS));
        fs::create_dir_all(pods.join(format!("shop_web-7c9-x2_{UID}/app"))).unwrap();
        fs::create_dir_all(pods.join("not a pod")).unwrap();
        fs::create_dir_all(&containers).unwrap();
        symlink(
            "x",
            containers.join(format!("web-7c9-x2_shop_app-{ID}.log")),
        )
        .unwrap();
        symlink(
            "x",
            containers.join(format!("web_shop_cut-{}.log", &ID[..9])),
        )
        .unwrap();
        let mut known = Pods::below(Some(root.path().to_owned()));
        let pod = Pod {
            namespace: "shop".to_owned(),
            name: "web-7c9-x2".to_owned(),
            container: Some("app".to_owned()),
            ..Pod::default()
        };
        assert_eq!(known.of(UID, Some(ID)), Some(pod.clone()));
        // a pod that ended keeps its name
        fs::remove_dir_all(pods.join(format!("shop_web-7c9-x2_{UID}"))).unwrap();
        known.read();
        assert_eq!(known.of(UID, Some(ID)), Some(pod));
        assert_eq!(known.of(&UID.replace('8', "9"), None), None);
    }

    #[test]
    fn no_link_leads_out_of_the_root() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(outside.path().join(format!("shop_web_{UID}"))).unwrap();
        fs::create_dir_all(root.path().join("var/log")).unwrap();
        symlink(outside.path(), root.path().join(PODS)).unwrap();
        assert_eq!(names(root.path(), PODS), Vec::<String>::new());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = HashMap::new();
        let some = |from: usize| (from..from + 5_000).map(|n| (n.to_string(), n));
        keep(&mut known, some(0));
        keep(&mut known, some(5_000));
        assert_eq!(known.len(), 5_000);
        assert!(known.contains_key("9999") && !known.contains_key("1"));
    }

    #[test]
    fn other_names_are_nobody_s() {
        assert_eq!(pod(&format!("Shop_web_{UID}")), None);
        assert_eq!(pod(&format!("shop_web_1_{UID}")), None);
        assert_eq!(pod("shop_web_8f2e"), None);
        let static_uid = UID.replace('-', "");
        let (uid, _) = pod(&format!("kube-system_etcd-n1_{static_uid}")).unwrap();
        assert_eq!(uid, static_uid);
    }
}
