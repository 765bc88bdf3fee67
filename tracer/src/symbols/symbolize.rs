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
    patience::{Allowed, FREE, FREE_SITE, Patience, WHOLE},
};
pub use crate::model::Named;
use crate::{
    elf::{DebugInfo, Image, ImageKey},
    reader::{
        client,
        client::{Failure, Readers},
        protocol::Question,
    },
    refused::Refusal,
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
/// A file that was too slow for less than full patience so many times is believed to be slow.
const SLOW_MAX: u8 = 3;
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
#[derive(Debug, Default)]
pub struct Names {
    readers: Readers,
    local: Local,
    known: HashMap<(ImageKey, u64), Arc<[Named]>>,
    known_bytes: usize,
    trust: HashMap<ImageKey, Trust>,
    patience: Patience,
    /// How often files were too slow for the patience that was left.
    slow: HashMap<ImageKey, u8>,
    failures: u64,
    /// Where else split debug information is, before [`DEBUG_DIRECTORY`].
    debug_directories: Vec<PathBuf>,
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
    /// no name for it. `None` when it has to be asked for later, because files of this process, or of
    /// all, have taken as much time as they may.
    pub fn at(&mut self, tgid: u32, image: &Arc<Image>, address: u64) -> Option<Arc<[Named]>> {
        let key = (image.key(), address);
        if let Some(known) = self.known.get(&key) {
            return Some(known.clone());
        }
        let found: Arc<[Named]> = self.find(tgid, image, address)?.into();
        let bytes: usize = found.iter().map(size).sum();
        if self.known.len() >= ANSWERS_MAX || self.known_bytes + bytes > ANSWER_BYTES_MAX {
            self.known.clear();
            self.known_bytes = 0;
        }
        self.known_bytes += bytes;
        self.known.insert(key, found.clone());
        Some(found)
    }

    /// Waits longer than a daemon may.
    pub(super) fn be_patient(&mut self) {
        self.patience = Patience::whole();
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

    /// Whether files of a process may take as much time again as they would be given.
    #[must_use]
    pub fn may_ask(&self, tgid: u32) -> bool {
        let allowed = self.patience.allow(tgid, Instant::now());
        allowed.is_some_and(|allowed| allowed.whole)
    }

    /// Whether names of a process's stacks may be looked up now.
    #[must_use]
    pub(super) fn may_name(&self, tgid: u32) -> bool {
        self.patience.allow(tgid, Instant::now()).is_some()
    }

    /// Naming a stack of a process has begun then, and is done.
    pub(super) fn named(&mut self, tgid: u32, began: Instant) {
        let now = Instant::now();
        let counted = self.patience.take_spent();
        let took = (now - began).saturating_sub(counted);
        self.patience.spend(tgid, took, FREE_SITE, now);
        self.patience.take_spent();
    }

    /// The process has ended.
    pub fn forget(&mut self, tgid: u32) {
        self.patience.forget(tgid);
    }

    fn find(&mut self, tgid: u32, image: &Arc<Image>, address: u64) -> Option<Vec<Named>> {
        if image.fd().is_none() {
            return Some(Vec::new());
        }
        // With everything, with the symbol table, with nothing.
        for _ in 0..3 {
            let trust = self.trust(image);
            let (split, symbols_only) = match &trust {
                Trust::Full(split) => (split.clone(), false),
                Trust::SymbolsOnly(_) => (None, true),
                Trust::Nothing(_) => break,
            };
            let began = Instant::now();
            let Some(allowed) = self.patience.allow(tgid, began) else {
                Refusal::ReaderTime.count();
                return None;
            };
            let asked = self.ask(image, split, address, symbols_only, allowed.time);
            let now = Instant::now();
            self.patience.spend(tgid, now - began, FREE, now);
            match asked {
                Ok(names) => return Some(names),
                Err(failure @ Failure::Slow(_)) => {
                    self.patience.slow(tgid, now);
                    if !self.is_slow(image, allowed) {
                        Refusal::ReaderTime.count();
                        return None;
                    }
                    self.distrust(image, &trust, &failure);
                }
                Err(failure) => self.distrust(image, &trust, &failure),
            }
        }
        Some(Vec::new())
    }

    /// Whether a file that was too slow for what was allowed is to blame itself.
    fn is_slow(&mut self, image: &Image, allowed: Allowed) -> bool {
        if self.slow.len() >= FILES_MAX {
            self.slow.clear();
        }
        let times = self.slow.entry(image.key()).or_default();
        *times = times.saturating_add(1);
        allowed.time >= WHOLE || *times >= SLOW_MAX
    }

    fn ask(
        &mut self,
        image: &Arc<Image>,
        split: Option<PathBuf>,
        address: u64,
        symbols_only: bool,
        time: Duration,
    ) -> Result<Vec<Named>, Failure> {
        if !client::available() {
            let question = local::Question {
                image: image.clone(),
                split,
                address,
                symbols_only,
            };
            return self.local.ask(question, time);
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
        self.readers.ask(question, files, time)
    }

    fn trust(&mut self, image: &Image) -> Trust {
        if let Some(known) = self.trust.get(&image.key()) {
            return known.clone();
        }
        if self.trust.len() >= FILES_MAX {
            self.trust.clear();
        }
        let trust = match image.debug_info() {
            DebugInfo::Refused(refusal, why) => {
                refusal.count();
                Trust::SymbolsOnly(why)
            }
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
        match failure {
            Failure::Start(_) => Refusal::ReaderMissing.count(),
            Failure::Died(_) => Refusal::ReaderEnded.count(),
            Failure::Slow(_) => Refusal::ReaderSlow.count(),
            Failure::Nonsense => Refusal::ReaderNonsense.count(),
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
            let sound = !matches!(debug.debug_info(), DebugInfo::Refused(..));
            sound && debug.build_id() == image.build_id()
        })
    })
}
