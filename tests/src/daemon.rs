//! A daemon of tracer, and what it says of itself.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    host::seconds,
    http,
    program::Program,
    tracer::{self, Report},
    wait,
};

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    /// The process.
    pub program: Program,
    socket: String,
    _directory: TempDir,
}

impl Daemon {
    /// Starts one that watches these processes, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(pids: &[u32], more: &[&str]) -> Result<Daemon> {
        Daemon::start_as(pids, more, |_| {})
    }

    /// The same, after `prepare` has had its way with the command.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_as(
        pids: &[u32],
        more: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Daemon> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("tracer.sock");
        let socket = socket.to_string_lossy().into_owned();
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let mut arguments = vec!["daemon", "--socket", &socket];
        for pid in &pids {
            arguments.extend(["--pid", pid]);
        }
        arguments.extend(more);
        let mut command = tracer::command(&arguments)?;
        prepare(&mut command);
        let mut program = Program::start(&mut command)?;
        wait::until("a ready daemon", seconds(60), || {
            ensure!(program.runs()?, "the daemon ended: {}", program.stderr());
            Ok(http::get(&socket, "/readyz").is_ok_and(|answer| answer.status == 200))
        })?;
        Ok(Daemon {
            program,
            socket,
            _directory: directory,
        })
    }

    /// Runs a command that asks it, with JSON as the answer.
    ///
    /// # Errors
    /// When it fails.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let more = ["-o", "json", "--endpoint", &self.socket];
        let ended = tracer::run(&[arguments, &more].concat(), seconds(60))?;
        ensure!(ended.code() == 0, "{arguments:?}: {}", ended.stderr);
        serde_json::from_str(&ended.stdout).with_context(|| ended.stdout.clone())
    }

    /// The socket that it serves on.
    #[must_use]
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// Its findings.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn report(&self) -> Result<Report> {
        Ok(Report(self.ask(&["top"])?))
    }

    /// Its open connections, at most `limit`, and how many more there are.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn connections(&self, limit: usize) -> Result<(Vec<Value>, u64)> {
        let list = self.ask(&["connections", "--limit", &limit.to_string()])?;
        let rows = list["connections"].as_array().context("no connections")?;
        let omitted = list["omitted"].as_u64().context("no omitted")?;
        Ok((rows.clone(), omitted))
    }

    /// What it counted, by the names of `doctor`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn accounting(&self) -> Result<Accounting> {
        let doctor = self.ask(&["doctor"])?;
        let counts = doctor["accounting"].as_object().context("no accounting")?;
        let counts = counts.iter();
        Ok(Accounting(
            counts
                .map(|(name, count)| (name.clone(), count.as_u64().unwrap_or(0)))
                .collect(),
        ))
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<String> {
        Ok(http::get(&self.socket, "/metrics")?.body)
    }
}

/// Counts of a daemon.
#[derive(Debug, Clone)]
pub struct Accounting(pub BTreeMap<String, u64>);

impl Accounting {
    /// One of them; 0 where there was nothing to count.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Sockets that found no room when they were opened.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.of("socket_map_full") + self.of("socket_map_busy")
    }

    /// Sockets whose opening was seen: not those that only a scan found.
    #[must_use]
    pub fn openings(&self) -> u64 {
        self.of("seen") - self.of("found_by_scan")
    }

    /// Holds `seen = live + folded + dropped`.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.of("seen") == self.of("live") + self.of("folded") + self.dropped()
    }
}
