//! The processes in view that have V8 in them.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::{
    layout::Layout,
    metadata::{self, NoMetadata},
    places::Places,
    walker::V8,
};
use crate::{
    elf::ImageKey,
    runtimes::view::{InView, MappedFile},
    unwind::managed::Walker,
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
}

/// A process.
#[derive(Debug)]
enum Engine {
    /// Its frames can be walked; the file that V8 is in.
    Open(Box<V8>, ImageKey),
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
            Some(Engine::Open(engine, key)) => {
                let key = *key;
                let files = process.files();
                let file = files.iter().find(|file| file.image.key() == key);
                let build = self.files.get(&key).and_then(Option::as_ref);
                if let (Some(file), Some(Ok(build))) = (file, build) {
                    engine.remap(places(process, file, build));
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

    /// Who walks the frames of a process.
    pub fn walker(&mut self, pid: u32) -> Option<&mut dyn Walker> {
        match self.known.get_mut(&pid)? {
            Engine::Open(engine, _) => Some(&mut **engine),
            _ => None,
        }
    }

    /// What can't be seen, and why.
    pub fn degraded(&self) -> impl Iterator<Item = String> + '_ {
        let refused = self.known.iter().filter_map(|(pid, engine)| match engine {
            Engine::Refused(reason) => Some(format!(
                "the JavaScript frames of process {pid} have no names, because {reason}"
            )),
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
                    let engine = V8::new(Arc::clone(&build.layout), places);
                    return Engine::Open(Box::new(engine), file.image.key());
                }
                Some(Err(reason)) => {
                    let pid = process.pid();
                    tracing::warn!(pid, %reason, "JavaScript frames can't be named");
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
