//! What a runtime may read of a process: the files it has mapped, its mappings and its memory.
//!
//! Nothing else of the system is open to a runtime's parsers, so that another process, with no
//! privileges, could run them on descriptors and memory that are handed to it.

use std::{io, sync::Arc};

use tracer_ebpf::{RuntimeFrame, StackCopy};

use crate::{
    elf::Image,
    memory::{Memory, ProcessMemory},
    model::Named,
    procs::{self, maps, maps::Mapping},
    unwind::{
        modules::{Modules, Process},
        space::ModuleId,
        walk::Unwound,
    },
};

/// An executable file that a process has mapped.
#[derive(Debug, Clone)]
pub struct MappedFile {
    /// Its path as the process sees it.
    pub path: Arc<str>,
    /// Its contents.
    pub image: Arc<Image>,
    /// What is added to addresses as linked.
    pub bias: u64,
    /// Its number, as in [`crate::unwind::walk::RawFrame::module`].
    pub module: ModuleId,
}

impl MappedFile {
    /// Its name without directories.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// A process in view.
#[derive(Debug)]
pub struct InView<'a> {
    pid: u32,
    modules: &'a mut Modules,
    process: Option<Arc<Process>>,
}

impl<'a> InView<'a> {
    /// A process whose mappings are read when they are asked for.
    #[must_use]
    pub fn new(pid: u32, modules: &'a mut Modules) -> InView<'a> {
        InView {
            pid,
            modules,
            process: None,
        }
    }

    /// A process whose mappings were just read.
    #[must_use]
    pub fn of(pid: u32, process: Arc<Process>, modules: &'a mut Modules) -> InView<'a> {
        InView {
            pid,
            modules,
            process: Some(process),
        }
    }

    /// Its number on the host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Path of its executable as the process sees it. Costs no reading of its mappings.
    #[must_use]
    pub fn executable(&self) -> Option<String> {
        procs::exe(self.pid)
    }

    /// The executable files that it has mapped, each once.
    pub fn files(&mut self) -> Vec<MappedFile> {
        let Some(process) = self.process() else {
            return Vec::new();
        };
        let mut found: Vec<MappedFile> = Vec::new();
        for module in process.modules() {
            if let (Some(image), Some(bias), Some(path)) = (
                self.modules.image(module),
                process.bias(module),
                self.modules.module(module).map(|m| Arc::clone(&m.path)),
            ) && found.iter().all(|known| known.image.key() != image.key())
            {
                found.push(MappedFile {
                    path,
                    image,
                    bias,
                    module,
                });
            }
        }
        found
    }

    /// All its mappings, by address.
    pub fn mappings(&mut self) -> Vec<Mapping> {
        self.process()
            .map(|process| maps::parse(process.text()))
            .unwrap_or_default()
    }

    /// Its memory.
    ///
    /// # Errors
    /// When the process is gone or may not be read.
    pub fn memory(&self) -> io::Result<Box<dyn Memory>> {
        Ok(Box::new(ProcessMemory::open(self.pid)?))
    }

    fn process(&mut self) -> Option<Arc<Process>> {
        if self.process.is_none() {
            self.process = self.modules.refresh(self.pid);
        }
        self.process.clone()
    }
}

/// A stack copy that was unwound, for a runtime to put its interpreted frames into.
#[derive(Debug, Clone, Copy)]
pub struct Copied<'a> {
    /// Registers, process and thread.
    pub copy: &'a StackCopy,
    /// The stack from the stack pointer up.
    pub stack: &'a [u8],
    /// The interpreter's frames that the kernel side found at the same moment, innermost first;
    /// none where it has no plan of the process.
    pub found: &'a [RuntimeFrame],
    /// The native frames.
    pub unwound: &'a Unwound,
    /// The process's mappings.
    pub process: &'a Process,
}

impl Copied<'_> {
    /// A word of the stack, as copied.
    #[must_use]
    pub fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.copy.sp)?).ok()?;
        let word = self.stack.get(at..at.checked_add(8)?)?;
        Some(u64::from_le_bytes(word.try_into().ok()?))
    }

    /// The process's memory as it is now.
    ///
    /// # Errors
    /// When the process is gone or may not be read.
    pub fn memory(&self) -> io::Result<ProcessMemory> {
        ProcessMemory::open(self.copy.tgid)
    }

    /// `true` while the thread sits in the system call at which it was copied: what is read after
    /// this was asked may be later, what was read before is of that moment.
    #[must_use]
    pub fn has_not_moved(&self) -> bool {
        has_not_moved(self.copy)
    }
}

/// `true` while the thread sits in the system call at which it was copied
/// (`/proc/PID/task/TID/syscall`: number, arguments, stack pointer, instruction pointer).
#[must_use]
pub fn has_not_moved(copy: &StackCopy) -> bool {
    let path = format!("/proc/{}/task/{}/syscall", copy.tgid, copy.tid);
    let Ok(text) = std::fs::read_to_string(path) else {
        return false;
    };
    let mut words = text
        .split_ascii_whitespace()
        .rev()
        .map(|w| u64::from_str_radix(w.strip_prefix("0x").unwrap_or(w), 16).ok());
    words.next().flatten() == Some(copy.ip) && words.next().flatten() == Some(copy.sp)
}

/// Frames of interpreted code and where they belong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interleaved {
    /// Index of a native frame that interprets, and the frames to show inside of (before) it,
    /// innermost first.
    pub frames: Vec<(usize, Vec<Named>)>,
    /// They are those of the moment of the copy, beyond doubt.
    pub exact: bool,
    /// They are exact, and reach to the first one of the thread: what more native frames there are
    /// says nothing.
    pub whole: bool,
    /// From now on the kernel side finds more of such a stack, so that it can't know this one.
    pub partial: bool,
}
