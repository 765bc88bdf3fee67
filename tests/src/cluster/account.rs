//! What a pod has of its service account: a folder with a token and the API server's certificate, and the
//! API server's address in the environment, with TLS in front of it.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::ApiServer;
use crate::{fixtures, host, languages::run, program::Program};

/// A pod's folder `/run`, and what speaks TLS for the API server.
#[derive(Debug)]
pub struct Account {
    folder: TempDir,
    port: String,
    _relay: Program,
}

impl Account {
    /// One at this API server.
    ///
    /// # Errors
    /// When there can't be one; [`crate::runner::Skip`] without Python or openssl.
    pub fn at(api: &ApiServer) -> Result<Account> {
        let folder = tempfile::tempdir()?;
        let secrets = folder.path().join("secrets/kubernetes.io/serviceaccount");
        fs::create_dir_all(&secrets)?;
        let (key, certificate) = (folder.path().join("key"), secrets.join("ca.crt"));
        run(Command::new(host::tool("openssl")?)
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args([
                "-subj",
                "/CN=kubernetes",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
            ])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate))?;
        fs::copy(api.token_file(), secrets.join("token"))?;
        fs::write(secrets.join("namespace"), "tracer")?;
        let (python, script) = fixtures::python("tls_relay.py")?;
        let server = api.address.to_string();
        let arguments = [script.as_path(), &certificate, &key, Path::new(&server)];
        let mut relay = Program::start(Command::new(python).args(arguments))?;
        let port = relay.line("READY", Duration::from_secs(20))?;
        Ok(Account {
            folder,
            port: port.trim().to_owned(),
            _relay: relay,
        })
    }

    /// Lets a command start as in a pod, as far as it looks for its service account.
    ///
    /// # Errors
    /// When the path of the folder can't be handed to the kernel.
    pub fn give(&self, command: &mut Command) -> Result<()> {
        command
            .env_remove("KUBECONFIG")
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", &self.port);
        host::with_mounted(command, self.folder.path(), c"/run").context("its folder")
    }
}
