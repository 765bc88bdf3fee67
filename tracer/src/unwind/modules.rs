//! What code each process has mapped, and the pinned files behind it, shared between processes.
//!
//! Files are opened through `/proc/PID/map_files`, which leads to the very file that is mapped,
//! whatever became of its name and in whichever mount namespace it is. Without the privilege for
//! that (`CAP_SYS_ADMIN` or `CAP_CHECKPOINT_RESTORE`) they are opened by name below
//! `/proc/PID/root` and taken only when inode and device are those of the mapping.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    sync::Arc,
};

use super::walk::Space;
use crate::{
    elf::{ElfError, Image, ImageKey, Refusals},
    procs::{maps, maps::Mapping},
};

/// Number of a module: one file under one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(u32);

/// A file as processes know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Path as the process sees it.
    pub path: Arc<str>,
    /// Its contents' key; `None` when it could not be opened.
    pub key: Option<ImageKey>,
}

/// What is at an address of a process.
#[derive(Debug, Clone, Copy)]
pub struct Address<'a> {
    /// The module, unless the code is in no file.
    pub module: Option<ModuleId>,
    /// Its contents, unless it could not be read.
    pub image: Option<&'a Image>,
    /// The address as linked in the module; the address itself without an image.
    pub linked: u64,
}

impl Address<'_> {
    /// `true` when the instruction before `address` may be a call. `self` must have been found
    /// for the byte before `address`.
    #[must_use]
    pub fn after_call(&self, _address: u64) -> bool {
        let Some(image) = self.image else { return true };
        let Some(code) = image.code_before(self.linked.wrapping_add(1), 7) else {
            return false;
        };
        // Intel SDM volume 2: E8 is a near call, FF /2 an indirect one of two to seven bytes
        // (prefixes aside), whose second byte has 010 in bits 5 to 3.
        code[2] == 0xe8 || (0..=5).any(|at| code[at] == 0xff && code[at + 1] & 0x38 == 0x10)
    }
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
}

/// Modules numbered; further ones have no name.
const MODULES_MAX: usize = 1 << 16;
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
        }
    }

    /// Reads a process's mappings and pins the files behind the executable ones. Where the
    /// process is gone, what was known of it stays.
    pub fn refresh(&mut self, tgid: u32) -> Option<Arc<Process>> {
        let text = std::fs::read(format!("/proc/{tgid}/maps")).unwrap_or_default();
        let known = self.processes.get(&tgid);
        // The map of a process that has exited is empty, or can't be opened any more.
        if text.is_empty() || known.is_some_and(|p| p.text == text) {
            return known.cloned();
        }
        let known = known.cloned();
        let mut regions: Vec<Region> = Vec::new();
        for mapping in maps::parse(&text).into_iter().filter(|m| m.executable) {
            let same = known
                .as_ref()
                .and_then(|p| p.regions.iter().find(|r| r.mapping == mapping));
            let region = match same {
                Some(region) => region.clone(),
                None => self.region(tgid, mapping),
            };
            regions.push(region);
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
        });
        self.processes.insert(tgid, process.clone());
        self.evict();
        Some(process)
    }

    /// The mappings as of the last [`Modules::refresh`].
    #[must_use]
    pub fn process(&self, tgid: u32) -> Option<&Arc<Process>> {
        self.processes.get(&tgid)
    }

    /// Forgets a process; its files stay pinned until others need the room.
    pub fn forget(&mut self, tgid: u32) {
        self.processes.remove(&tgid);
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

    fn region(&mut self, tgid: u32, mapping: Mapping) -> Region {
        let image = if mapping.path == "[vdso]" {
            self.vdso(tgid, &mapping)
        } else if mapping.inode != 0 {
            open(tgid, &mapping).and_then(|file| self.pin(file, &mapping.path))
        } else {
            None
        };
        let bias = image
            .as_ref()
            .and_then(|i| i.bias(mapping.range.start, mapping.offset));
        // A file whose segments do not explain the mapping is not understood.
        let image = image.filter(|_| bias.is_some());
        let module = (!mapping.path.is_empty())
            .then(|| self.number(&mapping.path, image.as_ref().map(|i| i.key())))
            .flatten();
        Region {
            mapping,
            bias: bias.unwrap_or(0),
            module,
            image,
        }
    }

    fn number(&mut self, path: &str, key: Option<ImageKey>) -> Option<ModuleId> {
        let path: Arc<str> = path.into();
        if let Some(id) = self.numbers.get(&(path.clone(), key)) {
            return Some(*id);
        }
        let id = ModuleId(u32::try_from(self.modules.len()).ok()?);
        if self.modules.len() >= MODULES_MAX {
            return None;
        }
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
        let usable = file
            .metadata()
            .is_ok_and(|m| m.is_file() && m.len() <= IMAGE_BYTES_MAX);
        let image = match usable.then(|| Image::open(file)) {
            Some(Ok(image)) => Some(Arc::new(image)),
            // What is mapped as code without being a program, such as a compiler's cache.
            None | Some(Err(ElfError::NotElf | ElfError::Width)) => None,
            Some(Err(error)) => {
                self.refusals.add(path, &error.to_string());
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
        self.refusals.sentences("code").chain(room)
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

/// Opens the file behind a mapping, and no other.
fn open(tgid: u32, mapping: &Mapping) -> Option<File> {
    let Range { start, end } = mapping.range;
    // A device or a pipe is never opened: that could have effects, or block.
    let regular = |path: &str| -> Option<File> {
        std::fs::metadata(path)
            .ok()
            .filter(std::fs::Metadata::is_file)?;
        File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .ok()
    };
    if let Some(file) = regular(&format!("/proc/{tgid}/map_files/{start:x}-{end:x}")) {
        return Some(file);
    }
    let same = |file: &File| {
        file.metadata().is_ok_and(|m| {
            let device = (rustix::fs::major(m.dev()), rustix::fs::minor(m.dev()));
            m.ino() == mapping.inode && device == mapping.device
        })
    };
    (!mapping.deleted)
        .then(|| regular(&format!("/proc/{tgid}/root{}", mapping.path)))
        .flatten()
        .filter(same)
        .or_else(|| regular(&format!("/proc/{tgid}/exe")).filter(same))
}
