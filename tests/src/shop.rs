//! A shop of several programs, some of which leak: what the screens in `docs/screens` are taken of.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{daemon::Daemon, fixtures, host::seconds, program::Program, wait};

/// A running shop.
#[derive(Debug)]
pub struct Shop {
    // the clients end before the server that they talk to
    clients: Vec<Program>,
    _server: Program,
    _folder: tempfile::TempDir,
}

impl Shop {
    /// Opens it.
    ///
    /// # Errors
    /// When one of its programs does not start.
    pub fn open() -> Result<Shop> {
        // a path of its own, so that no screen has one of the machine that took it
        let folder = tempfile::tempdir()?;
        let srv = folder.path().join("srv/shop");
        fs::create_dir_all(&srv)?;
        let copy = |from: &Path| -> Result<PathBuf> {
            let to = srv.join(from.file_name().context("no name")?);
            fs::copy(from, &to).with_context(|| from.display().to_string())?;
            Ok(to)
        };
        let (interpreter, script) = fixtures::python("per_request.py")?;
        let (_, shared) = fixtures::python("fixture.py")?;
        copy(&shared)?;
        let script = copy(&script)?;
        let (server, address) =
            Program::ready(fixtures::path("fixture-server")?, &["http", "127.0.0.1:0"])?;
        let shop = copy(&fixtures::path("leaky-shop")?)?;
        let client = copy(&fixtures::path("client")?)?;
        let (leaky, _) = Program::ready(shop, &[&*address, "6"])?;
        let script = script.to_string_lossy();
        let (profiles, _) = Program::ready(interpreter, &[&*script, &address, "2", "400", "leak"])?;
        let (tidy, _) = Program::ready(client, &["fetch", &address, "10", "100000", "close"])?;
        Ok(Shop {
            clients: vec![leaky, profiles, tidy],
            _server: server,
            _folder: folder,
        })
    }

    /// The process ids of its clients.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.clients.iter().map(Program::pid).collect()
    }

    /// The process id of the one that leaks most.
    #[must_use]
    pub fn leaky(&self) -> u32 {
        self.clients[0].pid()
    }

    /// Waits until the daemon has found what leaks; returns the id of the worst.
    ///
    /// # Errors
    /// When it does not find it in time.
    pub fn found(&self, daemon: &Daemon) -> Result<String> {
        wait::for_value("both leaks to be found", seconds(120), || {
            let report = daemon.report()?;
            let high = |finding: &&Value| finding["confidence"] == "high";
            if report.findings().iter().filter(high).count() < 2 {
                return Ok(None);
            }
            Ok(report.findings()[0]["id"].as_str().map(str::to_owned))
        })
    }
}
