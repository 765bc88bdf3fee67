//! Tools from Debian that look at connections, too, restricted to the load as far as they can be.

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::traced::Process;
use crate::setup::{self, packages};

/// Compiling and attaching take less than this, even on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// From the first program loaded to the last one attached.
const SETTLE: Duration = Duration::from_millis(700);
/// The load's listening ports (`PORT` in bench.c), for two CPUs.
const PORTS: &str = "27391,27392";

/// A tool that runs until it is told to stop.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// What it is called in the results.
    pub name: &'static str,
    /// What it does.
    pub note: &'static str,
    command: fn(u32) -> Vec<String>,
}

/// Installs them.
pub fn install(options: setup::Options) -> Result<()> {
    packages::install(
        &["bpftrace", "libbpf-tools", "linux-perf", "libssl-dev"],
        "tools to compare with, and a TLS library",
        options.agreed(),
    )
}

/// Those that follow connections.
pub const PEERS: &[Peer] = &[
    Peer {
        name: "tcplife",
        note: "libbpf-tools, of one process; a line for each connection",
        command: |pid| words(&["tcplife", "-p", &pid.to_string()]),
    },
    Peer {
        name: "tcpstates",
        note: "libbpf-tools, of the accepted ends only (it filters by port); a line for each state",
        command: |_| words(&["tcpstates", "-L", PORTS]),
    },
    Peer {
        name: "bpftrace connect-ustack-count",
        note: "counts by stack; by frame pointers, which the load lacks: one frame",
        command: |pid| {
            bpftrace(format!(
                "tracepoint:sock:inet_sock_set_state /args->newstate == 2 && pid == {pid}/ \
                 {{ @[ustack] = count(); }}"
            ))
        },
    },
    Peer {
        name: "bpftrace lifetime-by-ustack",
        note: "lifetimes of connecting ends by stack of one frame",
        command: |pid| {
            bpftrace(format!(
                "tracepoint:sock:inet_sock_set_state /args->newstate == 2 && pid == {pid}/ \
                 {{ @s[args->skaddr] = nsecs; @u[args->skaddr] = ustack; }} \
                 tracepoint:sock:inet_sock_set_state /args->newstate == 7 && @s[args->skaddr]/ \
                 {{ @life[@u[args->skaddr]] = hist(nsecs - @s[args->skaddr]); \
                 delete(@s[args->skaddr]); delete(@u[args->skaddr]); }}"
            ))
        },
    },
];

/// One that watches one system call by its tracepoint, which makes every system call slower.
pub const SYSCALL_TRACEPOINT: Peer = Peer {
    name: "one `syscalls:*` tracepoint",
    note: "bpftrace on sys_enter_connect",
    command: |pid| {
        bpftrace(format!(
            "tracepoint:syscalls:sys_enter_connect /pid == {pid}/ {{ @ = count(); }}"
        ))
    },
};

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn bpftrace(program: String) -> Vec<String> {
    vec!["bpftrace".to_owned(), "-e".to_owned(), program]
}

impl Peer {
    /// Starts it on the load's process and waits until it is attached.
    pub fn start(&self, pid: u32) -> Result<Process> {
        // they look tracepoints up in tracefs, which need not be mounted; not for others either
        let script = "mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null || \
                      mount -t tracefs tracefs /sys/kernel/debug/tracing; exec \"$@\"";
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .args((self.command)(pid))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start unshare")?;
        let mut process = Process(child);
        let began = Instant::now();
        while !attached(process.0.id()) {
            if process.0.try_wait()?.is_some() || began.elapsed() > READY_WITHIN {
                bail!("{} could not be started here", self.name);
            }
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(SETTLE);
        Ok(process)
    }
}

/// Whether a process has a BPF program and an event or link to attach it to.
fn attached(pid: u32) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let names: Vec<String> = files
        .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let has = |part: &str| names.iter().any(|name| name.contains(part));
    has("bpf-prog") && (has("perf_event") || has("bpf_link"))
}
