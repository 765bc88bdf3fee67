//! What code each process has mapped, and the pinned files behind it, shared between processes.
//!
//! Files are opened through `/proc/PID/map_files`, which leads to the very file that is mapped,
//! whatever became of its name and in whichever mount namespace it is. Without the privilege for
//! that (`CAP_SYS_ADMIN` or `CAP_CHECKPOINT_RESTORE`) they are opened by name below
//! `/proc/PID/root` and taken only when inode and device are those of the mapping.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    opened::{self, Closed, Opened},
    space::{Address, ModuleId, Space},
};
use crate::{
    elf::{ElfError, Image, ImageKey, Refusals},
    procs::{clock::thread_cpu_ns, maps, maps::Mapping},
    refused::Refusal,
};

/// A file as processes know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Path as the process sees it.
    pub path: Arc<str>,
    /// Its contents' key; `None` when it could not be opened.
    pub key: Option<ImageKey>,
}

/// One executable mapping.
#[derive(Debug, Clone)]
struct Region {
    mapping: Mapping,
    bias: u64,
    module: Option<ModuleId>,
    image: Option<Arc<Image>>,
}

/// The executable mappings of one process.
#[derive(Debug, Clone, Default)]
pub struct Process {
    text: Vec<u8>,
    regions: Vec<Region>,
    executable: Option<Arc<str>>,
    /// Every file behind a mapping was opened, or can't be.
    settled: bool,
}

impl Space for Process {
    fn find(&self, address: u64) -> Option<Address<'_>> {
        let after = self
            .regions
            .partition_point(|r| r.mapping.range.start <= address);
        let region = self.regions.get(after.checked_sub(1)?)?;
        if !region.mapping.range.contains(&address) {
            return None;
        }
        Some(Address {
            module: region.module,
            image: region.image.as_deref(),
            linked: address.wrapping_sub(region.bias),
        })
    }
}

impl Process {
    /// Modules mapped, by address, each as often as it is mapped.
    pub fn modules(&self) -> impl Iterator<Item = ModuleId> + '_ {
        self.regions.iter().filter_map(|r| r.module)
    }

    /// The text of `/proc/PID/maps`.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Path of the executable as the process sees it.
    #[must_use]
    pub fn executable(&self) -> Option<&Arc<str>> {
        self.executable.as_ref()
    }

    /// What was made of the same mapping, if its file was understood or never will be.
    fn region(&self, mapping: &Mapping) -> Option<&Region> {
        let key = mapping.range.start;
        let at = (self.regions).binary_search_by_key(&key, |r| r.mapping.range.start);
        let region = self.regions.get(at.ok()?)?;
        (region.mapping == *mapping && (self.settled || region.image.is_some())).then_some(region)
    }

    /// Pinned files in use.
    fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.regions.iter().filter_map(|r| r.image.as_ref())
    }

    /// The bias of a mapped module.
    #[must_use]
    pub fn bias(&self, module: ModuleId) -> Option<u64> {
        self.regions
            .iter()
            .find(|r| r.module == Some(module) && r.image.is_some())
            .map(|r| r.bias)
    }
}

/// The mappings of all processes seen.
#[derive(Debug)]
pub struct Modules {
    images_max: usize,
    clock: u64,
    images: HashMap<ImageKey, (Option<Arc<Image>>, u64)>,
    modules: Vec<Module>,
    numbers: HashMap<(Arc<str>, Option<ImageKey>), ModuleId>,
    processes: HashMap<u32, Arc<Process>>,
    vdso: Option<Arc<Image>>,
    refusals: Refusals,
    closed: Closed,
    /// When the mappings of a process were read last.
    read: HashMap<u32, Read>,
    /// Modules that a process was the first to have.
    numbered: HashMap<u32, usize>,
    /// Modules that found no room.
    nameless: u64,
}

/// When a process's mappings were read, and the processor time that it took.
#[derive(Debug, Clone, Copy)]
struct Read {
    at: Instant,
    took: Duration,
}

impl Read {
    fn since(began_cpu_ns: u64) -> Read {
        Read {
            at: Instant::now(),
            took: Duration::from_nanos(thread_cpu_ns().saturating_sub(began_cpu_ns)),
        }
    }

    /// A list so long that reading it takes its time is not read again at once: a process with very many
    /// mappings and call paths must not take all of our time.
    fn is_recent(&self) -> bool {
        self.took > READ_DEAR && self.at.elapsed() < self.took * READ_REST
    }
}

/// Modules numbered; further ones have no name.
const MODULES_MAX: usize = 1 << 16;
/// Modules that one process may be the first to have.
const MODULES_OF_PROCESS_MAX: usize = 1 << 13;
/// Executable mappings of one process; the kernel's bound for all of them is about as much
/// (`vm.max_map_count`).
const REGIONS_MAX: usize = 1 << 16;
/// Reading a list that took longer than this is costly,
const READ_DEAR: Duration = Duration::from_millis(3);
/// and is not done again before so many times as long have passed.
const READ_REST: u32 = 20;
/// Processes of which that is remembered.
const READ_MAX: usize = 1 << 14;
/// Files larger than this are no programs.
const IMAGE_BYTES_MAX: u64 = 8 << 30;

impl Modules {
    /// An empty table that keeps at most `images_max` files open.
    #[must_use]
    pub fn new(images_max: usize) -> Modules {
        Modules {
            images_max,
            clock: 0,
            images: HashMap::new(),
            modules: Vec::new(),
            numbers: HashMap::new(),
            processes: HashMap::new(),
            vdso: None,
            refusals: Refusals::default(),
            closed: Closed::default(),
            read: HashMap::new(),
            numbered: HashMap::new(),
            nameless: 0,
        }
    }

    /// Reads a process's mappings and pins the files behind the executable ones. Where the
    /// process is gone, what was known of it stays.
    pub fn refresh(&mut self, tgid: u32) -> Option<Arc<Process>> {
        let known = self.processes.get(&tgid).cloned();
        if known.is_some() && self.read.get(&tgid).is_some_and(Read::is_recent) {
            Refusal::MappingsOften.count();
            return known;
        }
        let began_ns = thread_cpu_ns();
        let text = opened::read_maps(tgid)
            .inspect_err(|error| self.closed.mappings(tgid, error))
            .unwrap_or_default();
        // The map of a process that has exited is empty, or can't be opened any more.
        let same = |p: &Arc<Process>| p.settled && p.text == text;
        if !text.is_empty() && !known.as_ref().is_some_and(same) {
            self.take(tgid, text, known.as_deref());
        }
        if self.read.len() >= READ_MAX {
            self.read.clear();
        }
        self.read.insert(tgid, Read::since(began_ns));
        self.processes.get(&tgid).cloned()
    }

    fn take(&mut self, tgid: u32, text: Vec<u8>, known: Option<&Process>) {
        if known.is_none() {
            self.closed.memory(tgid);
        }
        let mut regions: Vec<Region> = Vec::new();
        let mut settled = true;
        let executable = maps::parse(&text).into_iter().filter(|m| m.executable);
        let mut executable = executable.take(REGIONS_MAX + 1);
        if text.len() as u64 >= opened::MAPS_BYTES_MAX {
            Refusal::Mappings.count();
        }
        for mapping in executable.by_ref().take(REGIONS_MAX) {
            let same = known.and_then(|p| p.region(&mapping));
            let region = match same {
                Some(region) => region.clone(),
                None => match self.region(tgid, mapping) {
                    Ok(region) => region,
                    // To be looked at again.
                    Err(region) => {
                        settled = false;
                        region
                    }
                },
            };
            regions.push(region);
        }
        if executable.next().is_some() {
            Refusal::Mappings.count();
        }
        regions.sort_by_key(|r| r.mapping.range.start);
        let executable = std::fs::read_link(format!("/proc/{tgid}/exe"))
            .ok()
            .map(|path| {
                let path = path.to_string_lossy();
                path.strip_suffix(" (deleted)").unwrap_or(&path).into()
            });
        let executable = executable.or_else(|| known.and_then(|p| p.executable.clone()));
        let process = Arc::new(Process {
            text,
            regions,
            executable,
            settled,
        });
        self.processes.insert(tgid, process);
        self.evict();
    }

    /// The mappings as of the last [`Modules::refresh`].
    #[must_use]
    pub fn process(&self, tgid: u32) -> Option<&Arc<Process>> {
        self.processes.get(&tgid)
    }

    /// Forgets a process; its files stay pinned until others need the room.
    pub fn forget(&mut self, tgid: u32) {
        self.processes.remove(&tgid);
        self.read.remove(&tgid);
        self.numbered.remove(&tgid);
        self.closed.forget(tgid);
    }

    /// A module by number.
    #[must_use]
    pub fn module(&self, id: ModuleId) -> Option<&Module> {
        self.modules.get(id.0 as usize)
    }

    /// The contents of a module, unless they were evicted or never readable.
    pub fn image(&mut self, id: ModuleId) -> Option<Arc<Image>> {
        let key = self.module(id)?.key?;
        self.clock += 1;
        let (image, used) = self.images.get_mut(&key)?;
        *used = self.clock;
        image.clone()
    }

    /// Files kept open.
    #[must_use]
    pub fn pinned(&self) -> usize {
        self.images
            .values()
            .filter(|(image, _)| image.is_some())
            .count()
    }

    /// What is mapped there; as an error where the file could not be opened for want of
    /// descriptors.
    fn region(&mut self, tgid: u32, mapping: Mapping) -> Result<Region, Region> {
        let mut settled = true;
        let image = if mapping.path == "[vdso]" {
            self.vdso(tgid, &mapping)
        } else if mapping.inode != 0 {
            match opened::open(tgid, &mapping) {
                Ok(Opened::File(file)) => self.pin(file, &mapping.path),
                Ok(Opened::Absent) => None,
                Ok(Opened::Denied) => {
                    if !mapping.is_shared_memory() {
                        self.refusals.add(&mapping.path, &opened::denied());
                    }
                    None
                }
                Err(_) => {
                    settled = false;
                    None
                }
            }
        } else {
            None
        };
        let bias = image
            .as_ref()
            .and_then(|i| i.bias(mapping.range.start, mapping.offset));
        // A file whose segments do not explain the mapping is not understood.
        let image = image.filter(|_| bias.is_some());
        let module = (!mapping.path.is_empty() && !mapping.is_shared_memory())
            .then(|| self.number(tgid, &mapping.path, image.as_ref().map(|i| i.key())))
            .flatten();
        let region = Region {
            mapping,
            bias: bias.unwrap_or(0),
            module,
            image,
        };
        if settled { Ok(region) } else { Err(region) }
    }

    fn number(&mut self, tgid: u32, path: &str, key: Option<ImageKey>) -> Option<ModuleId> {
        let path: Arc<str> = path.into();
        if let Some(id) = self.numbers.get(&(path.clone(), key)) {
            return Some(*id);
        }
        let id = ModuleId(u32::try_from(self.modules.len()).ok()?);
        let of_process = self.numbered.entry(tgid).or_default();
        if self.modules.len() >= MODULES_MAX || *of_process >= MODULES_OF_PROCESS_MAX {
            self.nameless += 1;
            Refusal::ModuleRoom.count();
            return None;
        }
        *of_process += 1;
        self.modules.push(Module {
            path: path.clone(),
            key,
        });
        self.numbers.insert((path, key), id);
        Some(id)
    }

    fn pin(&mut self, file: File, path: &str) -> Option<Arc<Image>> {
        let key = ImageKey::of(&file).ok()?;
        self.clock += 1;
        let now = self.clock;
        if let Some((image, used)) = self.images.get_mut(&key) {
            *used = now;
            return image.clone();
        }
        let too_large = key.size() > IMAGE_BYTES_MAX;
        let usable = !too_large && file.metadata().is_ok_and(|m| m.is_file());
        let image = match usable.then(|| Image::open(file)) {
            Some(Ok(image)) => Some(Arc::new(image)),
            None if too_large => {
                let why = format!("it is larger than {} GiB", IMAGE_BYTES_MAX >> 30);
                self.refusals.add(path, &why);
                Refusal::ExecutableSize.count();
                None
            }
            // What is mapped as code without being a program, such as a compiler's cache.
            None | Some(Err(ElfError::NotElf | ElfError::Width)) => None,
            Some(Err(error)) => {
                self.refusals.add(path, &error.to_string());
                match error {
                    ElfError::TooMuch { .. } => Refusal::Segments.count(),
                    ElfError::CutOff(_) => Refusal::ExecutableCutOff.count(),
                    _ => Refusal::ExecutableUnreadable.count(),
                }
                None
            }
        };
        self.images.insert(key, (image.clone(), now));
        image
    }

    /// Which files are not understood, and why, as sentences.
    pub(crate) fn degraded(&self) -> impl Iterator<Item = String> {
        let times = Image::frames_refused();
        let room = (times > 0).then(|| {
            format!("how to unwind is not read of some files, for want of room: {times} times")
        });
        let nameless = (self.nameless > 0).then(|| {
            format!(
                "{} files have no name in stacks, for want of room",
                self.nameless
            )
        });
        (self.closed.sentences())
            .chain(self.refusals.sentences("code"))
            .chain(room)
            .chain(nameless)
    }

    /// The kernel's page of code in every process; the same everywhere, at different addresses.
    fn vdso(&mut self, tgid: u32, mapping: &Mapping) -> Option<Arc<Image>> {
        if self.vdso.is_none() {
            let len = usize::try_from(mapping.range.end - mapping.range.start).ok()?;
            let mut bytes = vec![0; len.min(1 << 20)];
            let mut memory = File::open(format!("/proc/{tgid}/mem")).ok()?;
            memory.seek(SeekFrom::Start(mapping.range.start)).ok()?;
            memory.read_exact(&mut bytes).ok()?;
            let key = ImageKey::for_memory(0, bytes.len() as u64);
            let image = Arc::new(Image::from_memory(key, bytes).ok()?);
            self.images.insert(key, (Some(image.clone()), self.clock));
            self.vdso = Some(image);
        }
        self.vdso.clone()
    }

    /// Drops the files unused for longest, those of no living process first, beyond the bound.
    fn evict(&mut self) {
        if self.images.len() <= self.images_max {
            return;
        }
        let mut in_use: Vec<ImageKey> = self
            .processes
            .values()
            .flat_map(|p| p.images().map(|i| i.key()))
            .collect();
        in_use.sort_unstable();
        let mut order: Vec<(bool, u64, ImageKey)> = self
            .images
            .iter()
            .map(|(key, (_, used))| (in_use.binary_search(key).is_ok(), *used, *key))
            .collect();
        order.sort_unstable();
        let excess = self.images.len() - self.images_max;
        for (_, _, key) in order.into_iter().take(excess) {
            self.images.remove(&key);
        }
    }
}
