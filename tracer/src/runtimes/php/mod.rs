//! PHP: the functions of the script inside of the virtual machine's.
//!
//! The kernel side follows the frames at the moment of the copy ([`tracer_ebpf::RUNTIME_PHP`]);
//! their names are read right afterwards, and what has changed meanwhile is left out.

pub mod frame;
pub mod layout;

use std::{ops::Range, sync::Arc};

use tracer_ebpf::{RUNTIME_PHP, RuntimePlan};

use self::layout::Layout;
use super::{
    script::{self, Interpreters, NotUnderstood, Reason},
    thread_local::{self, CODE_BYTES, Library},
    view::{Copied, InView, Interleaved, MappedFile},
};
use crate::{
    memory::Memory,
    model::Named,
    unwind::{cfi::cold_part, space::ModuleId},
};

/// Whose frames of PHP are.
pub const RULES: &str = include_str!("blame.toml");

/// The virtual machine of one process.
#[derive(Debug)]
struct Machine {
    layout: Layout,
    /// The way to the innermost frame: where it begins, and the distances.
    way: (u64, Vec<i32>),
    /// The file, and the addresses (as linked) of `execute_ex`, which runs the functions of
    /// scripts; a compiler may have put a part elsewhere.
    execute: (ModuleId, Vec<Range<u64>>),
}

/// Reads the frames of PHP 8.2 to 8.5.
#[derive(Debug, Default)]
pub struct Php {
    machines: Interpreters<Machine>,
}

impl super::Runtime for Php {
    fn name(&self) -> &'static str {
        "PHP"
    }

    fn look(&mut self, process: &mut InView<'_>) {
        self.machines.look(process, |process, files| {
            let memory = process.memory().ok()?;
            files.iter().find_map(|file| find(file, files, &*memory))
        });
    }

    fn plan(&mut self, process: &mut InView<'_>) -> Option<RuntimePlan> {
        self.machines.plan(process.pid(), |machine| {
            let (base, distances) = &machine.way;
            let file = u32::try_from(machine.layout.file).ok()?;
            script::plan(RUNTIME_PHP, *base, distances, file)
        })
    }

    fn interleave(&mut self, copied: &Copied<'_>) -> Option<Interleaved> {
        let found = copied.found;
        let known = self.machines.get(copied.copy.tgid)?;
        let calls = calls(known, copied);
        if calls.is_empty() && script::is_whole(copied) && !is_compiled(copied) {
            // Not in a script: a worker that waits for its next request.
            return Some(Interleaved {
                frames: Vec::new(),
                exact: true,
                whole: false,
                partial: false,
            });
        }
        self.machines.interleave(
            copied,
            |machine| {
                let memory = copied.memory().ok()?;
                let described = found
                    .iter()
                    .map(|frame| frame::describe(&machine.layout, &memory, frame));
                Some(described.collect())
            },
            |machine, named| {
                if calls.is_empty() {
                    let at = script::innermost_of(copied, machine.execute.0);
                    return vec![(at, named.into_iter().flatten().collect())];
                }
                let outermost = found.iter().map(frame::is_outermost);
                distribute(&calls, named.into_iter().zip(outermost))
            },
        )
    }

    fn degraded(&self) -> Vec<String> {
        self.machines.refusals()
    }

    fn forget(&mut self, pid: u32) {
        self.machines.forget(pid);
    }
}

/// Indices of the native frames that run functions of scripts.
fn calls(machine: &Machine, copied: &Copied<'_>) -> Vec<usize> {
    let (file, parts) = &machine.execute;
    let frames = copied.unwound.frames.iter().enumerate();
    frames
        .filter(|(_, frame)| {
            frame.module == Some(*file) && parts.iter().any(|part| part.contains(&frame.lookup))
        })
        .map(|(index, _)| index)
        .collect()
}

/// Whether there is code in no file, which opcache compiled: it needs no run of the virtual machine.
fn is_compiled(copied: &Copied<'_>) -> bool {
    let mut frames = copied.unwound.frames.iter();
    frames.any(|frame| frame.module.is_none())
}

/// Gives each run of the virtual machine the frames that it executes.
fn distribute(
    calls: &[usize],
    frames: impl Iterator<Item = (Option<Named>, bool)>,
) -> Vec<(usize, Vec<Named>)> {
    let mut result: Vec<(usize, Vec<Named>)> = calls.iter().map(|at| (*at, Vec::new())).collect();
    let mut call = 0;
    for (named, outermost) in frames {
        if let Some((_, frames)) = result.get_mut(call.min(calls.len().saturating_sub(1))) {
            frames.extend(named);
        }
        call += usize::from(outermost);
    }
    result
}

/// The virtual machine in this file, or why it is not understood; `None` for a file without one.
fn find(
    file: &MappedFile,
    files: &[MappedFile],
    memory: &dyn Memory,
) -> Option<Result<Machine, NotUnderstood>> {
    if !file.name().contains("php") {
        return None;
    }
    let symbols = file.image.symbols(&[
        "execute_ex",
        "executor_globals",
        "tsrm_get_ls_cache",
        "executor_globals_offset",
    ]);
    let [Some(execute), globals, storage, offset] = symbols[..] else {
        return None;
    };
    let refused = |reason| NotUnderstood {
        path: Arc::clone(&file.path),
        reason,
    };
    let text = file.image.section(".rodata");
    let text = text.and_then(|part| file.image.bytes(part));
    let version = text.and_then(|text| layout::version(&text));
    let Some(layout) =
        version.and_then(|(major, minor)| (major == 8).then(|| Layout::of(minor)).flatten())
    else {
        return Some(Err(match version {
            Some(version) => refused(Reason::Version {
                language: "PHP",
                version,
            }),
            None => refused(Reason::NoVersion("PHP")),
        }));
    };
    let way = match (globals, storage, offset) {
        (Some((globals, _)), _, _) => {
            let distance = i32::try_from(layout.current).ok();
            distance.map(|distance| (file.bias.wrapping_add(globals), vec![distance]))
        }
        // Built for threads: the globals are in a thread's own storage.
        (None, Some((storage, _)), Some((offset, _))) => {
            let library = Library::of(files.iter().map(MappedFile::name));
            of_thread(file, library, memory, storage, offset, layout).map(|way| (0, way))
        }
        _ => None,
    };
    let Some(way) = way else {
        return Some(Err(refused(Reason::NotFound("frames"))));
    };
    let hot = execute.0..execute.0.wrapping_add(execute.1);
    let parts = std::iter::once(hot).chain(cold_part(&file.image, execute.0));
    Some(Ok(Machine {
        layout,
        way,
        execute: (file.module, parts.collect()),
    }))
}

/// The distances to the innermost frame by way of the storage that `tsrm_get_ls_cache` returns.
fn of_thread(
    file: &MappedFile,
    library: Library,
    memory: &dyn Memory,
    storage: u64,
    offset: u64,
    layout: Layout,
) -> Option<Vec<i32>> {
    let code = file.image.up_to(storage, CODE_BYTES)?;
    let access = thread_local::access(&code, storage)?;
    let mut way = thread_local::way(access, library, file.bias, memory)?;
    let globals = memory.word(file.bias.wrapping_add(offset))?;
    way.push(i32::try_from(globals.checked_add(layout.current)?).ok()?);
    Some(way)
}

/// Reads any bytes as versions and frames, for the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_hostile(data: &[u8]) {
    use crate::memory::Repeated;

    let _ = layout::version(data);
    let word = |at: usize| {
        let bytes = data.get(at..at + 8).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    let frame = tracer_ebpf::RuntimeFrame {
        code: word(0),
        instruction: word(8),
        extra: word(16),
    };
    for minor in 2..=5 {
        if let Some(layout) = Layout::of(minor) {
            let _ = frame::describe(&layout, &Repeated(data), &frame);
        }
    }
}
