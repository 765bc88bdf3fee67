//! A tracer or a peer at work, and what it costs by itself.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Bench;

/// Attaching takes less than this, even on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A process that is ended with this value.
pub struct Process(pub Child);

impl Process {
    /// CPU time of all its threads so far, nanoseconds.
    pub fn cpu_ns(&self) -> f64 {
        cpu_ns(self.0.id())
    }

    /// Ends it as a user would.
    pub fn stop(&mut self) {
        signal(self.0.id(), "INT");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // it did not listen
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends a signal by name.
pub fn signal(pid: u32, name: &str) {
    // it may be gone already
    let _ = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(pid.to_string())
        .stderr(Stdio::null())
        .status();
}

/// CPU time of the threads that a process has now (the scheduler's account, `schedstat`).
fn cpu_ns(pid: u32) -> f64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0.0;
    };
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|stat| stat.split_whitespace().next()?.parse::<f64>().ok())
        .sum()
}

/// `tracer daemon` with its probes attached.
pub struct Daemon {
    /// Its process.
    pub process: Process,
    socket: PathBuf,
}

impl Daemon {
    /// Starts it for one process and its children, with further arguments.
    pub fn start(bench: &Bench, pid: u32, arguments: &[&str]) -> Result<Self> {
        Self::start_for(bench, &[pid], arguments)
    }

    /// Starts it for these processes and their children, with further arguments.
    pub fn start_for(bench: &Bench, pids: &[u32], arguments: &[&str]) -> Result<Self> {
        Self::start_of(&bench.tracer, bench, pids, arguments)
    }

    /// The same of another build of tracer.
    pub fn start_of(
        tracer: &Path,
        bench: &Bench,
        pids: &[u32],
        arguments: &[&str],
    ) -> Result<Self> {
        let socket = bench.folder.join("tracer.sock");
        let child = Command::new(tracer)
            .arg("daemon")
            .args(pids.iter().map(|pid| format!("--pid={pid}")))
            .arg("--socket")
            .arg(&socket)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(fs::File::create(bench.folder.join("tracer.log"))?)
            .spawn()
            .context("cannot start tracer")?;
        let mut daemon = Self {
            process: Process(child),
            socket,
        };
        let began = Instant::now();
        while daemon.get("/readyz").is_err() {
            if daemon.process.0.try_wait()?.is_some() || began.elapsed() > READY_WITHIN {
                let log = fs::read_to_string(bench.folder.join("tracer.log"));
                bail!("tracer did not become ready: {}", log.unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    /// Where it is asked.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sockets that came into view since it was started.
    pub fn sockets_seen(&self) -> Result<f64> {
        self.coverage("sockets_seen")
    }

    /// A number of its coverage.
    pub fn coverage(&self, name: &str) -> Result<f64> {
        let report: Value = serde_json::from_str(&self.get("/v1/report")?)?;
        let number = report["coverage"][name].as_f64();
        number.with_context(|| format!("tracer's coverage has no number {name}"))
    }

    /// Asks its interface; anything but success is an error.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: tracer\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
            _ => bail!("tracer answered {path} with {answer}"),
        }
    }
}
