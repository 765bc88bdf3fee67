//! The executables that are probed: parsed once each, probes attached once each.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::PathBuf,
    sync::Arc,
};

use aya::{Ebpf, programs::uprobe::UProbeLink};
use thiserror::Error;
use tracer_ebpf::{GoLayout, GoProcess};

use super::{
    GoBinary, GoError, dwarf, offsets,
    offsets::{Family, Members, ProbedFunction},
    pclntab::Function,
    prologue,
    removal::{FileId, Removal},
};
use crate::{
    elf::{ElfError, Image, ImageKey, Loaded, returns},
    kernel::uprobes::{self, Place, UprobeError},
    model::OffsetsFrom,
    refused::Refusal,
};

/// Identity of a file that is no Go program, with the time that its inode was changed at: an inode
/// that is used again by a program of the same size and age is another file.
type ForeignId = (ImageKey, i64, i64);

/// Executables probed at one time; also the size of `GO_LAYOUTS`.
const PROGRAMS_MAX: u32 = 256;
/// Longest function that is looked through for where it returns, bytes.
const RETURNING_BYTES_MAX: u64 = 1 << 15;
/// `go` statements probed in one executable.
const CREATIONS_MAX: u32 = 32;
/// Files remembered as not being Go programs.
const FOREIGN_MAX: usize = 65_536;

/// Offsets of the kernel's structures on the way from a descriptor to its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOffsets {
    /// `struct task_struct`.`files`
    pub task_files: u32,
    /// `struct files_struct`.`fdt`
    pub files_fdt: u32,
    /// `struct fdtable`.`fd`
    pub fdt_fd: u32,
}

/// One executable.
pub struct GoProgram {
    /// Its tables.
    pub binary: Arc<GoBinary>,
    /// Where members of Go's structures are.
    pub members: Members,
    /// Path as its first process saw it.
    pub path: String,
    /// Where the offsets in `members` come from.
    pub offsets_from: OffsetsFrom,
    /// Why its connection pools can't be asked; `None` while they can.
    pub kernel_only: Option<String>,
    /// Connections of it that the probes don't know, as sentences.
    pub unseen: Vec<String>,
    layout: u32,
    links: Vec<UProbeLink>,
    /// Probes on `go` statements.
    creations: u32,
    processes: BTreeSet<u32>,
}

impl std::fmt::Debug for GoProgram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GoProgram")
            .field("path", &self.path)
            .field("version", &self.binary.info.version)
            .field("probes", &self.links.len())
            .field("processes", &self.processes)
            .field("kernel_only", &self.kernel_only)
            .finish_non_exhaustive()
    }
}

impl GoProgram {
    /// Number of probes attached.
    #[must_use]
    pub fn probes(&self) -> usize {
        self.links.len()
    }
}

/// What [`Programs::admit`] found a process to run.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// Not a Go program.
    Foreign,
    /// A Go program; what to tell the kernel side about the process, if it is probed.
    Go {
        program: FileId,
        process: Option<GoProcess>,
    },
}

/// All executables in use.
#[derive(Debug)]
pub(crate) struct Programs {
    by_file: HashMap<FileId, GoProgram>,
    foreign: HashSet<ForeignId>,
    free_layouts: Vec<u32>,
    removal: Removal,
    kernel: FileOffsets,
}

impl Programs {
    pub(crate) fn new(kernel: FileOffsets) -> Programs {
        Programs {
            by_file: HashMap::new(),
            foreign: HashSet::new(),
            // Number 0 stays unused, so that 0 can stand for none.
            free_layouts: (1..PROGRAMS_MAX).rev().collect(),
            removal: Removal::default(),
            kernel,
        }
    }

    pub(crate) fn get(&self, file: FileId) -> Option<&GoProgram> {
        self.by_file.get(&file)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &GoProgram> {
        self.by_file.values()
    }

    /// Looks at the executable of a process, attaching probes when it is a Go program seen for the
    /// first time. `set_layout` hands a layout to the kernel side. `WouldBlock` while its probes of an
    /// earlier time are being detached: with both, each request would be counted twice.
    pub(crate) fn admit(
        &mut self,
        ebpf: &mut Ebpf,
        pid: u32,
        set_layout: impl FnOnce(u32, &GoLayout) -> io::Result<()>,
    ) -> io::Result<Admitted> {
        let link = PathBuf::from(format!("/proc/{pid}/exe"));
        let file = File::open(&link)?;
        let meta = file.metadata()?;
        let id = (meta.dev(), meta.ino());
        let key = ImageKey::of_metadata(&meta);
        let foreign = (key, meta.ctime(), meta.ctime_nsec());
        if self.foreign.contains(&foreign) {
            return Ok(Admitted::Foreign);
        }
        self.free_layouts.extend(self.removal.gone());
        if !self.by_file.contains_key(&id) {
            if self.removal.is_going(id) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let path = fs::read_link(&link)?.to_string_lossy().into_owned();
            let image = Image::open(file.try_clone()?).map(Arc::new);
            let binary = match image.map_err(GoError::Elf).and_then(GoBinary::read) {
                Ok(binary) => binary,
                // It may be readable the next time.
                Err(GoError::Elf(ElfError::Io(error))) => return Err(error),
                Err(error) => {
                    if matches!(error, GoError::NoFunctionTable | GoError::NoModuleData) {
                        Refusal::GoTables.count();
                    }
                    if self.foreign.len() >= FOREIGN_MAX {
                        self.foreign.clear();
                    }
                    self.foreign.insert(foreign);
                    return Ok(Admitted::Foreign);
                }
            };
            let program = self.probe(ebpf, binary, path, &file, set_layout);
            self.by_file.insert(id, program);
        }
        let Some(program) = self.by_file.get_mut(&id) else {
            return Ok(Admitted::Foreign);
        };
        program.processes.insert(pid);
        let process = if program.kernel_only.is_none() {
            Some(GoProcess {
                bias: load_bias(pid, program.binary.image())?,
                layout: program.layout,
                pad: 0,
            })
        } else {
            None
        };
        Ok(Admitted::Go {
            program: id,
            process,
        })
    }

    fn probe(
        &mut self,
        ebpf: &mut Ebpf,
        binary: GoBinary,
        path: String,
        file: &File,
        set_layout: impl FnOnce(u32, &GoLayout) -> io::Result<()>,
    ) -> GoProgram {
        let mut program = GoProgram {
            members: offsets::members(binary.info.minor()),
            offsets_from: OffsetsFrom::Table,
            binary: Arc::new(binary),
            path,
            kernel_only: None,
            unseen: Vec::new(),
            layout: 0,
            links: Vec::new(),
            creations: 0,
            processes: BTreeSet::new(),
        };
        let attached = self.reserve(&program.binary).and_then(|(number, plan)| {
            program.layout = number;
            program.members = plan.members;
            program.offsets_from = plan.offsets_from;
            program.unseen = plan.unseen;
            set_layout(number, &plan.layout).map_err(NotProbed::Layout)?;
            Ok(uprobes::attach(ebpf, file.as_raw_fd(), &plan.places)?)
        });
        match attached {
            Ok(links) => program.links = links,
            Err(error) => {
                if program.layout != 0 {
                    self.free_layouts.push(program.layout);
                    program.layout = 0;
                }
                program.kernel_only = Some(error.to_string());
            }
        }
        program
    }

    /// What to do with an executable, and the number of its layout.
    fn reserve(&mut self, binary: &GoBinary) -> Result<(u32, Plan), NotProbed> {
        let minor = binary.info.minor();
        if minor.is_some_and(|m| m < offsets::OLDEST) {
            return Err(NotProbed::TooOld(binary.info.version.clone()));
        }
        let plan = plan(binary, self.kernel)?;
        let number = self
            .free_layouts
            .pop()
            .ok_or(NotProbed::TooMany("Go programs", PROGRAMS_MAX - 1))?;
        Ok((number, plan))
    }

    /// Probes where a goroutine was begun, by the address in the file.
    pub(crate) fn also_probe(
        &mut self,
        ebpf: &mut Ebpf,
        file: FileId,
        address: u64,
    ) -> Result<(), NotProbed> {
        let Some(program) = self.by_file.get_mut(&file).filter(|p| p.layout != 0) else {
            return Ok(());
        };
        if program.creations >= CREATIONS_MAX {
            return Err(NotProbed::TooMany(
                "`go` statements of one program",
                CREATIONS_MAX,
            ));
        }
        let at = program.binary.image().file_offset(address);
        let (Some(offset), Some(pid)) = (at, program.processes.first()) else {
            return Ok(());
        };
        let executable = File::open(format!("/proc/{pid}/exe")).map_err(NotProbed::File)?;
        let meta = executable.metadata().map_err(NotProbed::File)?;
        if (meta.dev(), meta.ino()) != file {
            return Ok(());
        }
        program.creations += 1;
        let places = [("go_begun", offset)];
        program
            .links
            .extend(uprobes::attach(ebpf, executable.as_raw_fd(), &places)?);
        Ok(())
    }

    /// Takes a process off its program; probes go when it was the last, which is said.
    pub(crate) fn dismiss(&mut self, file: FileId, pid: u32) -> bool {
        let Some(program) = self.by_file.get_mut(&file) else {
            return false;
        };
        program.processes.remove(&pid);
        let last = program.processes.is_empty();
        if last {
            let (layout, links) = (program.layout, std::mem::take(&mut program.links));
            self.by_file.remove(&file);
            if layout != 0 {
                self.removal.begin(file, layout, links);
            }
        }
        last
    }

    /// Gives up asking a program's pools; returns its processes.
    pub(crate) fn distrust(&mut self, file: FileId, reason: &str) -> Vec<u32> {
        let Some(program) = self.by_file.get_mut(&file) else {
            return Vec::new();
        };
        let layout = std::mem::take(&mut program.layout);
        if layout != 0 {
            let links = std::mem::take(&mut program.links);
            self.removal.begin(file, layout, links);
        }
        program.kernel_only = Some(reason.to_owned());
        program.processes.iter().copied().collect()
    }
}

/// Why a program's own pools are not asked.
#[derive(Debug, Error)]
pub(crate) enum NotProbed {
    #[error("{0} is older than Go 1.{oldest}, whose functions have no place for probes", oldest = offsets::OLDEST)]
    TooOld(String),
    #[error("more than {1} {0}")]
    TooMany(&'static str, u32),
    #[error("its file: {0}")]
    File(io::Error),
    #[error("it does not contain net")]
    NoNet,
    /// For each family of functions, why.
    #[error("{0}")]
    NoPlace(String),
    #[error("its layout: {0}")]
    Layout(io::Error),
    #[error(transparent)]
    Refused(#[from] UprobeError),
}

/// Why a family of functions has no place for probes.
#[derive(Debug, Error)]
enum NoPlace {
    #[error("this version of it has no {0}")]
    Missing(&'static str),
    #[error("{0} does not begin as Go's functions do")]
    Prologue(&'static str),
    #[error("it can't be told where {0} returns")]
    Returns(&'static str),
}

/// What to do with an executable.
struct Plan {
    layout: GoLayout,
    members: Members,
    offsets_from: OffsetsFrom,
    places: Vec<Place>,
    unseen: Vec<String>,
}

/// Layout and probe places of an executable.
fn plan(binary: &GoBinary, kernel: FileOffsets) -> Result<Plan, NotProbed> {
    const MARKS: [&str; 6] = [
        "net.(*TCPConn).Close",
        "net.(*UnixConn).Close",
        "crypto/tls.(*Conn).Close",
        "runtime.runfinq",
        "runtime.runFinalizers",
        "runtime.runCleanups",
    ];
    let mut names = MARKS.to_vec();
    let probes = offsets::FAMILIES.iter().flat_map(|family| family.probes);
    names.extend(probes.flat_map(|probe| probe.functions));
    let found: HashMap<&str, Function> = names
        .iter()
        .zip(binary.functions_named(&names))
        .filter_map(|(&name, function)| Some((name, function?)))
        .collect();
    let address = |name: &str| found.get(name).map_or(0, |f| f.entry);
    let (members, offsets, offsets_from) = offsets_of(binary);
    let layout = GoLayout {
        tcp_close: address(MARKS[0]),
        unix_close: address(MARKS[1]),
        tls_close: address(MARKS[2]),
        finalizers: [address(MARKS[3]).max(address(MARKS[4])), address(MARKS[5])],
        task_files: kernel.task_files,
        files_fdt: kernel.files_fdt,
        fdt_fd: kernel.fdt_fd,
        ..offsets
    };
    let mut places = Vec::new();
    let mut unseen = Vec::new();
    for family in offsets::FAMILIES {
        match family_places(binary, family, &found) {
            Ok(more) => places.extend(more),
            Err(why) => unseen.push(format!("{} are not seen, because {why}", family.of)),
        }
    }
    if places.is_empty() {
        return Err(match unseen.is_empty() {
            true => NotProbed::NoNet,
            false => NotProbed::NoPlace(unseen.join("; ")),
        });
    }
    Ok(Plan {
        layout,
        members,
        offsets_from,
        places,
        unseen,
    })
}

/// Where the probes of a family go: nowhere when the executable has none of the functions.
fn family_places(
    binary: &GoBinary,
    family: &Family,
    found: &HashMap<&str, Function>,
) -> Result<Vec<Place>, NoPlace> {
    let function = |probe: &ProbedFunction| probe.functions.iter().find_map(|name| found.get(name));
    if family.probes.iter().all(|probe| function(probe).is_none()) {
        return Ok(Vec::new());
    }
    let mut places = Vec::new();
    for probe in family.probes {
        let name = probe.functions.first().copied().unwrap_or("");
        let function = *function(probe).ok_or(NoPlace::Missing(name))?;
        let (at, why) = match probe.returns {
            true => (returns_of(binary, function), NoPlace::Returns(name)),
            false => {
                let code = binary.code(function);
                let at = code.and_then(|code| prologue::attach_offset(&code));
                (at.map(|at| vec![at as u64]), NoPlace::Prologue(name))
            }
        };
        let at = at.and_then(|at| {
            let offset = |at| binary.image().file_offset(function.entry + at);
            at.into_iter().map(offset).collect::<Option<Vec<u64>>>()
        });
        let at = at.ok_or(why)?;
        places.extend(at.into_iter().map(|offset| (probe.program, offset)));
    }
    Ok(places)
}

/// Where a function returns.
fn returns_of(binary: &GoBinary, function: Function) -> Option<Vec<u64>> {
    let len = function.end - function.entry;
    let code = (len <= RETURNING_BYTES_MAX).then(|| binary.code(function));
    returns(&code.flatten()?)
}

/// Offsets for an executable, and where they come from: the table for the versions in it; else
/// the program's own DWARF; else the newest of the table, which the checks on every value hold or
/// refute.
fn offsets_of(binary: &GoBinary) -> (Members, GoLayout, OffsetsFrom) {
    let minor = binary.info.minor();
    let mut members = offsets::members(minor);
    let mut layout = offsets::layout(minor);
    if minor.is_some_and(|m| (offsets::OLDEST..=offsets::NEWEST).contains(&m)) {
        return (members, layout, OffsetsFrom::Table);
    }
    let from = match dwarf::read(binary.image().image()) {
        Some(types) => {
            dwarf::apply(&types, &mut members, &mut layout);
            OffsetsFrom::Dwarf
        }
        None => OffsetsFrom::Newest,
    };
    (members, layout, from)
}

/// Where a process has its executable, relative to the file's addresses.
pub(crate) fn load_bias(pid: u32, image: &Loaded) -> io::Result<u64> {
    if !image.position_independent() {
        return Ok(0);
    }
    /// `include/uapi/linux/auxvec.h`
    const AT_ENTRY: u64 = 9;
    let auxv = fs::read(format!("/proc/{pid}/auxv"))?;
    let words: Vec<u64> = auxv
        .chunks_exact(8)
        .filter_map(|w| w.try_into().ok().map(u64::from_ne_bytes))
        .collect();
    words
        .chunks_exact(2)
        .find(|pair| pair[0] == AT_ENTRY)
        .map(|pair| pair[1].wrapping_sub(image.entry()))
        .ok_or_else(|| io::Error::other(format!("process {pid} has no AT_ENTRY")))
}
