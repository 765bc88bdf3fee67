//! The daemon's page, and scripts that use it in Chromium.

use std::{ffi::OsStr, fs, net::TcpStream, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::{daemon::Daemon, host, program::Program};

/// The token that opens it.
const TOKEN: &str = "a-token-for-the-page";

/// A daemon that serves its page over TCP.
#[derive(Debug)]
pub struct Page {
    daemon: Option<Daemon>,
    pids: Vec<u32>,
    address: String,
    directory: TempDir,
}

impl Page {
    /// Starts a daemon that watches these processes.
    ///
    /// # Errors
    /// When it does not start.
    pub fn serve(pids: &[u32]) -> Result<Page> {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("token"), TOKEN)?;
        let mut page = Page {
            daemon: None,
            pids: pids.to_vec(),
            address: format!("127.0.0.1:{}", host::free_port()?),
            directory,
        };
        page.start()?;
        Ok(page)
    }

    /// Starts the daemon again, at the same address.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&mut self) -> Result<()> {
        let token = self.directory.path().join("token");
        let token = token.to_string_lossy();
        let more = ["--listen", &self.address, "--token-file", &token];
        self.daemon = Some(Daemon::start(&self.pids, &more)?);
        Ok(())
    }

    /// Ends the daemon.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("no daemon runs")?;
        daemon.program.signal(libc::SIGTERM)?;
        daemon.program.end(host::seconds(30))?;
        ensure!(
            TcpStream::connect(&self.address).is_err(),
            "somebody else answers"
        );
        Ok(())
    }

    /// The daemon that serves it.
    ///
    /// # Errors
    /// When none runs.
    pub fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("no daemon runs")
    }

    /// Starts a script of `fixtures/page` with words that come before and behind Chromium's, the
    /// page's address and its token.
    ///
    /// # Errors
    /// [`crate::runner::Skip`] where there is no Chromium or Node.js.
    pub fn script<S: AsRef<OsStr>>(
        &self,
        script: &str,
        before: &[&str],
        behind: &[S],
    ) -> Result<Program> {
        start_script(script, before, &self.address, behind)
    }
}

/// The same for the page at another address.
///
/// # Errors
/// As [`Page::script`].
pub fn start_script<S: AsRef<OsStr>>(
    script: &str,
    before: &[&str],
    address: &str,
    behind: &[S],
) -> Result<Program> {
    let mut node = Command::new(host::tool("node")?);
    node.arg(host::repository("tests/fixtures/page").join(script))
        .args(before)
        .arg(host::tool("chromium")?)
        .args([&format!("http://{address}/"), TOKEN])
        .args(behind);
    Program::start(&mut node)
}

/// Waits for a script to have done all it does.
///
/// # Errors
/// When it fails, with what it said.
pub fn finish(script: Program, limit: Duration) -> Result<()> {
    let ended = script.end(limit)?;
    ensure!(
        ended.code() == 0,
        "status {}:\n{}",
        ended.code(),
        ended.stderr
    );
    Ok(())
}
