//! A place for pins that nobody else sees.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::PathBuf,
    process::Command,
};

use anyhow::Result;
use tempfile::TempDir;
use tracer_tests::{daemon::Daemon, host, program::Program};

/// A BPF file system in a mount namespace of its own, which lives as long as this.
pub struct BpfFs {
    holder: Program,
    namespace: File,
    directory: TempDir,
}

impl BpfFs {
    /// Mounts it.
    pub fn mount() -> Result<BpfFs> {
        host::require_root()?;
        let directory = tempfile::tempdir()?;
        let at = std::ffi::CString::new(directory.path().to_string_lossy().as_bytes())?;
        let mut holder = Command::new(host::tool("cat")?);
        let mount = move || {
            let (root, bpf) = (c"/", c"bpf");
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let (none, no_data) = (bpf.as_ptr(), std::ptr::null());
            // SAFETY: all strings live on, and only this process is moved to the new namespace.
            let done = unsafe {
                libc::unshare(libc::CLONE_NEWNS) == 0
                    && libc::mount(none, root.as_ptr(), none, private, no_data) == 0
                    && libc::mount(none, at.as_ptr(), bpf.as_ptr(), 0, no_data) == 0
            };
            if done {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        };
        // SAFETY: the closure makes system calls only and allocates nothing.
        unsafe { holder.pre_exec(mount) };
        // the namespace is there as soon as it runs: spawning returns after exec
        let holder = Program::start(&mut holder)?;
        let namespace = File::open(format!("/proc/{}/ns/mnt", holder.pid()))?;
        Ok(BpfFs {
            holder,
            namespace,
            directory,
        })
    }

    /// Where pins may be, inside.
    pub fn pins(&self) -> String {
        self.directory
            .path()
            .join("tracer")
            .to_string_lossy()
            .into_owned()
    }

    /// The same as seen from outside.
    pub fn outside(&self) -> PathBuf {
        let holder = self.holder.pid();
        PathBuf::from(format!("/proc/{holder}/root{}", self.pins()))
    }

    /// Lets a command start inside.
    pub fn enter(&self, command: &mut Command) {
        let namespace = self.namespace.as_raw_fd();
        let enter = move || {
            // SAFETY: the descriptor is open as long as the file system is in use.
            if unsafe { libc::setns(namespace, libc::CLONE_NEWNS) } == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        };
        // SAFETY: the closure makes a system call only and allocates nothing.
        unsafe { command.pre_exec(enter) };
    }

    /// Starts a daemon with pins inside.
    pub fn daemon(&self, pid: u32, more: &[&str]) -> Result<Daemon> {
        self.daemon_with(pid, more, |_| {})
    }

    /// The same, after `prepare` has had its way with the command.
    pub fn daemon_with(
        &self,
        pid: u32,
        more: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Daemon> {
        let pins = self.pins();
        let arguments = [&["--pin", &*pins], more].concat();
        Daemon::start_as(&[pid], &arguments, |command| {
            prepare(command);
            self.enter(command);
        })
    }
}
