//! Names for addresses: function, file and line from ELF symbols and DWARF, with the functions
//! inlined there.
//!
//! The work is done on a thread of its own: damaged debug information may then cost a panic or
//! much time without stopping the collector, and what was parsed is dropped when nobody has asked
//! for a while.

use std::{
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use blazesym::symbolize::{CodeInfo, Input, Symbolized, Symbolizer, source};

use super::blame::Origin;
use crate::elf::{Image, ImageKey};
pub use crate::model::Named;

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
/// Executables whose debug information is kept parsed at one time.
const PARSED_MAX: usize = 32;
/// How long an answer may take before the address stays unnamed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long parsed debug information is kept without a question.
const IDLE: Duration = Duration::from_secs(30);
/// Where distributions install split debug information (gdb looks there too).
const DEBUG_DIRECTORY: &str = "/usr/lib/debug";

struct Question {
    image: Arc<Image>,
    address: u64,
    answer: SyncSender<Vec<Named>>,
}

/// Looks names up and remembers them.
#[derive(Debug, Default)]
pub struct Names {
    worker: Option<SyncSender<Question>>,
    known: HashMap<(ImageKey, u64), Arc<[Named]>>,
    /// Files whose debug information took too long once.
    given_up: HashSet<ImageKey>,
    /// Where else split debug information is, before [`DEBUG_DIRECTORY`].
    debug_directories: Arc<[PathBuf]>,
}

impl Names {
    /// Looks for split debug information in these directories, too, and there first.
    pub(crate) fn searching(debug_directories: Vec<PathBuf>) -> Names {
        Names {
            debug_directories: debug_directories.into(),
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
        let found: Arc<[Named]> = self.ask(image, address).into();
        if self.known.len() >= ANSWERS_MAX {
            self.known.clear();
        }
        self.known.insert(key, found.clone());
        found
    }

    fn ask(&mut self, image: &Arc<Image>, address: u64) -> Vec<Named> {
        if image.fd().is_none() || self.given_up.contains(&image.key()) {
            return Vec::new();
        }
        let (answer, reply) = sync_channel(1);
        let mut question = Question {
            image: image.clone(),
            address,
            answer,
        };
        // A worker that has ended (or none yet) is replaced once.
        for _ in 0..2 {
            if self.worker.is_none() {
                self.worker = spawn(self.debug_directories.clone());
            }
            let Some(worker) = &self.worker else {
                return Vec::new();
            };
            match worker.send(question) {
                Ok(()) => break,
                Err(refused) => {
                    question = refused.0;
                    self.worker = None;
                }
            }
            if self.worker.is_none() {
                continue;
            }
        }
        match reply.recv_timeout(PATIENCE) {
            Ok(names) => names,
            Err(RecvTimeoutError::Disconnected) => Vec::new(),
            Err(RecvTimeoutError::Timeout) => {
                self.given_up.insert(image.key());
                self.worker = None;
                Vec::new()
            }
        }
    }
}

fn spawn(debug_directories: Arc<[PathBuf]>) -> Option<SyncSender<Question>> {
    let (sender, questions) = sync_channel(1);
    thread::Builder::new()
        .name("symbolize".to_owned())
        .spawn(move || work(&questions, &debug_directories))
        .ok()?;
    Some(sender)
}

/// Answers until the asker is gone.
fn work(questions: &Receiver<Question>, debug_directories: &[PathBuf]) {
    let mut parsed = None;
    loop {
        let question = if parsed.is_some() {
            questions.recv_timeout(IDLE)
        } else {
            questions.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        let question = match question {
            Ok(question) => question,
            Err(RecvTimeoutError::Timeout) => {
                parsed = None;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut state = parsed.take().unwrap_or_else(Parsed::new);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let names = state.names(&question.image, question.address, debug_directories);
            (state, names)
        }));
        let names = match result {
            Ok((state, names)) => {
                parsed = Some(state);
                names
            }
            Err(_) => Vec::new(),
        };
        // The asker may have lost patience.
        let _ = question.answer.send(names);
    }
}

struct Parsed {
    symbolizer: Symbolizer,
    /// Executables that were asked about, and their split debug information.
    files: HashMap<ImageKey, Option<PathBuf>>,
}

impl Parsed {
    fn new() -> Parsed {
        // Debug files are found here, by build id, not through links: those are resolved by path,
        // and a path in another mount namespace means another file.
        let symbolizer = Symbolizer::builder().set_debug_dirs(Some([""; 0])).build();
        Parsed {
            symbolizer,
            files: HashMap::new(),
        }
    }

    fn names(&mut self, image: &Image, address: u64, directories: &[PathBuf]) -> Vec<Named> {
        if !self.files.contains_key(&image.key()) {
            if self.files.len() >= PARSED_MAX {
                *self = Parsed::new();
            }
            let split = debug_file(image, directories);
            self.files.insert(image.key(), split);
        }
        let Some(fd) = image.fd() else {
            return Vec::new();
        };
        let pinned = PathBuf::from(format!("/proc/self/fd/{fd}"));
        let split = self.files.get(&image.key()).and_then(Option::as_deref);
        split
            .and_then(|file| self.names_in(file, address))
            .or_else(|| self.names_in(&pinned, address))
            .unwrap_or_default()
    }

    fn names_in(&self, path: &Path, address: u64) -> Option<Vec<Named>> {
        let lookup = |address| {
            let mut elf = source::Elf::new(path);
            let found = self.symbolizer.symbolize_single(
                &source::Source::Elf(elf.clone()),
                Input::VirtOffset(address),
            );
            // Damaged debug information must not cost the symbol table.
            let found = match found {
                Ok(found) => found,
                Err(_) => {
                    elf.debug_syms = false;
                    let source = source::Source::Elf(elf);
                    self.symbolizer
                        .symbolize_single(&source, Input::VirtOffset(address))
                        .ok()?
                }
            };
            match found {
                Symbolized::Sym(sym) => Some(sym),
                Symbolized::Unknown(_) => None,
            }
        };
        let sym = lookup(address)?;
        let mut names: Vec<Named> = sym
            .inlined
            .iter()
            .rev()
            .map(|f| named(&f.name, f.code_info.as_ref(), true))
            .collect();
        let mut outer = named(&sym.name, sym.code_info.as_deref(), false);
        if let Some(full) = self.linkage_name(path, address, &sym.name) {
            outer.function = full;
        }
        if outer.line.is_some() {
            outer.function_line = lookup(sym.addr)
                .filter(|start| start.name == sym.name)
                .and_then(|start| start.code_info?.line)
                .filter(|first| outer.line.is_some_and(|line| *first <= line));
        }
        names.push(outer);
        Some(names)
    }
}

impl Parsed {
    /// The name by the symbol table where it is a longer form of `name`: debug information of line
    /// tables alone, rustc's default for releases that have any, knows `lookup` where the symbol
    /// table knows `shop::Discounts::lookup`.
    fn linkage_name(&self, path: &Path, address: u64, name: &str) -> Option<String> {
        let mut elf = source::Elf::new(path);
        elf.debug_syms = false;
        let found = self
            .symbolizer
            .symbolize_single(&source::Source::Elf(elf), Input::VirtOffset(address));
        let Ok(Symbolized::Sym(sym)) = found else {
            return None;
        };
        // What has no name of its own is called differently there: `shop::lookup::{{closure}}` is
        // the `{async_fn#0}` of `lookup`.
        let same = match sym.name.strip_suffix(name) {
            Some(outer) => outer.ends_with("::"),
            None => name.starts_with('{') && sym.name.contains("::{"),
        };
        same.then(|| sym.name.into_owned())
    }
}

fn named(function: &str, code: Option<&CodeInfo<'_>>, inlined: bool) -> Named {
    Named {
        function: function.to_owned(),
        file: code.map(|c| c.to_path().to_string_lossy().into_owned()),
        // DWARF 5, section 6.2.2: line 0 is code that belongs to no line.
        line: code.and_then(|c| c.line).filter(|line| *line != 0),
        inlined,
        function_line: None,
    }
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
        debug.is_some_and(|debug| debug.build_id() == image.build_id())
    })
}
