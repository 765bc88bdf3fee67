//! The daemon's UNIX socket: one daemon per path, root only, gone at the end.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, fchmod, flock},
    net::{
        self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with,
        sockopt::socket_peercred,
    },
};
use thiserror::Error;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Why the socket can't be had.
#[derive(Debug, Error)]
pub enum Error {
    /// Another daemon answers on it.
    #[error(
        "another daemon (pid {pid}) already serves {path}; stop it first, or give this one \
         its own --socket"
    )]
    InUse {
        /// The socket's path.
        path: String,
        /// The other daemon; 0 when it is in another pid namespace.
        pid: i32,
    },
    /// A file that is no socket has that name.
    #[error("{0} exists and is no socket; give another --socket, or remove it yourself")]
    NoSocket(String),
    /// The operating system's answer.
    #[error("cannot {what} {path}: {error}; give another place with --socket")]
    Failed {
        /// The operation.
        what: &'static str,
        /// On what.
        path: String,
        /// Why.
        error: io::Error,
    },
}

/// A bound socket; dropping it removes the file, if it is still the one that was made.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket file.
    file: (u64, u64),
}

impl BoundSocket {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A second descriptor of the listening socket.
    ///
    /// # Errors
    /// The error of dup(2).
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let same = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.file);
        if same {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds `path` for its owner only, replacing the file that a dead daemon left behind.
///
/// # Errors
/// [`enum@Error`].
pub fn bind(path: &Path) -> Result<BoundSocket, Error> {
    let failed = |what, path: &Path, error| Error::Failed {
        what,
        path: path.display().to_string(),
        error,
    };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Only the last folder, as /run/tracer: a whole new path is more likely a typing error.
    match DirBuilder::new().mode(0o755).create(directory) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("create the folder of", path, e));
        }
        _ => {}
    }
    // Two daemons that start at once would both find the old file dead, and the second would
    // remove the first one's socket.
    let lock = File::open(directory).map_err(|e| failed("open the folder of", path, e))?;
    flock(&lock, FlockOperation::LockExclusive)
        .map_err(|e| failed("lock the folder of", path, e.into()))?;
    remove_stale(path, failed)?;
    let listener = listen(path).map_err(|e| failed("bind the socket", path, e))?;
    let meta = fs::symlink_metadata(path).map_err(|e| failed("look at", path, e))?;
    let bound = BoundSocket {
        listener,
        path: path.to_owned(),
        file: (meta.dev(), meta.ino()),
    };
    Ok(bound)
}

/// Binds and listens; the file has mode 0600 from its first moment, because it takes over the mode
/// of the unbound socket (`unix_bind_bsd`, net/unix/af_unix.c).
fn listen(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn remove_stale(
    path: &Path,
    failed: impl Fn(&'static str, &Path, io::Error) -> Error,
) -> Result<(), Error> {
    let meta = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(|e| failed("look at", path, e))?,
    };
    if !meta.file_type().is_socket() {
        return Err(Error::NoSocket(path.display().to_string()));
    }
    match UnixStream::connect(path) {
        Ok(other) => Err(Error::InUse {
            path: path.display().to_string(),
            pid: socket_peercred(&other).map_or(0, |peer| peer.pid.as_raw_nonzero().get()),
        }),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|e| failed("replace the old socket", path, e))
        }
        Err(e) => Err(failed("ask who serves", path, e)),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_its_owners_and_goes_with_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/tracer.sock");
        let bound = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_daemon_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tracer.sock");
        let _first = bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        assert!(
            matches!(&error, Error::InUse { pid, .. } if *pid == i32::try_from(std::process::id()).unwrap()),
            "{error}"
        );
        assert!(path.exists());
    }

    #[test]
    fn what_a_dead_daemon_left_is_replaced_and_other_files_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tracer.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(bind(&path).unwrap());

        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path).unwrap_err(), Error::NoSocket(_)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_socket_that_is_not_ours_any_more_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tracer.sock");
        let first = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _keeps_the_inode_number_taken = fs::write(directory.path().join("x"), "");
        let second = bind(&path).unwrap();
        if first.file != second.file {
            drop(first);
            assert!(path.exists());
        }
    }

    #[test]
    fn an_impossible_place_is_named() {
        let error = bind(Path::new("/proc/no/tracer.sock")).unwrap_err();
        assert!(error.to_string().contains("/proc/no"), "{error}");
    }
}
