//! TLS libraries, before they encrypt: OpenSSL and those that have its names (BoringSSL, LibreSSL),
//! and GnuTLS.
//!
//! A probe at the beginning of their write functions sees the plaintext; what begins like a request
//! of HTTP is kept for the record that carries it (`tracer-ebpf`, `probes/tls.rs`). Where a program
//! has another library, or this one without symbols, the server name of its handshake remains.

use std::io;

use super::{
    Runtime,
    probed_files::{Needed, Probe, ProbeSet, ProbedFiles},
    view::{InView, MappedFile},
};
use crate::kernel::probes::Probes;

/// Programs, and the functions they sit on: each has the connection, the buffer and its length as
/// its first arguments (OpenSSL `ssl/ssl_lib.c`, GnuTLS `lib/record.c`).
const PROBES: [Probe; 3] = [
    ("tls_write", "SSL_write"),
    ("tls_write", "SSL_write_ex"),
    ("tls_write", "gnutls_record_send"),
];
/// They are looked for one by one: no library has all.
const SETS: [ProbeSet; 1] = [(&PROBES, Needed::Any)];
/// Beginnings of the names of files that are looked into besides the executable.
const FILES: [&str; 7] = [
    "libssl",
    "libgnutls",
    "libboringssl",
    "libnode",
    "libnetty_tcnative",
    "libconscrypt",
    "_ssl",
];

/// The TLS libraries in view.
#[derive(Debug)]
pub struct Tls(ProbedFiles);

impl Default for Tls {
    fn default() -> Tls {
        let lost = "of requests over TLS only the server name is seen";
        Tls(ProbedFiles::new(&SETS, lost))
    }
}

impl Runtime for Tls {
    fn name(&self) -> &'static str {
        "TLS"
    }

    fn attach(&mut self, process: &mut InView<'_>, probes: &mut Probes) -> io::Result<()> {
        self.attach_again(process, probes);
        Ok(())
    }

    fn attach_again(&mut self, process: &mut InView<'_>, probes: &mut Probes) {
        let executable = process.executable();
        let wanted = |file: &MappedFile| {
            executable.as_deref() == Some(&*file.path)
                || FILES.iter().any(|prefix| file.name().starts_with(prefix))
        };
        self.0.attach(process, probes, wanted);
    }

    fn degraded(&self) -> Vec<String> {
        self.0.degraded().collect()
    }

    fn forget(&mut self, pid: u32) {
        self.0.forget(pid);
    }
}
