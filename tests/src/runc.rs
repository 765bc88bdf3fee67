//! Real containers, by runc: Debian's, unpacked. Their root is a folder with the host's libraries and the
//! test's own program; they have the host's network.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{debian, host, program::Program, wait};

/// runc, and where it keeps the state of these containers.
#[derive(Debug)]
pub struct Runc {
    program: PathBuf,
    libraries: PathBuf,
    directory: TempDir,
}

/// A running container; its end is the container's.
#[derive(Debug)]
pub struct Container<'a> {
    runc: &'a Runc,
    id: String,
    /// `runc run`, which has the container's streams.
    pub program: Program,
    /// The container's first process, by the host's number.
    pub pid: u32,
}

impl Runc {
    /// Unpacks it at first use.
    ///
    /// # Errors
    /// When it can't be had, or is none; [`crate::runner::Skip`] on another distribution.
    pub fn unpacked() -> Result<Runc> {
        let packages = ["runc", "libseccomp2"];
        let root = debian::unpacked(&host::cache()?.join("debian"), "runc", &packages)?;
        let runc = Runc {
            program: root.join("usr/sbin/runc"),
            libraries: root.join("usr/lib/x86_64-linux-gnu"),
            directory: tempfile::tempdir()?,
        };
        let version = runc.command(&["--version"]).output()?;
        ensure!(version.status.success(), "runc does not run: {version:?}");
        Ok(runc)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("LD_LIBRARY_PATH", &self.libraries)
            .arg("--root")
            .arg(self.directory.path().join("state"))
            .args(arguments);
        command
    }

    /// Runs a program of the host with arguments as the container with this id, in this cgroup of
    /// every hierarchy.
    ///
    /// # Errors
    /// When it does not start.
    pub fn run(
        &self,
        id: &str,
        cgroup: &str,
        program: &Path,
        arguments: &[&str],
    ) -> Result<Container<'_>> {
        let bundle = self.directory.path().join(id);
        fs::create_dir_all(bundle.join("rootfs"))?;
        let config = configuration(cgroup, program, arguments);
        fs::write(bundle.join("config.json"), config.to_string())?;
        let pid_file = bundle.join("pid");
        let mut run = self.command(&["run", "--pid-file"]);
        run.arg(&pid_file).arg("--bundle").arg(&bundle).arg(id);
        let mut program = Program::start(&mut run)?;
        let pid = wait::for_value("a container", Duration::from_secs(30), || {
            ensure!(program.runs()?, "runc ended: {}", program.stderr());
            let pid = fs::read_to_string(&pid_file).unwrap_or_default();
            Ok(pid.trim().parse().ok())
        })?;
        Ok(Container {
            runc: self,
            id: id.to_owned(),
            program,
            pid,
        })
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.runc.command(&["delete", "--force", &self.id]).output();
    }
}

/// A bundle's configuration (OCI runtime specification 1.0).
fn configuration(cgroup: &str, program: &Path, arguments: &[&str]) -> Value {
    let bind = |source: &Path, target: &str| json!({ "destination": target, "type": "bind", "source": source, "options": ["rbind", "ro"] });
    let mut mounts = vec![json!({ "destination": "/proc", "type": "proc", "source": "proc" })];
    for folder in ["/usr", "/lib", "/lib64"] {
        if Path::new(folder).exists() {
            mounts.push(bind(Path::new(folder), folder));
        }
    }
    mounts.push(bind(program, "/app"));
    let all = [&["/app"], arguments].concat();
    let namespaces = ["pid", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": all,
            "env": ["PATH=/usr/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": false },
        "mounts": mounts,
        "linux": { "cgroupsPath": cgroup, "namespaces": namespaces },
    })
}

/// Folders of a cgroup in all hierarchies, removed in the end.
#[derive(Debug)]
pub struct Cgroups(String);

impl Cgroups {
    /// Those with this name, below the roots.
    #[must_use]
    pub fn named(name: String) -> Cgroups {
        Cgroups(name)
    }

    /// The path from the roots on.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}", self.0)
    }

    /// The folder in the unified hierarchy, which is made.
    ///
    /// # Errors
    /// When it can't be made; [`crate::runner::Skip`] where there is no such hierarchy.
    pub fn unified(&self) -> Result<PathBuf> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let point = points(&mounts).find_map(|(kind, point)| (kind == "cgroup2").then_some(point));
        let point = point.context(crate::runner::Skip("no cgroup v2 is mounted".to_owned()))?;
        let folder = Path::new(point).join(&self.0);
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(folder)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        for (_, point) in points(&mounts) {
            remove(&Path::new(point).join(&self.0));
        }
    }
}

/// Kind and mount point of each hierarchy.
fn points(mounts: &str) -> impl Iterator<Item = (&str, &str)> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        matches!(kind, "cgroup" | "cgroup2").then_some((kind, point))
    })
}

/// Removes a group and those below it, as far as no process is in them.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
