//! What a guest has on board: busybox, our programs, and the shared libraries they need.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{cpio::Archive, work_dir};
use crate::sh;

/// Folders that a guest starts with, parents first.
const FOLDERS: &[&str] = &[
    "/bin", "/dev", "/etc", "/lib64", "/proc", "/root", "/run", "/sys", "/tmp", "/usr", "/usr/bin",
    "/usr/lib", "/var", "/var/tmp",
];

/// Mounts what a Linux system has, runs the job, says how it ended, and ends the machine.
///
/// The second serial line carries the job's output alone; the first is the kernel's.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin HOME=/root
ulimit -n 1048576
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
chmod 1777 /tmp /var/tmp
mount -t tmpfs run /run
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t tracefs trace /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir /run/freezer && mount -t cgroup -o freezer freezer /run/freezer
mount -t securityfs security /sys/kernel/security
# Emulation is dozens of times slower than a processor. With time slices of a hundred milliseconds as
# many instructions pass between two switches as elsewhere, and the kernel preempts our programs no
# more often than there (debugging knobs of 6.6 and later).
mount -t debugfs debug /sys/kernel/debug
cd /sys/kernel/debug/sched && [ -e base_slice_ns ] && echo 100000000 >base_slice_ns && echo NO_WAKEUP_PREEMPTION >features
cd /
umount /sys/kernel/debug
ip link set lo up
hostname guest
stty -F /dev/ttyS1 raw -echo
exec </dev/null >/dev/ttyS1 2>&1
echo "GUEST STARTED $(uname -r)"
. /job.env
# through a pipe, so that nobody takes the serial line for a terminal
{ sh /job 2>&1; echo "GUEST ENDED $?"; } | cat
sync
reboot -f
"#;

/// The contents of a guest's first file system.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Path in the guest → file on this machine.
    files: BTreeMap<String, PathBuf>,
    /// Path in the guest → where the symbolic link there points.
    links: BTreeMap<String, String>,
}

impl Image {
    /// A guest with busybox and nothing else.
    pub fn new(busybox: &Path) -> Self {
        let mut image = Self::default();
        image.add_file(busybox, "/bin/busybox");
        image
    }

    /// Adds a file as it is.
    pub fn add_file(&mut self, from: &Path, to: &str) {
        self.files.insert(to.to_owned(), from.to_owned());
    }

    /// Adds a symbolic link.
    pub fn add_link(&mut self, name: &str, target: &str) {
        self.links.insert(name.to_owned(), target.to_owned());
    }

    /// Adds a program and the shared libraries it is linked with.
    pub fn add_program(&mut self, from: &Path, to: &str) -> Result<()> {
        self.add_file(from, to);
        // a static program has none, of which ldd complains
        let list = sh::capture(sh::command("ldd").arg(from)).unwrap_or_default();
        for library in libraries(&list) {
            self.files.insert(library.to_owned(), library.into());
        }
        Ok(())
    }

    /// Adds all files below `from`, under the same names below `to`.
    pub fn add_tree(&mut self, from: &Path, to: &str) -> Result<()> {
        let entries =
            fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
        for entry in entries {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let to = format!("{}/{name}", to.trim_end_matches('/'));
            if path.is_symlink() && !path.exists() {
                // points into the guest, not into this machine
                continue;
            }
            if path.is_dir() {
                self.add_tree(&path, &to)?;
            } else if name.contains(".so") {
                self.add_program(&path, &to)?;
            } else {
                self.add_file(&path, &to);
            }
        }
        Ok(())
    }

    /// Adds a program without its debug information, which would fill the guest's memory.
    pub fn add_stripped(&mut self, from: &Path, to: &str) -> Result<()> {
        let folder = work_dir().join("stripped");
        fs::create_dir_all(&folder)?;
        let name = from.file_name().context("a program without a name")?;
        let small = folder.join(name);
        sh::quiet(sh::command("strip").arg("-o").arg(&small).arg(from))?;
        self.add_program(&small, to)
    }

    /// Writes the archive that the kernel unpacks, with `job` as what is to be run and `env` as
    /// its variables.
    pub fn write(&self, to: &Path, job: &str, env: &[(String, String)]) -> Result<()> {
        let file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
        let mut archive = Archive::new(BufWriter::new(file));
        let mut made: BTreeSet<String> = BTreeSet::new();
        for folder in FOLDERS {
            archive.directory(folder)?;
            made.insert((*folder).to_owned());
        }
        // the kernel opens it for /init before anything is mounted
        archive.device("/dev/console", 5, 1)?;
        archive.file("/init", 0o755, INIT.as_bytes())?;
        archive.file("/job", 0o644, job.as_bytes())?;
        archive.file("/job.env", 0o644, exports(env).as_bytes())?;
        archive.file(
            "/etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
        )?;
        archive.file("/etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
        archive.file("/etc/hosts", 0o644, b"127.0.0.1 localhost\n::1 localhost\n")?;
        for (name, from) in &self.files {
            for folder in parents(name) {
                if made.insert(folder.to_owned()) {
                    archive.directory(folder)?;
                }
            }
            let bytes =
                fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
            archive.file(name, 0o755, &bytes)?;
        }
        for (name, target) in &self.links {
            archive.link(name, target)?;
        }
        archive.finish()?;
        Ok(())
    }
}

/// The folders above `name`, outermost first, without the top.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').skip(1).map(|(at, _)| &name[..at])
}

/// The paths in what ldd prints.
fn libraries(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| {
        let found = line.split_once(" => ").map_or(line, |(_, path)| path);
        let path = found.split_whitespace().next()?;
        path.starts_with('/').then_some(path)
    })
}

fn exports(env: &[(String, String)]) -> String {
    env.iter()
        .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', r"'\''")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{exports, libraries, parents};

    #[test]
    fn libraries_are_read_from_ldd() {
        let list = "\tlinux-vdso.so.1 (0x7ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n\tgone.so => not found\n";
        assert_eq!(
            libraries(list).collect::<Vec<_>>(),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }

    #[test]
    fn parents_come_outermost_first() {
        assert_eq!(parents("/a/b/c").collect::<Vec<_>>(), ["/a", "/a/b"]);
        assert_eq!(parents("/init").count(), 0);
    }

    #[test]
    fn values_are_quoted_for_the_shell() {
        let env = [("A".to_owned(), "it's $HOME".to_owned())];
        assert_eq!(exports(&env), "export A='it'\\''s $HOME'\n");
    }
}
