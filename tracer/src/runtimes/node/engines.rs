//! The processes in view that have V8 in them.

use std::{collections::HashMap, ops::Range, sync::Arc};

use tracer_ebpf::RuntimePlan;

use super::{
    clients,
    heap::Heap,
    layout::Layout,
    metadata::{self, NoMetadata},
    places::Places,
    promises::Sources,
    walker::V8,
};
use crate::{
    elf::ImageKey,
    memory::ProcessMemory,
    model::PoolState,
    refused::Refusal,
    runtimes::{
        thread_local::Library,
        view::{Copied, InView, Interleaved, MappedFile},
    },
    unwind::{managed::Walker, space::ModuleId, walk::Stop},
};

/// Processes remembered.
const PROCESSES_MAX: usize = 4_096;
/// Executables remembered.
const FILES_MAX: usize = 256;
/// Libraries with V8 in them, by how their names begin; else it is in the executable itself.
const LIBRARIES: [&str; 2] = ["libnode", "libv8"];

/// What an executable is: one with V8, understood or not, or another.
type Known = Option<Result<Build, NoMetadata>>;

/// A build of V8.
#[derive(Debug, Clone)]
struct Build {
    layout: Arc<Layout>,
    builtins: Range<u64>,
    event_loop: Option<u64>,
    awaits: Option<Arc<Sources>>,
}

/// A process with V8.
#[derive(Debug)]
struct Open {
    walker: V8,
    layout: Arc<Layout>,
    /// The file that V8 is in.
    file: ImageKey,
    /// Its number, and what is added to its addresses.
    module: (ModuleId, u64),
    /// Where functions that wait are found.
    awaits: Option<Arc<Sources>>,
    /// The kernel side could not be told how to find them.
    unplanned: bool,
    /// Where the main thread's event loop is.
    event_loop: Option<u64>,
    /// What its clients said in this sweep.
    states: Option<HashMap<i32, PoolState>>,
}

impl Open {
    /// Whether functions that wait can be found.
    fn finds_awaits(&self) -> bool {
        !self.unplanned && self.awaits.is_some() && self.layout.awaits.is_some()
    }
}

/// A process.
#[derive(Debug)]
enum Engine {
    /// Its frames can be walked.
    Open(Box<Open>),
    /// They can't be.
    Refused(NoMetadata),
    /// It has no V8.
    None,
}

/// The processes, by number.
#[derive(Debug, Default)]
pub struct Engines {
    known: HashMap<u32, Engine>,
    files: HashMap<ImageKey, Known>,
    /// There was no room for one.
    full: u64,
}

impl Engines {
    /// Looks for V8 in a process, and where its code is now.
    pub fn look(&mut self, process: &mut InView<'_>) {
        let pid = process.pid();
        match self.known.get_mut(&pid) {
            Some(Engine::Open(open)) => {
                let key = open.file;
                let files = process.files();
                let file = files.iter().find(|file| file.image.key() == key);
                let build = self.files.get(&key).and_then(Option::as_ref);
                if let (Some(file), Some(Ok(build))) = (file, build) {
                    open.walker.remap(places(process, file, build));
                }
                return;
            }
            Some(_) => return,
            None => {}
        }
        let engine = self.find(process);
        if self.known.len() >= PROCESSES_MAX {
            self.full += u64::from(!matches!(engine, Engine::None));
            return;
        }
        self.known.insert(pid, engine);
    }

    /// A process came into view; its libraries may not all be there yet.
    pub fn meet(&mut self, process: &mut InView<'_>) {
        let pid = process.pid();
        if self.known.contains_key(&pid) || self.known.len() >= PROCESSES_MAX {
            return;
        }
        let engine = self.find(process);
        if matches!(engine, Engine::Open(_)) {
            self.known.insert(pid, engine);
        }
    }

    /// Clients may say something else from now on.
    pub fn begin_sweep(&mut self) {
        for engine in self.known.values_mut() {
            if let Engine::Open(open) = engine {
                open.states = None;
            }
        }
    }

    /// What the client in a process knows of a connection.
    pub fn pool_state(&mut self, pid: u32, fd: i32) -> PoolState {
        let Some(Engine::Open(open)) = self.known.get_mut(&pid) else {
            return PoolState::Unknown;
        };
        let (layout, event_loop) = (&open.layout, open.event_loop);
        let states = open.states.get_or_insert_with(|| {
            let memory = ProcessMemory::open(pid).ok();
            let read = memory.zip(event_loop).map(|(memory, event_loop)| {
                let heap = Heap {
                    layout,
                    memory: &memory,
                };
                clients::states(heap, event_loop)
            });
            read.unwrap_or_default()
        });
        states.get(&fd).copied().unwrap_or_default()
    }

    /// Who walks the frames of a process.
    pub fn walker(&mut self, pid: u32) -> Option<&mut dyn Walker> {
        match self.known.get_mut(&pid)? {
            Engine::Open(open) => Some(&mut open.walker),
            _ => None,
        }
    }

    /// How the kernel side finds the functions that wait for what a process runs.
    pub fn plan(&mut self, process: &mut InView<'_>) -> Option<RuntimePlan> {
        let Some(Engine::Open(open)) = self.known.get_mut(&process.pid()) else {
            return None;
        };
        let (sources, fields) = (open.awaits.as_ref()?, open.layout.awaits.as_ref()?);
        let plan = process.memory().ok().and_then(|memory| {
            let files = process.files();
            let library = Library::of(files.iter().map(MappedFile::name));
            sources.plan(fields, library, open.module.1, &*memory)
        });
        open.unplanned = plan.is_none();
        plan
    }

    /// The functions that wait for a stack's microtask, inside of what runs it.
    pub fn interleave(&mut self, copied: &Copied<'_>) -> Option<Interleaved> {
        let Some(Engine::Open(open)) = self.known.get_mut(&copied.copy.tgid) else {
            return None;
        };
        let sources = open.awaits.as_ref()?;
        let unwound = copied.unwound;
        let runner = unwound
            .frames
            .iter()
            .position(|frame| frame.module == Some(open.module.0) && sources.runs(frame.lookup));
        let unknown = Interleaved {
            frames: vec![(0, Vec::new())],
            exact: false,
            whole: false,
            partial: false,
        };
        match (runner, copied.found.is_empty()) {
            (None, true) => None,
            (Some(_), true) if !open.finds_awaits() => None,
            // the kernel side did not know how to find them
            (Some(_), true) => Some(unknown),
            (None, false) if unwound.stop == Stop::Complete => Some(unknown),
            (runner, false) => {
                let memory = copied.memory().ok()?;
                let waiting = open.walker.waiting(copied.found, &memory);
                let last = unwound.frames.len().saturating_sub(1);
                Some(Interleaved {
                    frames: vec![(runner.unwrap_or(last), waiting.functions)],
                    exact: waiting.exact,
                    whole: false,
                    partial: false,
                })
            }
        }
    }

    /// What can't be seen, and why.
    pub fn degraded(&self) -> impl Iterator<Item = String> + '_ {
        let refused = self.known.iter().filter_map(|(pid, engine)| match engine {
            Engine::Refused(reason) => Some(format!(
                "the JavaScript frames of process {pid} have no names, because {reason}"
            )),
            Engine::Open(open) if !open.finds_awaits() => {
                let (major, minor, _) = open.layout.version;
                Some(format!(
                    "what libraries of process {pid} open after an await has no call site, because \
                     the promises of this V8 {major}.{minor} are not understood"
                ))
            }
            _ => None,
        });
        let full = (self.full > 0).then(|| {
            format!("the frames of JavaScript programs beyond {PROCESSES_MAX} have no names")
        });
        refused.chain(full)
    }

    /// The process has ended, or runs another program now.
    pub fn forget(&mut self, pid: u32) {
        self.known.remove(&pid);
    }

    fn find(&mut self, process: &mut InView<'_>) -> Engine {
        let executable = process.executable();
        let files = process.files();
        let may_have = |file: &&MappedFile| {
            Some(&*file.path) == executable.as_deref()
                || LIBRARIES.iter().any(|name| file.name().starts_with(name))
        };
        for file in files.iter().filter(may_have) {
            match self.build(file) {
                Some(Ok(build)) => {
                    let places = places(process, file, &build);
                    return Engine::Open(Box::new(Open {
                        walker: V8::new(Arc::clone(&build.layout), places),
                        layout: build.layout,
                        file: file.image.key(),
                        module: (file.module, file.bias),
                        awaits: build.awaits,
                        unplanned: false,
                        event_loop: build.event_loop.map(|at| at.wrapping_add(file.bias)),
                        states: None,
                    }));
                }
                Some(Err(reason)) => {
                    let pid = process.pid();
                    tracing::warn!(pid, %reason, "JavaScript frames can't be named");
                    Refusal::Interpreter.count();
                    return Engine::Refused(reason);
                }
                None => {}
            }
        }
        Engine::None
    }

    fn build(&mut self, file: &MappedFile) -> Known {
        let key = file.image.key();
        if let Some(known) = self.files.get(&key) {
            return known.clone();
        }
        let found = metadata::read(&file.image).map(|found| {
            found.map(|found| Build {
                layout: Arc::new(found.layout),
                builtins: found.builtins,
                event_loop: found.event_loop,
                awaits: found.awaits.map(Arc::new),
            })
        });
        if self.files.len() >= FILES_MAX {
            self.files.clear();
        }
        self.files.insert(key, found.clone());
        found
    }
}

fn places(process: &mut InView<'_>, file: &MappedFile, build: &Build) -> Places {
    let of_file = |path: &str| path == &*file.path;
    let mappings = process.mappings();
    Places::find(&mappings, of_file, &file.image, &build.builtins)
}
