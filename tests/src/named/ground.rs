//! What all clients and servers of the table share: a folder, a certificate, host names, packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use tempfile::TempDir;

use crate::{debian, host, languages::run};

/// The name of the servers.
pub const NAME: &str = "shop.test";
/// Debian's version of PostgreSQL.
const POSTGRES: &str = "15";

/// See the module.
#[derive(Debug)]
pub struct Ground {
    directory: TempDir,
    /// A certificate for [`NAME`], and the one of who signed it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    hosts: PathBuf,
}

impl Ground {
    /// Makes it.
    ///
    /// # Errors
    /// When a file can't be written; [`crate::runner::Skip`] without openssl.
    pub fn new() -> Result<Ground> {
        let directory = tempfile::tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let [key, certificate, hosts] = ["key.pem", "cert.pem", "hosts"].map(at);
        let [ca_key, ca, request, says] = ["ca.key", "ca.pem", "request", "says"].map(at);
        let openssl = host::tool("openssl")?;
        let asked = |subject: &str, key: &Path, out: &Path| {
            let mut command = Command::new(&openssl);
            command
                .args(["req", "-newkey", "ec", "-nodes", "-pkeyopt"])
                .args(["ec_paramgen_curve:P-256", "-subj", subject, "-keyout"])
                .arg(key)
                .arg("-out")
                .arg(out);
            command
        };
        run(asked("/CN=authority of the tests", &ca_key, &ca).args(["-x509", "-days", "2"]))?;
        run(&mut asked(&format!("/CN={NAME}"), &key, &request))?;
        fs::write(
            &says,
            format!("subjectAltName=DNS:{NAME}\nbasicConstraints=CA:FALSE\n"),
        )?;
        run(Command::new(&openssl)
            .args(["x509", "-req", "-days", "2", "-CAcreateserial", "-in"])
            .arg(&request)
            .arg("-CA")
            .arg(&ca)
            .arg("-CAkey")
            .arg(&ca_key)
            .arg("-extfile")
            .arg(&says)
            .arg("-out")
            .arg(&certificate))?;
        let chain = [fs::read(&certificate)?, fs::read(&ca)?].concat();
        fs::write(&certificate, chain)?;
        fs::write(&hosts, format!("127.0.0.1 localhost {NAME}\n"))?;
        Ok(Ground {
            directory,
            certificate,
            key,
            hosts,
        })
    }

    /// A folder that goes with this value.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.directory.path().join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Lets a command find the servers by their name.
    ///
    /// # Errors
    /// As [`host::with_hosts`].
    pub fn inside(&self, command: &mut Command) -> Result<()> {
        host::with_hosts(command, &self.hosts)
    }

    /// The folder that stands for `/` where these packages of Debian's are unpacked.
    ///
    /// # Errors
    /// When they can't be had; [`crate::runner::Skip`] on another distribution.
    pub fn unpacked(&self, folder: &str, packages: &[&str]) -> Result<PathBuf> {
        debian::unpacked(&host::cache()?.join("debian"), folder, packages)
    }

    /// A program of Debian's, with what it needs that may not be installed.
    ///
    /// # Errors
    /// As [`Ground::unpacked`].
    pub fn debian(&self, folder: &str, packages: &[&str], program: &str) -> Result<Command> {
        let root = self.unpacked(folder, packages)?;
        let mut command = Command::new(root.join(program));
        command.env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
        Ok(command)
    }

    /// A program of PostgreSQL: the installed one, else one that is unpacked.
    ///
    /// # Errors
    /// As [`Ground::unpacked`].
    pub fn postgres(&self, program: &str) -> Result<Command> {
        let path = format!("usr/lib/postgresql/{POSTGRES}/bin/{program}");
        let installed = Path::new("/").join(&path);
        if installed.exists() {
            return Ok(Command::new(installed));
        }
        let [server, client] =
            ["postgresql", "postgresql-client"].map(|name| format!("{name}-{POSTGRES}"));
        self.debian("postgres", &[&server, &client, "libpq5"], &path)
    }
}
