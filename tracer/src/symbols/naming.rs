//! From kept frames to a [`Site`]: names, and the frame to blame.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Read,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    blame::{Blame, Mark, Origin, Program},
    perf_map,
    perf_map::PerfMap,
    symbolize::{FunctionTable, Named, Names},
};
use crate::model::{Frame, OwnFrame, Site, StackQuality};
use crate::procs;
use crate::{
    elf::{Image, ImageKey, Refusals},
    refused::Refusal,
    unwind::{cfi::function_start, modules::Modules, walk::RawFrame},
};

/// Perf maps larger than this are read up to here.
const PERF_MAP_BYTES_MAX: u64 = 64 << 20;
/// A perf map is not read again before so many times as long as reading it took have passed.
const PERF_MAP_REST: u32 = 20;
/// Memory of all perf maps that are kept.
const PERF_MAPS_BYTES_MAX: usize = 160 << 20;
/// Perf maps kept parsed.
const PERF_MAPS_MAX: usize = 16;
/// Function tables of language runtimes kept.
const TABLES_MAX: usize = 32;
/// Name of code that no file and no perf map knows.
const JIT: &str = "[jit]";

/// One frame as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Kept {
    /// Looked up when asked for.
    Native(RawFrame),
    /// Named when it was taken: interpreted code.
    Interpreted(Arc<Interpreted>),
}

/// An interpreted frame.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Interpreted {
    pub(crate) function: String,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
    pub(crate) function_line: Option<u32>,
}

/// A language runtime's own table of the functions in a file.
pub type Table = Option<Arc<dyn FunctionTable>>;

/// A file's size and the time it was changed at: seconds, nanoseconds.
type Stamp = (u64, i64, i64);

/// Code that a runtime compiled and nothing names.
pub(crate) fn is_unnamed(frame: &Frame) -> bool {
    frame.function == JIT
}

/// Names frames.
#[derive(Debug)]
pub(crate) struct Naming {
    names: Names,
    tables: HashMap<ImageKey, Table>,
    perf_maps: HashMap<u32, ReadMap>,
    refusals: Refusals,
    /// Processes with frames whose names have to be asked for later.
    postponed: HashSet<u32>,
    blame: Arc<Blame>,
    find_table: fn(&Arc<Image>) -> Table,
}

impl Naming {
    /// Names frames by the tables that `find_table` knows of, and blames by these rules.
    pub(crate) fn new(blame: Arc<Blame>, find_table: fn(&Arc<Image>) -> Table) -> Naming {
        Naming {
            names: Names::default(),
            tables: HashMap::new(),
            perf_maps: HashMap::new(),
            refusals: Refusals::default(),
            postponed: HashSet::new(),
            blame,
            find_table,
        }
    }

    pub(crate) fn search_first(&mut self, directories: Vec<PathBuf>) {
        self.names = Names::searching(directories);
    }

    pub(crate) fn be_patient(&mut self) {
        self.names.be_patient();
    }

    /// Whose debug information is not read, and why, as sentences.
    pub(crate) fn degraded(&self) -> impl Iterator<Item = String> {
        self.refusals.sentences("debug information")
    }

    pub(crate) fn forget(&mut self, tgid: u32) {
        self.perf_maps.remove(&tgid);
        self.postponed.remove(&tgid);
        self.names.forget(tgid);
    }

    /// Whether names of a process's frames have to be asked for later.
    pub(crate) fn is_postponed(&self, tgid: u32) -> bool {
        self.postponed.contains(&tgid)
    }

    /// Whether the process has written into its perf map since it was read, or what was postponed may
    /// be asked now.
    pub(crate) fn has_new_names(&mut self, tgid: u32) -> bool {
        if self.postponed.contains(&tgid) && self.names.may_ask(tgid) {
            self.postponed.remove(&tgid);
            return true;
        }
        let read = self.perf_maps.get(&tgid).map(|read| read.stamp);
        open_perf_map(tgid).is_some_and(|(_, stamp)| Some(stamp) != read)
    }

    /// A stack with names; `None` where they have to be asked for later.
    pub(crate) fn site(
        &mut self,
        tgid: u32,
        kept: &[Kept],
        quality: StackQuality,
        executable: Option<&str>,
        modules: &mut Modules,
    ) -> Option<Site> {
        if !self.names.may_name(tgid) {
            Refusal::ReaderTime.count();
            self.postponed.insert(tgid);
            return None;
        }
        let began = Instant::now();
        let mut frames = Vec::new();
        let mut first_lines = Vec::new();
        let mut origins = Vec::new();
        for frame in kept {
            match frame {
                Kept::Interpreted(f) => {
                    frames.push(Frame {
                        function: f.function.clone(),
                        file: f.file.clone(),
                        line: f.line,
                        module: None,
                        inlined: false,
                        address: None,
                    });
                    first_lines.push(f.function_line);
                    origins.push(None);
                }
                Kept::Native(raw) => {
                    let module = raw
                        .module
                        .and_then(|m| modules.module(m))
                        .map(|m| m.path.clone());
                    let image = raw.module.and_then(|m| modules.image(m));
                    let table = image.as_ref().and_then(|i| self.table(i));
                    let (module_path, image) = (module.as_deref(), image.as_ref());
                    for named in self.names(tgid, raw, module_path, image, table.clone()) {
                        first_lines.push(named.function_line);
                        origins.push(table.as_ref().and_then(|t| t.origin(&named)));
                        frames.push(Frame {
                            function: named.function,
                            file: named.file,
                            line: named.line,
                            module: module.as_deref().map(str::to_owned),
                            inlined: named.inlined,
                            address: Some(raw.lookup),
                        });
                    }
                }
            }
        }
        let program = Program { executable };
        let site = site(
            frames,
            &first_lines,
            &origins,
            &self.blame,
            program,
            quality,
        );
        self.names.named(tgid, began);
        Some(site)
    }

    fn names(
        &mut self,
        tgid: u32,
        raw: &RawFrame,
        module: Option<&str>,
        image: Option<&Arc<Image>>,
        table: Table,
    ) -> Vec<Named> {
        let Some(image) = image else {
            // Code in no file, or in one that is no executable: a JIT compiler's. `lookup` is the
            // address itself.
            let named = self
                .perf_map(tgid)
                .and_then(|map| map.name(raw.lookup).map(|name| perf_map::describe(&name)));
            let unknown = || Named {
                function: module.map_or_else(|| JIT.to_owned(), |path| place(path, raw.lookup)),
                ..Named::default()
            };
            return vec![named.unwrap_or_else(unknown)];
        };
        let from_table = table.map(|t| t.frames(raw.lookup)).unwrap_or_default();
        if !from_table.is_empty() {
            return from_table;
        }
        let names = self.names.at(tgid, image, raw.lookup);
        if names.is_none() {
            self.postponed.insert(tgid);
        }
        let names = names.unwrap_or_default();
        if let (Some(why), Some(module)) = (self.names.refused(image), module) {
            self.refusals.add(module, why);
        }
        if !names.is_empty() {
            return names.to_vec();
        }
        // The function's start rather than the place in it: calls from one function stay one.
        let start = function_start(image, raw.lookup).unwrap_or(raw.lookup);
        vec![Named {
            function: place(module.unwrap_or_default(), start),
            ..Named::default()
        }]
    }

    /// The function table of a language runtime in this file.
    fn table(&mut self, image: &Arc<Image>) -> Table {
        if let Some(table) = self.tables.get(&image.key()) {
            return table.clone();
        }
        if self.tables.len() >= TABLES_MAX {
            self.tables.clear();
        }
        let table = (self.find_table)(image);
        self.tables.insert(image.key(), table.clone());
        table
    }

    /// The perf map of a process, read again when it has changed: code that was moved leaves its
    /// addresses to other code. One that takes long to read is not read again at once;
    /// until then nothing is named by it.
    fn perf_map(&mut self, tgid: u32) -> Option<Arc<PerfMap>> {
        let known = self.perf_maps.get(&tgid);
        let Some((file, stamp)) = open_perf_map(tgid) else {
            return known.map(|read| read.map.clone());
        };
        if let Some(read) = known {
            if read.stamp == stamp {
                return Some(read.map.clone());
            }
            if read.is_recent() {
                Refusal::PerfMapChanging.count();
                return None;
            }
        }
        let began = Instant::now();
        let mut text = Vec::new();
        file.take(PERF_MAP_BYTES_MAX).read_to_end(&mut text).ok()?;
        if stamp.0 > PERF_MAP_BYTES_MAX {
            Refusal::PerfMapSize.count();
        }
        let map = Arc::new(PerfMap::parse(text));
        self.perf_maps.remove(&tgid);
        let kept: usize = self.perf_maps.values().map(|read| read.map.bytes()).sum();
        let full = kept + map.bytes() > PERF_MAPS_BYTES_MAX;
        if full || self.perf_maps.len() >= PERF_MAPS_MAX {
            self.perf_maps.clear();
        }
        let read = ReadMap {
            stamp,
            map: map.clone(),
            at: Instant::now(),
            took: began.elapsed(),
        };
        self.perf_maps.insert(tgid, read);
        Some(map)
    }
}

/// A perf map as it was read.
#[derive(Debug)]
struct ReadMap {
    stamp: Stamp,
    map: Arc<PerfMap>,
    at: Instant,
    took: Duration,
}

impl ReadMap {
    /// A program that writes its map all the time must not have us read it all the time.
    fn is_recent(&self) -> bool {
        self.at.elapsed() < self.took * PERF_MAP_REST
    }
}

/// A stack with the frame to blame. By index: the first lines of the frames' functions, and whose
/// they are where the build tells.
#[must_use]
pub fn site(
    frames: Vec<Frame>,
    first_lines: &[Option<u32>],
    origins: &[Option<Origin>],
    blame: &Blame,
    program: Program<'_>,
    quality: StackQuality,
) -> Site {
    let blamed = blame.call_site(&frames, origins, program);
    let line_in_function = |at: usize| {
        let line = frames.get(at)?.line?;
        line.checked_sub((*first_lines.get(at)?)?)
    };
    let own = |&index: &usize| OwnFrame {
        index,
        line_in_function: line_in_function(index),
    };
    let whole = |frame: &Frame| blame.is_marked(frame, Mark::First);
    Site {
        owners: blame.owners(&frames, origins, program),
        call_site: blamed.index,
        own: !blamed.own.is_empty(),
        library: blamed.library,
        own_frames: blamed.own.iter().map(own).collect(),
        runs_loop: frames
            .iter()
            .position(|frame| blame.is_marked(frame, Mark::Loop)),
        quality: match frames.last().is_some_and(whole) {
            true => StackQuality::Complete,
            false => quality,
        },
        line_in_function: blamed.index.and_then(line_in_function),
        again: None,
        frames,
    }
}

/// The perf map that the process itself writes, by its pid in its own namespace, below its own
/// root, and only if it is its own file: with its size and time of change.
fn open_perf_map(tgid: u32) -> Option<(File, Stamp)> {
    let status = std::fs::read_to_string(format!("/proc/{tgid}/status")).ok()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .map(str::split_ascii_whitespace)
    };
    let own_pid = field("NSpid:")
        .and_then(Iterator::last)
        .map_or(tgid.to_string(), str::to_owned);
    let user = field("Uid:")
        .and_then(|mut ids| ids.nth(1))
        .and_then(|id| id.parse::<u32>().ok());
    // Whoever can write /tmp must not be able to make us wait on a pipe or read another file.
    let directory = procs::tmp(tgid).ok()?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let name = format!("perf-{own_pid}.map");
    let file = openat(&directory, name, flags, Mode::empty());
    if file.as_ref().err() == Some(&Errno::LOOP) {
        Refusal::PerfMapForeign.count();
    }
    let file = File::from(file.ok()?);
    let meta = file.metadata().ok()?;
    let owned = Some(meta.uid()) == user || meta.uid() == 0;
    if !meta.is_file() || !owned {
        Refusal::PerfMapForeign.count();
    }
    (meta.is_file() && owned).then(|| (file, (meta.len(), meta.mtime(), meta.mtime_nsec())))
}

/// `file+0xaddress`.
fn place(path: &str, address: u64) -> String {
    format!("{}+{address:#x}", path.rsplit('/').next().unwrap_or(path))
}
