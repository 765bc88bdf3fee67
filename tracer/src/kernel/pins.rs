//! What outlives the daemon: maps and links pinned on a BPF file system, so that the probes go on
//! collecting while no daemon runs, and the next one takes over where the last one stopped.
//!
//! ```text
//! DIRECTORY/                    --pin
//!   tracer-KEY/                 the key stands for everything that must agree: the layout of the
//!                               maps, their capacities, the target
//!     SOCKS, AGG, …             the maps
//!     state                     what user space knows, in a map of its own: this file system has
//!                               no files
//!     links-GENERATION/         the links of one set of programs; the map ACTIVE says which set
//!                               collects
//! ```

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use aya::{
    maps::{Array, Map, MapData, MapError},
    programs::links::FdLink,
};
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use super::state_map;

/// The maps that are shared between one daemon and the next. Not among them: what only lasts for
/// one call, and the ring of stack copies, because stacks hold whatever the programs work on.
pub const MAPS: &[&str] = &[
    "SOCKS",
    "AGG",
    "HEADS",
    "LISTENERS",
    "LISTENING",
    "PATHS",
    "ERRORS",
    "TARGETS",
    "TRIE",
    "COPY_SIZES",
    "PLANS",
    "BUDGETS",
    "COUNTERS",
    "SCAN",
    "TICKETS",
    "ACTIVE",
    "GO_PROCESSES",
    "GO_LAYOUTS",
    "GO_CONNS",
    "GO_STACKS",
    "GO_FINALIZED",
];

/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
/// What the names of our own directories begin with; nothing else is ever removed.
const PREFIX: &str = "tracer-";
const LINKS: &str = "links-";
const STATE: &str = "state";

/// Why nothing can be pinned.
#[derive(Debug, Error)]
pub enum PinError {
    /// Not the right kind of file system.
    #[error(
        "{0} is not on a BPF file system, where maps can be kept: mount one with \
         `mount -t bpf bpf /sys/fs/bpf` and give a directory below it"
    )]
    NotBpf(PathBuf),
    /// Somebody else's.
    #[error("another daemon uses the pins in {0}: stop it, or give a directory of its own")]
    InUse(PathBuf),
    /// The kernel's answer.
    #[error("{what} {path}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The answer.
        error: io::Error,
    },
}

/// A name for facts that must agree: 64 bits of FNV-1a.
#[must_use]
pub fn key(facts: &[&str]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in facts.iter().flat_map(|fact| fact.bytes().chain([0xff])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{hash:016x}")
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl Fn(io::Error) -> PinError + 'a {
    move |error| PinError::Io {
        what,
        path: path.to_owned(),
        error,
    }
}

/// The pins of one daemon, locked against others.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    /// Holds the lock.
    _lock: File,
    /// Whether pins of an earlier daemon were found that fit.
    resumed: bool,
    /// Pins of an earlier daemon were found that do not fit; they are gone.
    replaced: bool,
}

impl Pins {
    /// Takes the directory, makes it if need be, and removes pins that belong to another `key`.
    ///
    /// # Errors
    /// [`PinError`].
    pub fn open(root: &Path, key: &str) -> Result<Pins, PinError> {
        let near = root.ancestors().find(|path| path.exists());
        let near = near.unwrap_or(Path::new("/"));
        let kind = rustix::fs::statfs(near).map_err(|e| failed("looking at", near)(e.into()))?;
        if kind.f_type as u32 != BPF_FS_MAGIC {
            return Err(PinError::NotBpf(root.to_owned()));
        }
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(root).map_err(failed("making", root))?;
        let lock = File::open(root).map_err(failed("opening", root))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| PinError::InUse(root.to_owned()))?;

        let directory = root.join(format!("{PREFIX}{key}"));
        let mut replaced = false;
        for other in subdirectories(root, PREFIX).map_err(failed("listing", root))? {
            if other != directory {
                remove(&other).map_err(failed("removing", &other))?;
                replaced = true;
            }
        }
        let resumed = MAPS.iter().all(|map| directory.join(map).exists());
        if !resumed && directory.exists() {
            // what a daemon left that did not get far
            remove(&directory).map_err(failed("removing", &directory))?;
        }
        private
            .create(&directory)
            .map_err(failed("making", &directory))?;
        Ok(Pins {
            directory,
            _lock: lock,
            resumed,
            replaced,
        })
    }

    /// Whether an earlier daemon's maps are taken over.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Whether pins that do not fit were removed.
    #[must_use]
    pub fn replaced(&self) -> bool {
        self.replaced
    }

    /// Number of the set of programs that collects now; 0 when there is none.
    #[must_use]
    pub fn generation(&self) -> u32 {
        let active = || -> Result<u32, MapError> {
            let map = MapData::from_pin(self.directory.join("ACTIVE"))?;
            Array::try_from(Map::Array(map))?.get(&0, 0)
        };
        active().unwrap_or(0)
    }

    /// Where they are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a map is.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Pins the links of a set of programs, which may be attached but must not be active yet.
    ///
    /// # Errors
    /// [`PinError`].
    pub fn pin_links(
        &self,
        generation: u32,
        links: impl Iterator<Item = (String, FdLink)>,
    ) -> Result<(), PinError> {
        let directory = self.directory.join(format!("{LINKS}{generation}"));
        if directory.exists() {
            remove(&directory).map_err(failed("removing", &directory))?;
        }
        let mut private = fs::DirBuilder::new();
        private.mode(0o700);
        private
            .create(&directory)
            .map_err(failed("making", &directory))?;
        for (name, link) in links {
            // these file systems refuse names with dots
            let path = directory.join(name.replace(['.', '/'], "_"));
            link.pin(&path).map_err(|error| PinError::Io {
                what: "pinning",
                path: path.clone(),
                error: io::Error::other(error),
            })?;
        }
        Ok(())
    }

    /// Detaches every other set of programs.
    ///
    /// # Errors
    /// [`PinError`].
    pub fn drop_other_links(&self, generation: u32) -> Result<(), PinError> {
        let keep = self.directory.join(format!("{LINKS}{generation}"));
        let all = subdirectories(&self.directory, LINKS);
        for other in all.map_err(failed("listing", &self.directory))? {
            if other != keep {
                remove(&other).map_err(failed("removing", &other))?;
            }
        }
        Ok(())
    }

    /// Keeps `state` in place of what was kept before.
    ///
    /// # Errors
    /// The kernel's.
    pub fn save(&self, state: &[u8]) -> Result<(), PinError> {
        let path = self.directory.join(STATE);
        let new = self.directory.join("state-new");
        let _ = fs::remove_file(&new);
        state_map::write(state, &new)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(failed("keeping the state in", &path))
    }

    /// What was kept; `None` when there is nothing, or nothing that can be read.
    #[must_use]
    pub fn saved(&self) -> Option<Vec<u8>> {
        state_map::read(&self.directory.join(STATE)).ok()
    }
}

fn subdirectories(directory: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let ours = entry.file_name().to_string_lossy().starts_with(prefix);
        if ours && entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Links first: programs must not run into maps that are going.
fn remove(directory: &Path) -> io::Result<()> {
    for inner in subdirectories(directory, LINKS)? {
        fs::remove_dir_all(inner)?;
    }
    fs::remove_dir_all(directory)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;

    /// Maps that do not outlast the daemon: room for one call, what can be learned again at once, and
    /// stacks.
    const OWN: &[&str] = &[
        "ANY_BY_WRAP",
        "ASKED",
        "ASKED_BY_WRAP",
        "CALLS",
        "CLOCK",
        "EMPTY_AGG",
        "GATHERED",
        "GO_CLOSED",
        "GO_CREATIONS",
        "GO_SCRATCH",
        "H2_SESSIONS",
        "H2_SUBMITTED",
        "H2_WRITING",
        "HINTS",
        "PLAINTEXTS",
        "JOINED",
        "NOTHING_JOINED",
        "READABLE",
        "SCRATCH",
        "SHAPES",
        "STACKS",
        "HTTP2",
        "STREAMS",
        "BLOCKS",
        "GREETINGS",
        "ANSWERS",
        "TLS_HTTP2",
        "TLS_READERS",
        "TLS_READS",
        "URLS_ASKED",
        "URL_READ",
        "UV_FAILED",
        "UV_HANDLES",
    ];

    #[test]
    fn of_every_map_it_is_said_whether_it_lasts() {
        let object = aya_obj::Object::parse(crate::kernel::probes::OBJECT).unwrap();
        let mut maps: Vec<&str> = object.maps.keys().map(String::as_str).collect();
        // those of the globals, and of the log
        maps.retain(|name| !name.starts_with('.') && !name.starts_with("AYA_"));
        maps.sort_unstable();
        let mut said: Vec<&str> = MAPS.iter().chain(OWN).copied().collect();
        said.sort_unstable();
        assert_eq!(maps, said);
    }

    #[test]
    fn keys_tell_every_fact_apart() {
        assert_ne!(key(&["a", "b"]), key(&["ab", ""]));
        assert_ne!(key(&["a", "b"]), key(&["a", "c"]));
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
    }

    #[test]
    fn an_ordinary_directory_is_refused_with_the_fix() {
        let directory = tempfile::tempdir().unwrap();
        let error = Pins::open(&directory.path().join("x"), "0").unwrap_err();
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
    }
}
