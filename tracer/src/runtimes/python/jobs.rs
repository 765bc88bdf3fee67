//! Who waits for an executor's job that runs a library's function: another thread, for exactly its
//! future.
//!
//! A job that is given a library's function has none of the application's on its stack. The thread
//! that waits for its result shows who asked: in `Future.result`, which belongs to the future; in the
//! generator of `Executor.map`, which holds all of its futures; in `wait` and `as_completed`, which
//! leave a mark of theirs in each future (`Lib/concurrent/futures/_base.py`, 3.11 to 3.13). Nobody is
//! named where nobody waits, or several threads do.

use tracer_ebpf::{INSTANCES_BEFORE, INSTANCES_TAGGED, RUNTIME_FRAMES_MAX, RuntimeFrame, Tasks};

use super::{Interpreter, SHIM, innermost, layout::Entry, named_now, thread, threads};
use crate::{memory::Memory, model::Named, procs::clock::monotonic_ns, runtimes::view::Copied};

/// In a frame: its first value.
const FRAME_VALUES: u64 = 72;
/// In a cell: what it holds; in lists: how many values, and where they are.
const CELL: u64 = 16;
const SIZE: u64 = 16;
const VALUES: u64 = 24;
/// Attributes by number. Of `_WorkItem`: its future; of `Future`: the marks of who waits.
const ITEM_FUTURE: u64 = 0;
const WAITERS: u64 = 4 * 8;
/// Values of a frame that are looked at, and futures of one call of `map` or marks of one future.
const LOCALS_MAX: u64 = 16;
const FUTURES_MAX: u64 = 4_096;
const MARKS_MAX: u64 = 8;
/// Other threads that are looked at.
const OTHERS_MAX: usize = 64;

/// How often it is looked for: at first so many times, then once in this time.
const AT_FIRST: u32 = 100;
const EVERY_NS: u64 = 100_000_000;

/// How often it may be looked for in one process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    left: u32,
    since_ns: u64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget {
            left: AT_FIRST,
            since_ns: 0,
        }
    }
}

impl Budget {
    fn take(&mut self, now_ns: u64) -> bool {
        let more = now_ns.saturating_sub(self.since_ns) / EVERY_NS;
        if more > 0 {
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(AT_FIRST);
            self.since_ns = now_ns;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

/// Who waits for the job of the thread that was copied, innermost first; `None` where it is not to be
/// looked for: the job runs a function of the application's, or it was asked too often. `job`: what the
/// job runs, innermost first.
pub(super) fn waiting(
    runtime: &mut Interpreter,
    memory: &dyn Memory,
    copied: &Copied<'_>,
    job: &[(Option<Named>, bool)],
) -> Option<Vec<Named>> {
    let library = |(name, _): &(Option<Named>, bool)| name.as_ref().is_some_and(is_librarys);
    if !job.iter().all(library) || !runtime.jobs.take(monotonic_ns()) {
        return None;
    }
    Some(found(runtime, memory, copied).unwrap_or_default())
}

/// Whether a function comes with Python, or was installed.
fn is_librarys(function: &Named) -> bool {
    let file = function.file.as_deref().unwrap_or_default();
    let folders = [
        "/site-packages/",
        "/dist-packages/",
        "/lib/python3",
        "<frozen ",
    ];
    folders.iter().any(|folder| file.contains(folder))
}

fn found(runtime: &Interpreter, memory: &dyn Memory, copied: &Copied<'_>) -> Option<Vec<Named>> {
    let tasks = runtime.tasks?;
    let layout = &runtime.layout;
    let own = thread(runtime, memory, copied.copy, copied.process)?;
    let first = innermost(layout, memory, own, |at| copied.word(at))?;
    let item = frames(runtime, memory, first)
        .find(|(_, frame)| frame.code == tasks.item_run)
        .and_then(|(at, _)| memory.word(at.wrapping_add(FRAME_VALUES)))?;
    let job = Job {
        future: attribute(&tasks, memory, item, ITEM_FUTURE)?,
        tasks,
        memory,
    };
    let mut waiting: Option<Vec<Named>> = None;
    let others = threads(runtime, memory)?.into_iter();
    for other in others.filter(|other| *other != own).take(OTHERS_MAX) {
        let first = innermost(layout, memory, other, |_| None).unwrap_or(0);
        let mut stack = frames(runtime, memory, first);
        let waits = |(at, frame): &(u64, RuntimeFrame)| {
            let name = named_now(runtime, memory, frame);
            name.is_some_and(|name| job.is_waited_for(&name, *at))
        };
        let Some((at, frame)) = stack.find(waits) else {
            continue;
        };
        let names = stack.map_while(|(_, frame)| named_now(runtime, memory, &frame));
        let names: Vec<Named> = names.collect();
        // what runs on meanwhile has other callers
        if frames(runtime, memory, at).next() != Some((at, frame)) || !waits(&(at, frame)) {
            continue;
        }
        if waiting.replace(names).is_some() {
            return None;
        }
    }
    waiting
}

/// A thread's frames from this one outwards, each with its address.
fn frames<'a>(
    runtime: &'a Interpreter,
    memory: &'a dyn Memory,
    first: u64,
) -> impl Iterator<Item = (u64, RuntimeFrame)> + 'a {
    let layout = &runtime.layout;
    let word = move |base: u64, offset: u64| memory.word(base.wrapping_add(offset));
    let next = move |at: &u64| word(*at, layout.frame_previous).filter(|at| *at != 0);
    let all = std::iter::successors(Some(first).filter(|at| *at != 0), next);
    // the end of those of one native call
    let is_shim = move |at: &u64| match layout.entry {
        Entry::Shim(owner) => {
            let mut byte = [0];
            memory.read(at.wrapping_add(owner), &mut byte) && u64::from(byte[0]) >= SHIM
        }
        _ => false,
    };
    let all = all.take(RUNTIME_FRAMES_MAX).filter(move |at| !is_shim(at));
    all.map_while(move |at| {
        let frame = RuntimeFrame {
            code: word(at, layout.frame_code)?,
            instruction: word(at, layout.frame_instruction)?,
            extra: 0,
        };
        Some((at, frame))
    })
}

/// An attribute of an instance, by the place of its value.
fn attribute(tasks: &Tasks, memory: &dyn Memory, object: u64, place: u64) -> Option<u64> {
    let values = match tasks.instances {
        INSTANCES_BEFORE => memory.word(object.wrapping_sub(32))?,
        INSTANCES_TAGGED => memory.word(object.wrapping_sub(24))?.wrapping_add(1),
        _ => object.wrapping_add(24),
    };
    let value = memory.word(values.wrapping_add(place))?;
    Some(value).filter(|value| *value != 0)
}

/// A job of which somebody may wait for the result.
struct Job<'a> {
    future: u64,
    tasks: Tasks,
    memory: &'a dyn Memory,
}

impl Job<'_> {
    /// Whether the function of the frame at `at` waits for it.
    fn is_waited_for(&self, function: &Named, at: u64) -> bool {
        let file = function.file.as_deref().unwrap_or_default();
        if !file.ends_with("/concurrent/futures/_base.py") {
            return false;
        }
        let value = |place: u64| {
            let offset = FRAME_VALUES + place * 8;
            self.memory.word(at.wrapping_add(offset))
        };
        match function.function.as_str() {
            "Future.result" | "Future.exception" => value(0) == Some(self.future),
            "Executor.map.<locals>.result_iterator" => (0..LOCALS_MAX).any(|place| {
                let held = value(place).and_then(|cell| self.memory.word(cell.wrapping_add(CELL)));
                held.is_some_and(|list| self.lists(list, self.future, FUTURES_MAX))
            }),
            "wait" | "as_completed" => {
                let marks = attribute(&self.tasks, self.memory, self.future, WAITERS);
                marks.is_some_and(|marks| {
                    (0..LOCALS_MAX).any(|place| {
                        value(place)
                            .filter(|value| *value != 0)
                            .is_some_and(|value| self.lists(marks, value, MARKS_MAX))
                    })
                })
            }
            _ => false,
        }
    }

    /// Whether a list has a value among its first so many.
    fn lists(&self, list: u64, value: u64, most: u64) -> bool {
        let word = |offset: u64| self.memory.word(list.wrapping_add(offset));
        let (Some(size), Some(values)) = (word(SIZE), word(VALUES)) else {
            return false;
        };
        let Ok(size) = usize::try_from(size.min(most)) else {
            return false;
        };
        let mut bytes = vec![0; size * 8];
        self.memory.read(values, &mut bytes)
            && bytes
                .chunks_exact(8)
                .any(|word| word == value.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_has_a_bound() {
        let mut budget = Budget::default();
        let taken = (0..500).filter(|_| budget.take(1)).count();
        assert_eq!(taken, AT_FIRST as usize);
        assert!(budget.take(1 + EVERY_NS));
        assert!(!budget.take(2 + EVERY_NS));
    }

    #[test]
    fn what_was_installed_is_told_from_what_is_the_programs() {
        let of = |file: &str| Named {
            function: "get".to_owned(),
            file: Some(file.to_owned()),
            line: Some(1),
            inlined: false,
            function_line: None,
        };
        for (file, librarys) in [
            ("/v/lib/python3.12/site-packages/requests/api.py", true),
            ("/usr/lib/python3/dist-packages/urllib3/util.py", true),
            ("/usr/lib/python3.11/urllib/request.py", true),
            ("<frozen importlib._bootstrap>", true),
            ("/srv/shop/prices.py", false),
        ] {
            assert_eq!(is_librarys(&of(file)), librarys, "{file}");
        }
    }

    /// Memory that begins at an address.
    #[derive(Debug)]
    struct Words(u64, Vec<u64>);

    impl Memory for Words {
        fn read(&self, address: u64, into: &mut [u8]) -> bool {
            let bytes: Vec<u8> = self.1.iter().flat_map(|word| word.to_le_bytes()).collect();
            let at = usize::try_from(address.wrapping_sub(self.0)).unwrap_or(usize::MAX);
            let end = at.checked_add(into.len());
            let Some(found) = end.and_then(|end| bytes.get(at..end)) else {
                return false;
            };
            into.copy_from_slice(found);
            true
        }
    }

    #[test]
    fn only_who_waits_for_this_job_is_believed() {
        let base = 0x1000;
        let word = |at: usize| base + 8 * at as u64;
        // a frame of `result` with its future; a cell with a list of two futures
        let mut words = vec![0; 64];
        words[9] = 0xf1;
        words[20 + 9] = word(40);
        words[40 + 2] = word(44);
        words[44 + 2] = 2;
        words[44 + 3] = word(50);
        words[50] = 0xf0;
        words[51] = 0xf1;
        let memory = Words(base, words);
        let waits = |future: u64, name: &str, file: &str, at: usize| {
            let job = Job {
                future,
                tasks: Tasks::default(),
                memory: &memory,
            };
            let function = Named {
                function: name.to_owned(),
                file: Some(file.to_owned()),
                line: Some(1),
                inlined: false,
                function_line: None,
            };
            job.is_waited_for(&function, word(at))
        };
        let base_py = "/usr/lib/python3.11/concurrent/futures/_base.py";
        assert!(waits(0xf1, "Future.result", base_py, 0));
        assert!(!waits(0xf2, "Future.result", base_py, 0));
        assert!(!waits(0xf1, "Future.result", "/srv/_base.py", 0));
        let map = "Executor.map.<locals>.result_iterator";
        assert!(waits(0xf0, map, base_py, 20));
        assert!(!waits(0xf2, map, base_py, 20));
    }
}
