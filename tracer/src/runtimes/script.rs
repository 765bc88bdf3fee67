//! What the runtimes have in common whose frames are of a kind of their own
//! ([`tracer_ebpf::RuntimePlan::kind`]).

use std::{collections::HashMap, sync::Arc};

use thiserror::Error;
use tracer_ebpf::{RUNTIME_FRAMES_MAX, RUNTIME_NONE, RUNTIME_WAY, RuntimePlan};

use super::view::{Copied, InView, Interleaved, MappedFile};
use crate::{
    model::Named,
    refused::Refusal,
    unwind::{space::ModuleId, walk::Stop},
};

/// What is at a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A function.
    Function(Named),
    /// A frame that the interpreter has for its own purposes.
    Nothing,
    /// Something that does not pass the checks.
    Doubtful,
}

/// Processes that are remembered.
const PROCESSES_MAX: usize = 4096;

/// What is known of a process.
#[derive(Debug)]
enum Known<T> {
    /// Not of this runtime, as long as it has these files mapped.
    Other(Vec<ModuleId>),
    /// Of this runtime, but not understood, for this reason.
    Refused(NotUnderstood),
    /// Understood.
    Understood {
        interpreter: T,
        /// The kernel side was told how to find its frames.
        planned: bool,
    },
}

/// An interpreter whose frames can't be read.
#[derive(Debug, Error)]
#[error("{path}: connections are charged to the interpreter, because {reason}")]
pub struct NotUnderstood {
    /// Its file.
    pub path: Arc<str>,
    /// Why.
    pub reason: Reason,
}

/// Why an interpreter's frames can't be read.
#[derive(Debug, Error)]
pub enum Reason {
    /// Its version is not among those known.
    #[error("{language} {}.{} is not understood", .version.0, .version.1)]
    Version {
        /// Its language.
        language: &'static str,
        /// Major and minor.
        version: (u32, u32),
    },
    /// It does not say its version.
    #[error("it does not say which {0} it is")]
    NoVersion(&'static str),
    /// Nothing leads to the frames.
    #[error("its {0} were not found")]
    NotFound(&'static str),
}

/// The interpreters of one runtime, by process.
#[derive(Debug)]
pub struct Interpreters<T> {
    processes: HashMap<u32, Known<T>>,
}

impl<T> Default for Interpreters<T> {
    fn default() -> Interpreters<T> {
        Interpreters {
            processes: HashMap::new(),
        }
    }
}

impl<T> Interpreters<T> {
    /// Looks for the interpreter of a process with `find`, which says why one is not understood,
    /// where it is not known yet.
    pub fn look(
        &mut self,
        process: &mut InView<'_>,
        find: impl FnOnce(&InView<'_>, &[MappedFile]) -> Option<Result<T, NotUnderstood>>,
    ) {
        let known = self.processes.get(&process.pid());
        if matches!(known, Some(Known::Refused(_) | Known::Understood { .. })) {
            return;
        }
        let files = process.files();
        let mapped: Vec<ModuleId> = files.iter().map(|file| file.module).collect();
        if matches!(known, Some(Known::Other(known)) if *known == mapped) {
            return;
        }
        let now = match find(process, &files) {
            None => Known::Other(mapped),
            Some(Err(error)) => {
                Refusal::Interpreter.count();
                Known::Refused(error)
            }
            Some(Ok(interpreter)) => Known::Understood {
                interpreter,
                planned: false,
            },
        };
        if self.processes.len() >= PROCESSES_MAX {
            self.processes.clear();
        }
        self.processes.insert(process.pid(), now);
    }

    /// The interpreter of a process.
    #[must_use]
    pub fn get(&self, pid: u32) -> Option<&T> {
        match self.processes.get(&pid)? {
            Known::Understood { interpreter, .. } => Some(interpreter),
            _ => None,
        }
    }

    /// The plan that `make` makes for a process.
    pub fn plan(
        &mut self,
        pid: u32,
        make: impl FnOnce(&T) -> Option<RuntimePlan>,
    ) -> Option<RuntimePlan> {
        let Known::Understood {
            interpreter,
            planned,
        } = self.processes.get_mut(&pid)?
        else {
            return None;
        };
        let plan = make(interpreter)?;
        *planned = true;
        Some(plan)
    }

    /// The interpreted frames of a stack: `describe` says what is at each, and `places` where
    /// they belong.
    pub fn interleave(
        &self,
        copied: &Copied<'_>,
        describe: impl FnOnce(&T) -> Option<Vec<Found>>,
        place: impl FnOnce(&T, Vec<Option<Named>>) -> Vec<(usize, Vec<Named>)>,
    ) -> Option<Interleaved> {
        let known = self.processes.get(&copied.copy.tgid)?;
        let Known::Understood {
            interpreter,
            planned,
        } = known
        else {
            return None;
        };
        if !planned {
            // Frames are then another runtime's in the same process; without any, the kernel side
            // does not know yet that there are some.
            return copied.found.is_empty().then(Interleaved::default);
        }
        let Some(described) = describe(interpreter) else {
            return Some(Interleaved::default());
        };
        let exact = !described.is_empty() && !described.contains(&Found::Doubtful);
        let named = described.into_iter().map(|found| match found {
            Found::Function(named) => Some(named),
            Found::Nothing | Found::Doubtful => None,
        });
        Some(Interleaved {
            frames: place(interpreter, named.collect()),
            exact,
            whole: exact && copied.found.len() < RUNTIME_FRAMES_MAX,
            partial: false,
        })
    }

    /// Why interpreters are not understood, each reason once.
    pub fn refusals(&self) -> Vec<String> {
        let reasons = self.processes.values().filter_map(|known| match known {
            Known::Refused(error) => Some(error.to_string()),
            _ => None,
        });
        let mut reasons: Vec<String> = reasons.collect();
        reasons.sort();
        reasons.dedup();
        reasons
    }

    /// The process has ended, or runs another program now.
    pub fn forget(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }
}

/// A plan for frames of this kind, that begins at `base` and goes on by these distances; `None`
/// where there are too many.
#[must_use]
pub fn plan(kind: u32, base: u64, distances: &[i32], varying: u32) -> Option<RuntimePlan> {
    let mut way = [RUNTIME_NONE; RUNTIME_WAY];
    way.get_mut(..distances.len())?.copy_from_slice(distances);
    Some(RuntimePlan {
        base,
        way,
        kind,
        varying,
        extra: RUNTIME_NONE,
        previous: RUNTIME_NONE,
        ..RuntimePlan::default()
    })
}

/// Where frames go whose interpreter can't be told among the native ones: to the innermost of the
/// frames of its file that reach, without a break, to the outermost of them; where it has none, as
/// behind compiled code that can't be unwound, to the last one.
#[must_use]
pub fn innermost_of(copied: &Copied<'_>, file: ModuleId) -> usize {
    let frames = &copied.unwound.frames;
    let is_its = |at: &usize| frames.get(*at).is_some_and(|f| f.module == Some(file));
    let last = frames.len().saturating_sub(1);
    match (0..frames.len()).rev().find(is_its) {
        Some(outermost) => (0..=outermost)
            .rev()
            .take_while(is_its)
            .last()
            .unwrap_or(outermost),
        None => last,
    }
}

/// Whether the native frames end where the thread's began.
#[must_use]
pub fn is_whole(copied: &Copied<'_>) -> bool {
    copied.unwound.stop == Stop::Complete
}
