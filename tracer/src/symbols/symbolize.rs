//! Names for addresses: function, file and line from ELF symbols and DWARF, with the functions
//! inlined there, and what to believe of a file that could not be read.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    blame::Origin,
    local::{self, Local},
};
pub use crate::model::Named;
use crate::{
    elf::{DebugInfo, Image, ImageKey},
    reader::{
        client,
        client::{Failure, Readers},
        protocol::Question,
    },
};

/// A table of functions that a language runtime keeps in its executables, preferred to ELF and
/// DWARF where there is one (Go's pclntab).
pub trait FunctionTable: std::fmt::Debug + Send + Sync {
    /// The functions at an address as linked, innermost (inlined) first; empty when unknown.
    fn frames(&self, address: u64) -> Vec<Named>;

    /// Whose a function of this table is, where the build says so (Go: by its modules).
    fn origin(&self, named: &Named) -> Option<Origin>;
}

/// Answers kept, those without a name included.
const ANSWERS_MAX: usize = 32 << 10;
/// Bytes of names in those answers.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Files of which something is remembered.
const FILES_MAX: usize = 8 << 10;
/// How long an answer may take at first. The first question to a file has its debug information
/// parsed, which takes seconds for the largest.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take after many were too slow: together they must not hold up a sweep.
const PATIENCE_LEAST: Duration = Duration::from_millis(500);
/// After this long without a slow answer there is full patience again.
const FORGIVEN: Duration = Duration::from_secs(600);
/// Where distributions install split debug information (gdb looks there too).
const DEBUG_DIRECTORY: &str = "/usr/lib/debug";

/// What may be read of a file.
#[derive(Debug, Clone)]
enum Trust {
    /// Everything; with its split debug information, where there is any.
    Full(Option<PathBuf>),
    /// Its symbol table; no debug information, because of this.
    SymbolsOnly(String),
    /// Nothing, because of this.
    Nothing(String),
}

/// Looks names up and remembers them.
#[derive(Debug)]
pub struct Names {
    readers: Readers,
    local: Local,
    known: HashMap<(ImageKey, u64), Arc<[Named]>>,
    known_bytes: usize,
    trust: HashMap<ImageKey, Trust>,
    patience: Duration,
    slow_at: Option<Instant>,
    failures: u64,
    /// Where else split debug information is, before [`DEBUG_DIRECTORY`].
    debug_directories: Vec<PathBuf>,
}

impl Default for Names {
    fn default() -> Names {
        Names {
            readers: Readers::default(),
            local: Local::default(),
            known: HashMap::new(),
            known_bytes: 0,
            trust: HashMap::new(),
            patience: PATIENCE,
            slow_at: None,
            failures: 0,
            debug_directories: Vec::new(),
        }
    }
}

impl Names {
    /// Looks for split debug information in these directories, too, and there first.
    pub(crate) fn searching(debug_directories: Vec<PathBuf>) -> Names {
        Names {
            debug_directories,
            ..Names::default()
        }
    }

    /// The functions at an address as linked, innermost (inlined) first; empty when the file has
    /// no name for it.
    pub fn at(&mut self, image: &Arc<Image>, address: u64) -> Arc<[Named]> {
        let key = (image.key(), address);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let found: Arc<[Named]> = self.find(image, address).into();
        let bytes: usize = found.iter().map(size).sum();
        if self.known.len() >= ANSWERS_MAX || self.known_bytes + bytes > ANSWER_BYTES_MAX {
            self.known.clear();
            self.known_bytes = 0;
        }
        self.known_bytes += bytes;
        self.known.insert(key, found.clone());
        found
    }

    /// Why a file, or its debug information, is not read.
    #[must_use]
    pub fn refused(&self, image: &Image) -> Option<&str> {
        match self.trust.get(&image.key())? {
            Trust::Full(_) => None,
            Trust::SymbolsOnly(why) | Trust::Nothing(why) => Some(why),
        }
    }

    /// How often reading a file failed, ended the reader, or took too long.
    #[must_use]
    pub const fn failures(&self) -> u64 {
        self.failures
    }

    /// The process that reads debug information now, if there is one.
    #[must_use]
    pub fn reader(&self) -> Option<u32> {
        self.readers.pid()
    }

    fn find(&mut self, image: &Arc<Image>, address: u64) -> Vec<Named> {
        if image.fd().is_none() {
            return Vec::new();
        }
        // With everything, with the symbol table, with nothing.
        for _ in 0..3 {
            let trust = self.trust(image);
            let (split, symbols_only) = match &trust {
                Trust::Full(split) => (split.clone(), false),
                Trust::SymbolsOnly(_) => (None, true),
                Trust::Nothing(_) => break,
            };
            match self.ask(image, split, address, symbols_only) {
                Ok(names) => return names,
                Err(failure) => self.distrust(image, &trust, &failure),
            }
        }
        Vec::new()
    }

    fn ask(
        &mut self,
        image: &Arc<Image>,
        split: Option<PathBuf>,
        address: u64,
        symbols_only: bool,
    ) -> Result<Vec<Named>, Failure> {
        if self.slow_at.is_some_and(|at| at.elapsed() > FORGIVEN) {
            self.slow_at = None;
            self.patience = PATIENCE;
        }
        if !client::available() {
            let question = local::Question {
                image: image.clone(),
                split,
                address,
                symbols_only,
            };
            return self.local.ask(question, self.patience);
        }
        let question = Question {
            file: image.serial(),
            address,
            symbols_only,
        };
        let files = || {
            let file = image.file().and_then(|fd| fd.try_clone_to_owned().ok());
            let split = split
                .as_ref()
                .and_then(|path| std::fs::File::open(path).ok());
            file.into_iter().chain(split.map(OwnedFd::from)).collect()
        };
        self.readers.ask(question, files, self.patience)
    }

    fn trust(&mut self, image: &Image) -> Trust {
        if let Some(known) = self.trust.get(&image.key()) {
            return known.clone();
        }
        if self.trust.len() >= FILES_MAX {
            self.trust.clear();
        }
        let trust = match image.debug_info() {
            DebugInfo::Refused(why) => Trust::SymbolsOnly(why),
            DebugInfo::None | DebugInfo::Sound => {
                Trust::Full(debug_file(image, &self.debug_directories))
            }
        };
        self.trust.insert(image.key(), trust.clone());
        trust
    }

    /// What is believed less after a failure: the debug information first, then the file.
    fn distrust(&mut self, image: &Image, before: &Trust, failure: &Failure) {
        self.failures += 1;
        if matches!(failure, Failure::Slow(_)) {
            self.slow_at = Some(Instant::now());
            self.patience = (self.patience / 2).max(PATIENCE_LEAST);
        }
        let why = failure.to_string();
        let trust = match before {
            _ if matches!(failure, Failure::Start(_)) => Trust::Nothing(why),
            Trust::Full(_) => Trust::SymbolsOnly(why),
            _ => Trust::Nothing(why),
        };
        self.trust.insert(image.key(), trust);
    }
}

fn size(named: &Named) -> usize {
    size_of::<Named>() + named.function.len() + named.file.as_ref().map_or(0, String::len)
}

/// Split debug information of this very build, where it is installed.
fn debug_file(image: &Image, directories: &[PathBuf]) -> Option<PathBuf> {
    let (first, rest) = image.build_id()?.split_first()?;
    if rest.len() < 7 {
        return None;
    }
    let mut name = format!(".build-id/{first:02x}/");
    for byte in rest {
        name.push_str(&format!("{byte:02x}"));
    }
    name.push_str(".debug");
    let usual = Path::new(DEBUG_DIRECTORY);
    let places = directories.iter().map(PathBuf::as_path).chain([usual]);
    places.map(|place| place.join(&name)).find(|path| {
        let debug = std::fs::File::open(path)
            .ok()
            .and_then(|file| Image::open(file).ok());
        debug.is_some_and(|debug| {
            let sound = !matches!(debug.debug_info(), DebugInfo::Refused(_));
            sound && debug.build_id() == image.build_id()
        })
    })
}
