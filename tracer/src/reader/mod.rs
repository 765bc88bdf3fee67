//! A process that may fail in our place: it reads debug information of files that strangers made.
//!
//! The parsers of debug information allocate what a file tells them to and touch mappings that
//! whoever owns the file can take away, and neither can be caught within one process. So this
//! executable is started anew as a *reader*, which has no privileges, can open nothing (it gets
//! descriptors over a socket pair), and has limits of memory and time ([`sandbox`]). When it ends or
//! takes too long, the file that it was asked about is refused with the reason, another reader is
//! started for the next question, and nothing else is lost.
//!
//! [`client`] is our side, [`server`] the reader's, [`protocol`] what is said between them.

pub mod client;
pub mod protocol;
mod sandbox;
mod server;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::OnceLock,
};

/// The argument that makes the executable a reader.
const ARGUMENT: &str = "reader";

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Makes `program` the executable that readers are started from; it must call [`run_if_asked`]
/// first of all. Without, debug information is read within the process that asks: for tests and
/// other users of the library.
pub fn start_from(program: PathBuf) {
    let _ = PROGRAM.set(program);
}

fn program() -> Option<&'static Path> {
    PROGRAM.get().map(PathBuf::as_path)
}

/// Runs as a reader, if the arguments say so, until nobody asks any more; else readers are started
/// from this executable from now on.
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() == Some(OsStr::new(ARGUMENT)) && arguments.next().is_none() {
        return Some(server::run());
    }
    // Also where the file was replaced since: it leads to the very file that runs.
    start_from(PathBuf::from("/proc/self/exe"));
    None
}
