//! CPython: the frames of the script inside of those of its interpreter.
//!
//! The native stack tells only that the interpreter runs; which function, file and line it runs
//! is in structures that lead from the thread's state to its frames. They are read from the
//! process's memory when a stack copy arrives. Where the thread still sits in the system call
//! of the copy they are exactly those of the copy; where it has gone on they may belong to a
//! moment shortly after, and the stack counts as truncated. On 3.11 and 3.12 the innermost frame
//! is known exactly in any case, since the pointer to it is part of the copied stack.

pub mod code;
pub mod dictionaries;
mod jobs;
pub mod layout;
mod runners;
pub mod tasks;

use std::{collections::HashMap, ops::Range};

use tracer_ebpf::{
    RUNTIME_FRAMES_MAX, RUNTIME_LINKED, RUNTIME_NONE, RuntimeFrame, RuntimePlan, StackCopy,
    TASK_FRAMES_MAX, Tasks,
};

use self::{
    code::describe,
    layout::{Current, DEBUG_OFFSETS_BYTES, Entry, Instruction, Layout},
};
use super::{
    script,
    view::{Copied, InView, Interleaved, MappedFile},
};
use crate::{
    memory::Memory,
    model::Named,
    procs::maps,
    unwind::{cfi::cold_part, modules::Process, space::ModuleId},
};

/// Whose frames of Python are.
pub const RULES: &str = include_str!("blame.toml");

/// Threads of one process among which the right one is looked for.
const THREADS_MAX: usize = 4096;
/// The first of the owners that mark no frame of the script's ([`Entry::Shim`]).
const SHIM: u64 = 3;
/// Since 3.14 references carry marks in the bits that an object's alignment leaves
/// (`_PyStackRef`, `Include/internal/pycore_stackref.h`).
const MARKS: u64 = 7;
/// Behind more frames nobody is looked for who waits.
const FRAMES_BEFORE_TASKS: usize = RUNTIME_FRAMES_MAX - TASK_FRAMES_MAX - 1;
/// Processes whose interpreter is remembered.
const PROCESSES_MAX: usize = 4096;

/// The interpreter of one process.
#[derive(Debug, Clone)]
struct Interpreter {
    layout: Layout,
    /// Address of `_PyRuntime`.
    address: u64,
    /// Address of `PyCode_Type`, by which code objects are told.
    code_type: u64,
    /// The module and the addresses (as linked) of `_PyEval_EvalFrameDefault`, of which a compiler
    /// may have put a part elsewhere.
    evaluate: (ModuleId, Vec<Range<u64>>),
    /// How tasks are followed, with the runners that are known so far; `None` where they can't be.
    tasks: Option<Tasks>,
    /// A runner became known since the last plan.
    learned: bool,
    jobs: jobs::Budget,
}

/// Reads the frames of CPython 3.8 to 3.14.
#[derive(Debug, Default)]
pub struct Python {
    processes: HashMap<u32, (Vec<ModuleId>, Option<Interpreter>)>,
}

impl super::Runtime for Python {
    fn name(&self) -> &'static str {
        "Python"
    }

    fn look(&mut self, process: &mut InView<'_>) {
        let files = process.files();
        let mapped: Vec<ModuleId> = files.iter().map(|file| file.module).collect();
        let known = self.processes.get(&process.pid());
        if known.is_some_and(|(known, _)| *known == mapped) {
            return;
        }
        let interpreter = find(process, &files);
        if self.processes.len() >= PROCESSES_MAX {
            self.processes.clear();
        }
        self.processes.insert(process.pid(), (mapped, interpreter));
    }

    /// It is tried out first on a thread of the process: another C library keeps thread-local
    /// storage elsewhere.
    fn plan(&mut self, process: &mut InView<'_>) -> Option<RuntimePlan> {
        let runtime = self.processes.get_mut(&process.pid())?.1.as_mut()?;
        let memory = process.memory().ok()?;
        runners::learn_by_waiting_threads(runtime, &*memory);
        let runtime = &*runtime;
        let layout = &runtime.layout;
        let key = memory.int(runtime.address.wrapping_add(layout.storage_key))?;
        // glibc's `struct pthread` begins at fsbase, where `pthread_self()` points, too; it has
        // the first 32 thread-specific values, each with a sequence number before it, at 0x310
        // (nptl/descr.h, unchanged since 2.11).
        let key = u32::try_from(key).ok().filter(|key| *key < 32)?;
        let thread_state = 0x310 + key * 16 + 8;
        let tried = threads(runtime, &*memory)?.into_iter().any(|thread| {
            memory
                .word(thread.wrapping_add(layout.thread_id))
                .and_then(|base| memory.word(base.wrapping_add(u64::from(thread_state))))
                == Some(thread)
        });
        let small = |offset: u64| i32::try_from(offset).ok();
        let (current, c_frame_current) = match layout.current {
            Current::Frame(at) => (small(at)?, RUNTIME_NONE),
            Current::OnStack(at, frame) => (small(at)?, small(frame)?),
        };
        let thread_state = i32::try_from(thread_state).ok()?;
        tried.then_some(RuntimePlan {
            base: 0,
            way: [thread_state, current, c_frame_current, RUNTIME_NONE],
            code: small(layout.frame_code)?,
            instruction: small(layout.frame_instruction)?,
            instruction_bytes: match layout.instruction {
                Instruction::Bytes | Instruction::Units => 4,
                Instruction::Pointer(_) => 8,
            },
            extra: match layout.entry {
                Entry::Every => RUNTIME_NONE,
                Entry::Flag(at) | Entry::Shim(at) => small(at)?,
            },
            previous: small(layout.frame_previous)?,
            kind: RUNTIME_LINKED,
            tasks: runtime.tasks.unwrap_or_default(),
            ..RuntimePlan::default()
        })
    }

    fn has_learned(&mut self, pid: u32) -> bool {
        let interpreter = self.processes.get_mut(&pid).and_then(|(_, it)| it.as_mut());
        interpreter.is_some_and(|interpreter| std::mem::take(&mut interpreter.learned))
    }

    fn interleave(&mut self, copied: &Copied<'_>) -> Option<Interleaved> {
        let runtime = self.processes.get_mut(&copied.copy.tgid)?.1.as_mut()?;
        let Copied { unwound, found, .. } = *copied;
        let mut calls: Vec<usize> = unwound
            .frames
            .iter()
            .enumerate()
            .filter(|(_, f)| {
                f.module == Some(runtime.evaluate.0)
                    && runtime
                        .evaluate
                        .1
                        .iter()
                        .any(|part| part.contains(&f.lookup))
            })
            .map(|(index, _)| index)
            .collect();
        if calls.is_empty() && !found.is_empty() && !script::is_whole(copied) {
            // They lie beyond what could be unwound.
            calls.push(script::innermost_of(copied, runtime.evaluate.0));
        }
        if calls.is_empty() {
            return Some(Interleaved {
                frames: Vec::new(),
                exact: true,
                whole: false,
                partial: false,
            });
        }
        let Ok(memory) = copied.memory() else {
            return Some(Interleaved::default());
        };
        let given = !found.is_empty();
        let found = if given {
            found.to_vec()
        } else {
            read_now(runtime, &memory, copied).unwrap_or_default()
        };
        let (on_stack, waiting) = tasks::parted(&found);
        let mut named = describe_all(runtime, &memory, on_stack);
        // Looked at after the reading: a thread that is still where it was has not changed them.
        let exact = !named.is_empty()
            && named.iter().all(|(name, _)| name.is_some())
            && (given || copied.has_not_moved());
        let whole = exact && on_stack.len() < RUNTIME_FRAMES_MAX;
        let looked = !waiting.is_empty() || on_stack.len() > FRAMES_BEFORE_TASKS;
        let mut partial = false;
        if let (Some((at, runner)), Some(_)) = (runners::innermost_of(&named), runtime.tasks) {
            if looked && runners::is_known(runtime, runner) {
                let mut waits = tasks::named(waiting, |frame| named_now(runtime, &memory, frame));
                let is_job = waits.is_empty() && runner == runners::Runner::Item;
                let job = named.get(..at).filter(|_| is_job);
                if let Some(who) = job.and_then(|job| jobs::waiting(runtime, &memory, copied, job))
                {
                    // somebody else may wait for the next one
                    (waits, partial) = (who, true);
                }
                named.splice(at..at, waits.into_iter().map(|name| (Some(name), false)));
            } else {
                partial = true;
                runners::learn(runtime, &memory, on_stack, runner);
            }
        }
        Some(Interleaved {
            frames: interleave(&calls, named),
            exact,
            whole,
            partial,
        })
    }

    fn forget(&mut self, pid: u32) {
        self.processes.remove(&pid);
    }
}

/// The name of a frame of 3.11 and later, if it is one.
fn named_now(runtime: &Interpreter, memory: &dyn Memory, frame: &RuntimeFrame) -> Option<Named> {
    let Instruction::Pointer(first) = runtime.layout.instruction else {
        return None;
    };
    if memory.word(frame.code.wrapping_add(8)) != Some(runtime.code_type) {
        return None;
    }
    let offset = match frame.instruction {
        0 => 0, // it is called later
        instruction => instruction.wrapping_sub(frame.code.wrapping_add(first)),
    };
    describe(&runtime.layout, memory, frame.code, offset as i64)
}

/// Gives each native call of the interpreter the frames it runs.
fn interleave(calls: &[usize], named: Vec<(Option<Named>, bool)>) -> Vec<(usize, Vec<Named>)> {
    let mut result: Vec<(usize, Vec<Named>)> = calls.iter().map(|at| (*at, Vec::new())).collect();
    let mut call = 0;
    for (name, entry) in named {
        if let Some((_, frames)) = result.get_mut(call.min(calls.len().saturating_sub(1))) {
            frames.extend(name);
        }
        if entry {
            call += 1;
        }
    }
    result
}

/// Finds the interpreter among the files of a process.
fn find(process: &InView<'_>, files: &[MappedFile]) -> Option<Interpreter> {
    for MappedFile {
        path,
        image,
        bias,
        module,
    } in files
    {
        if !path.rsplit('/').next()?.contains("python") {
            continue;
        }
        let symbols = image.symbols(&[
            "_PyRuntime",
            "PyCode_Type",
            "_PyEval_EvalFrameDefault",
            "Py_Version",
        ]);
        let [Some(runtime), Some(code_type), Some(evaluate), stated] = symbols[..] else {
            continue;
        };
        let memory = process.memory().ok()?;
        let Some(minor) = version(path).or_else(|| {
            // from 3.11 on, in the form of `PY_VERSION_HEX` (Include/patchlevel.h)
            let hex = memory.word(stated?.0.wrapping_add(*bias))?;
            (hex >> 24 == 3).then_some((hex >> 16 & 0xff) as u32)
        }) else {
            continue;
        };
        let hot = evaluate.0..evaluate.0.wrapping_add(evaluate.1);
        let parts = std::iter::once(hot).chain(cold_part(image, evaluate.0));
        let address = runtime.0.wrapping_add(*bias);
        let mut offsets = [0; DEBUG_OFFSETS_BYTES];
        if minor >= 13 && !memory.read(address, &mut offsets) {
            return None;
        }
        let layout = Layout::of(minor, &offsets)?;
        let types: Vec<Option<u64>> = image
            .symbols(&tasks::TYPES)
            .into_iter()
            .map(|symbol| Some(symbol?.0.wrapping_add(*bias)))
            .collect();
        return Some(Interpreter {
            tasks: tasks::followed(&layout, &types),
            learned: false,
            jobs: jobs::Budget::default(),
            layout,
            address,
            code_type: code_type.0.wrapping_add(*bias),
            evaluate: (*module, parts.collect()),
        });
    }
    None
}

/// Minor version in the name of an executable or library: `python3.11`, `libpython3.11.so.1.0`.
fn version(path: &str) -> Option<u32> {
    let name = path.rsplit('/').next()?;
    let rest = name
        .strip_prefix("lib")
        .unwrap_or(name)
        .strip_prefix("python3.")?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// The thread's frames as they are now, innermost first: what the kernel side would collect.
fn read_now(
    runtime: &Interpreter,
    memory: &dyn Memory,
    copied: &Copied<'_>,
) -> Option<Vec<RuntimeFrame>> {
    let layout = &runtime.layout;
    let thread = thread(runtime, memory, copied.copy, copied.process)?;
    let mut frame = innermost(layout, memory, thread, |at| copied.word(at))?;
    let mut found = Vec::new();
    while frame != 0 && found.len() < RUNTIME_FRAMES_MAX {
        let at = frame.wrapping_add(layout.frame_instruction);
        let instruction = match layout.instruction {
            Instruction::Bytes | Instruction::Units => u64::from(memory.int(at)? as u32),
            Instruction::Pointer(_) => memory.word(at)?,
        };
        let extra = match layout.entry {
            Entry::Every => 0,
            Entry::Flag(at) | Entry::Shim(at) => {
                let mut byte = [0];
                memory
                    .read(frame.wrapping_add(at), &mut byte)
                    .then(|| u64::from(byte[0]))?
            }
        };
        let code = memory.word(frame.wrapping_add(layout.frame_code))?;
        found.push(RuntimeFrame {
            code,
            instruction,
            extra,
        });
        frame = memory.word(frame.wrapping_add(layout.frame_previous))?;
    }
    Some(found)
}

/// A thread's innermost frame, with what `copied` has of the native stack.
fn innermost(
    layout: &Layout,
    memory: &dyn Memory,
    thread: u64,
    copied: impl Fn(u64) -> Option<u64>,
) -> Option<u64> {
    match layout.current {
        Current::Frame(at) => memory.word(thread.wrapping_add(at)),
        Current::OnStack(at, frame) => {
            let c_frame = memory.word(thread.wrapping_add(at))?.wrapping_add(frame);
            copied(c_frame).or_else(|| memory.word(c_frame))
        }
    }
}

/// Names frames; with each, whether it is the last one of its native call. A frame that was left
/// and overwritten ends the list.
fn describe_all(
    runtime: &Interpreter,
    memory: &dyn Memory,
    found: &[RuntimeFrame],
) -> Vec<(Option<Named>, bool)> {
    let layout = &runtime.layout;
    let mut named: Vec<(Option<Named>, bool)> = Vec::new();
    for frame in found {
        if matches!(layout.entry, Entry::Shim(_)) && frame.extra >= SHIM {
            if let Some(last) = named.last_mut() {
                last.1 = true;
            }
            continue;
        }
        let code = frame.code & !MARKS;
        if memory.word(code.wrapping_add(8)) != Some(runtime.code_type) {
            break;
        }
        let offset = match layout.instruction {
            Instruction::Bytes => i64::from(frame.instruction as i32),
            Instruction::Units => i64::from(frame.instruction as i32) * 2,
            Instruction::Pointer(first) => {
                frame.instruction.wrapping_sub(code.wrapping_add(first)) as i64
            }
        };
        let entry = match layout.entry {
            Entry::Every => true,
            Entry::Flag(_) => frame.extra != 0,
            Entry::Shim(_) => false,
        };
        named.push((describe(layout, memory, code, offset), entry));
    }
    named
}

/// The states of all threads of all interpreters, newest first.
fn threads(runtime: &Interpreter, memory: &dyn Memory) -> Option<Vec<u64>> {
    let layout = &runtime.layout;
    let mut threads = Vec::new();
    let mut interpreter = memory.word(runtime.address.wrapping_add(layout.interpreters_head))?;
    let mut interpreters = 0;
    while interpreter != 0 && interpreters < THREADS_MAX {
        let mut thread = memory.word(interpreter.wrapping_add(layout.threads_head))?;
        while thread != 0 && threads.len() < THREADS_MAX {
            threads.push(thread);
            thread = memory.word(thread.wrapping_add(layout.thread_next))?;
        }
        interpreter = memory.word(interpreter.wrapping_add(layout.interpreter_next))?;
        interpreters += 1;
    }
    Some(threads)
}

/// The state of the thread that was copied.
fn thread(
    runtime: &Interpreter,
    memory: &dyn Memory,
    copy: &StackCopy,
    process: &Process,
) -> Option<u64> {
    let layout = &runtime.layout;
    let threads = threads(runtime, memory)?;
    if let Some(at) = layout.native_thread_id {
        let own_tid = u64::from(thread_in_its_namespace(copy));
        return threads
            .into_iter()
            .find(|t| memory.word(t.wrapping_add(at)) == Some(own_tid));
    }
    // Before 3.11 a thread is known by `pthread_self()`, which for all but the main thread lies
    // above its stack in the same mapping. The main thread's state is the oldest, at the end.
    if copy.tid == copy.tgid {
        return threads.last().copied();
    }
    let stack = maps::parse(process.text())
        .into_iter()
        .find(|m| m.range.contains(&copy.sp))
        .map(|m| m.range)?;
    threads.into_iter().find(|t| {
        memory
            .word(t.wrapping_add(layout.thread_id))
            .is_some_and(|id| stack.contains(&id) && id >= copy.sp)
    })
}

fn thread_in_its_namespace(copy: &StackCopy) -> u32 {
    std::fs::read_to_string(format!("/proc/{}/task/{}/status", copy.tgid, copy.tid))
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
            line.split_ascii_whitespace().last()?.parse().ok()
        })
        .unwrap_or(copy.tid)
}

/// Reads offsets, line tables and objects of any bytes, for the fuzzer and property tests.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_hostile(data: &[u8]) {
    use crate::memory::Repeated;

    let [first, rest @ ..] = data else {
        return;
    };
    let code = u64::from(*first);
    for minor in 8..=14 {
        if let Some(layout) = Layout::of(minor, rest) {
            let _ = describe(&layout, &Repeated(rest), code, i64::from(*first) - 8);
            let _ = code::line(layout.lines, rest, 1, i64::from(*first) * 8);
            let _ = dictionaries::value(&layout, &Repeated(rest), code, "run");
        }
    }
    let _ = version(&String::from_utf8_lossy(data));
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_in_the_names() {
        assert_eq!(version("/usr/bin/python3.11"), Some(11));
        assert_eq!(version("/opt/lib/libpython3.8.so.1.0"), Some(8));
        assert_eq!(version("/usr/bin/python3"), None);
        assert_eq!(version("/usr/lib/libpython2.7.so"), None);
    }
}
