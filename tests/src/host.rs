//! This machine: what it has, and what the kernel says of a process.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::{CStr, CString, OsString},
    fs, io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::runner::Skip;

/// A time limit, or a time to watch, on this machine: `TRACER_TEST_SLOW=3` makes all of them three
/// times as long (an emulated guest).
#[must_use]
pub fn seconds(seconds: u64) -> Duration {
    let factor = env::var("TRACER_TEST_SLOW")
        .ok()
        .and_then(|f| f.parse().ok())
        .unwrap_or(1);
    Duration::from_secs(seconds * factor)
}

/// Whether this is a guest of the test run, in which nothing but tests happens.
#[must_use]
pub fn is_guest() -> bool {
    env::var_os("TRACER_TEST_GUEST").is_some()
}

/// Factor on time limits: the programs of several tests share one emulated processor, and only
/// loading the probes takes an old kernel ten seconds there.
#[must_use]
pub fn patience() -> u32 {
    if is_guest() { 4 } else { 1 }
}

/// Skips unless this process is root.
///
/// # Errors
/// [`Skip`].
pub fn require_root() -> Result<()> {
    // SAFETY: geteuid takes nothing and always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        bail!(Skip("not root: probes can't be loaded".to_owned()));
    }
    Ok(())
}

/// `PATH`.
#[must_use]
pub fn search_path() -> OsString {
    env::var_os("PATH").unwrap_or_default()
}

/// Finds a program in `PATH`.
///
/// # Errors
/// [`Skip`] when it is not installed.
pub fn tool(name: &str) -> Result<PathBuf> {
    match env::split_paths(&search_path())
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
    {
        Some(file) => Ok(file),
        None => bail!(Skip(format!("no {name} here"))),
    }
}

/// The user's cache directory for what the tests download.
///
/// # Errors
/// When the environment names none.
pub fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME").map_or_else(
        || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")),
        |cache| Some(PathBuf::from(cache)),
    );
    Ok(base
        .context("neither HOME nor XDG_CACHE_HOME is set")?
        .join("tracer"))
}

/// Directory in which cargo put the binaries of this build.
///
/// # Errors
/// When the running binary is not where cargo puts binaries.
pub fn build_directory() -> Result<PathBuf> {
    let executable = env::current_exe()?;
    let folder = executable.parent().context("no build directory")?;
    // tests lie one below what `cargo build` makes
    Ok(match folder.ends_with("deps") {
        true => folder.parent().context("no build directory")?.to_owned(),
        false => folder.to_owned(),
    })
}

/// TCP states by which `/proc/net/tcp` numbers them, from 1.
const STATES: [&str; 12] = [
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
];

/// Inodes of the sockets to which a process has descriptors.
///
/// # Errors
/// When the process is gone.
pub fn socket_inodes(pid: u32) -> Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor may be closed between the two looks.
        let Ok(link) = fs::read_link(entry?.path()) else {
            continue;
        };
        let link = link.to_string_lossy();
        if let Some(number) = link
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'))
        {
            inodes.insert(number.parse()?);
        }
    }
    Ok(inodes)
}

/// The kernel's own count of the TCP sockets a process holds, by state.
///
/// # Errors
/// When the process is gone.
pub fn tcp_states(pid: u32) -> Result<BTreeMap<&'static str, usize>> {
    let mine = socket_inodes(pid)?;
    let mut states = BTreeMap::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(state), Some(inode)) = (fields.get(3), fields.get(9)) else {
                continue;
            };
            if !mine.contains(&inode.parse()?) {
                continue;
            }
            let state = usize::from_str_radix(state, 16)?;
            *states
                .entry(STATES.get(state.wrapping_sub(1)).copied().unwrap_or("?"))
                .or_insert(0) += 1;
        }
    }
    Ok(states)
}

/// Ids of the BPF programs that a process holds, directly or by a link.
///
/// # Errors
/// When the process is gone.
pub fn bpf_programs_of(pid: u32) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        for line in text.lines() {
            if let Some(id) = line.strip_prefix("prog_id:") {
                ids.insert(id.trim().parse()?);
            }
        }
    }
    Ok(ids)
}

/// Full path of a file of the repository, at the time of the build.
#[must_use]
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A TCP port of the loopback interface that nobody listens on just now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

/// Lets `command` start without these capabilities (by number), or without any when empty, as an
/// unprivileged container would.
pub fn without_capabilities(command: &mut Command, numbers: &'static [u32]) {
    let drop = move || {
        // No kernel knows a capability beyond 63; the call fails for those it doesn't know.
        for number in 0..64 {
            if numbers.is_empty() || numbers.contains(&number) {
                // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory.
                unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only and allocates nothing.
    unsafe { command.pre_exec(drop) };
}

/// Lets `command` start with these capabilities (by number) and no others, as a container does whose
/// manifest lists them.
pub fn with_capabilities(command: &mut Command, numbers: Vec<u32>) {
    let keep = move || {
        for number in (0..64).filter(|number| !numbers.contains(number)) {
            // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only and allocates nothing.
    unsafe { command.pre_exec(keep) };
}

/// Keeps `command` and what it starts from ever getting more privileges.
pub fn without_new_privileges(command: &mut Command) {
    let none = || {
        // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers and touches no memory.
        match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes a system call only and allocates nothing.
    unsafe { command.pre_exec(none) };
}

/// Major and minor version of the running kernel.
///
/// # Errors
/// When its release does not begin with them.
pub fn kernel() -> Result<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || {
        numbers
            .next()
            .context("no version")?
            .parse()
            .context("no number")
    };
    Ok((number()?, number()?))
}

/// Lets `command` start in a mount namespace of its own in which the kernel's type information is
/// hidden.
pub fn without_btf(command: &mut Command) {
    let hide = || {
        let (root, tmpfs, btf) = (c"/", c"tmpfs", c"/sys/kernel/btf");
        let (none, no_data) = (c"none".as_ptr(), std::ptr::null());
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: all strings are constants, and only this process is moved to the new namespace.
        let done = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, root.as_ptr(), none, private, no_data) == 0
                && libc::mount(none, btf.as_ptr(), tmpfs.as_ptr(), 0, no_data) == 0
        };
        if done {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: the closure makes system calls only and allocates nothing.
    unsafe { command.pre_exec(hide) };
}

/// Lets `command` start in a mount namespace of its own in which `file` is its list of host names.
///
/// # Errors
/// When the path of the file can't be handed to the kernel.
pub fn with_hosts(command: &mut Command, file: &Path) -> Result<()> {
    with_mounted(command, file, c"/etc/hosts")
}

/// Lets `command` start in a mount namespace of its own in which a file or folder is at this place,
/// where one is already.
///
/// # Errors
/// When the path of the file can't be handed to the kernel.
pub fn with_mounted(command: &mut Command, file: &Path, place: &'static CStr) -> Result<()> {
    let file = CString::new(file.as_os_str().as_bytes())?;
    let replace = move || {
        let root = c"/";
        let (none, no_data) = (c"none".as_ptr(), std::ptr::null());
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: all strings live as long as the closure, and only this process is moved to the new
        // namespace.
        let done = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, root.as_ptr(), none, private, no_data) == 0
                && libc::mount(file.as_ptr(), place.as_ptr(), none, libc::MS_BIND, no_data) == 0
        };
        if done {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: the closure makes system calls only and allocates nothing.
    unsafe { command.pre_exec(replace) };
    Ok(())
}

/// Bytes of the BPF maps to which a process has descriptors, each map once.
///
/// # Errors
/// When the process is gone.
pub fn bpf_map_bytes_of(pid: u32) -> Result<u64> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse::<u64>().ok())
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum())
}

/// Most memory that a process has had resident so far, bytes.
///
/// # Errors
/// When the process is gone.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|text| text.trim().strip_suffix(" kB"));
    let kib = kib.context("no VmHWM")?.trim();
    Ok(kib.parse::<u64>()? * 1024)
}

/// Memory that a process has resident now, bytes; 0 where it is gone.
#[must_use]
pub fn resident_now(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|text| text.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<u64>().ok())
        .unwrap_or_default()
        * 1024
}

/// Processes that a process has started and that are there still.
pub fn children(pid: u32) -> impl Iterator<Item = u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")));
    lists.flat_map(|list| {
        let list = list.unwrap_or_default();
        list.split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect::<Vec<u32>>()
    })
}

/// Copies an executable, by a process of its own: a descriptor for writing that a test beside us takes into
/// its child keeps the copy from being started (`ETXTBSY`, execve(2)).
///
/// # Errors
/// When it can't be copied.
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let status = Command::new("cp").args([from, to]).status()?;
    ensure!(status.success(), "cannot copy {}", from.display());
    Ok(())
}
