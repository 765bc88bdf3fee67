//! The tasks of asyncio that wait for what runs: what libraries open in a task or thread of its own was
//! asked for by who waits for that, and is not on the stack.
//!
//! The kernel side follows the futures at the moment of the copy ([`tracer_ebpf::Tasks`]), once it is
//! known which functions run tasks and an executor's jobs, which the first stack with one of them tells.

use tracer_ebpf::{RuntimeFrame, TASK_CALLBACK, TASK_END, TASK_OUTERMOST, Tasks};

use super::layout::Layout;
use crate::model::Named;

/// Symbols of the types that the kernel side knows tasks by.
pub const TYPES: [&str; 7] = [
    "PyCoro_Type",
    "PyGen_Type",
    "PyAsyncGen_Type",
    "PyFunction_Type",
    "PyMethod_Type",
    "PyCFunction_Type",
    "PyTuple_Type",
];

/// How tasks are followed in an interpreter of this layout whose [`TYPES`] are at these addresses.
#[must_use]
pub fn followed(layout: &Layout, types: &[Option<u64>]) -> Option<Tasks> {
    let offsets = layout.tasks()?;
    let [
        Some(coroutine),
        Some(generator),
        Some(asynchronous),
        Some(function),
        Some(method),
        Some(builtin),
        Some(tuple),
    ] = *types
    else {
        return None;
    };
    Some(Tasks {
        handle_run: 0,
        item_run: 0,
        generators: [coroutine, generator, asynchronous],
        function,
        method,
        builtin,
        tuple,
        frame: offsets.frame,
        coroutine: offsets.coroutine,
        waits_for: offsets.waits_for,
        instances: offsets.instances,
    })
}

/// Parts what the kernel side found into the frames on the stack, and who waits, which ends with
/// [`TASK_END`]; nothing where it did not look.
#[must_use]
pub fn parted(found: &[RuntimeFrame]) -> (&[RuntimeFrame], &[RuntimeFrame]) {
    let waiting = |frame: &RuntimeFrame| frame.extra >= TASK_OUTERMOST || frame.code == TASK_END;
    let first = found.iter().position(waiting).unwrap_or(found.len());
    found.split_at(first)
}

/// Names who waits, innermost first, by `describe`. What can't be named ends them, and so does a callback
/// that is not asyncio's own: who gets its result is not known.
#[must_use]
pub fn named(
    waiting: &[RuntimeFrame],
    describe: impl Fn(&RuntimeFrame) -> Option<Named>,
) -> Vec<Named> {
    let mut all = Vec::new();
    // the frames of one task, from the outermost inwards
    let mut task: Vec<Named> = Vec::new();
    for frame in waiting {
        let begins = frame.extra == TASK_OUTERMOST;
        let ends = frame.code == TASK_END;
        if ends && frame.instruction != 0 {
            break; // cut off, perhaps within a task
        }
        if begins || ends || frame.extra == TASK_CALLBACK {
            all.extend(task.drain(..).rev());
        }
        if ends {
            break;
        }
        match describe(frame) {
            Some(function) if frame.extra != TASK_CALLBACK => task.push(function),
            Some(function) if is_asyncios(&function) => {}
            _ => break,
        }
    }
    all
}

fn is_asyncios(function: &Named) -> bool {
    let file = function.file.as_deref().unwrap_or_default();
    let folder = file.rsplit_once('/').map(|(folder, _)| folder);
    folder.is_some_and(|folder| folder.ends_with("/asyncio"))
}

#[cfg(test)]
mod tests {
    use tracer_ebpf::{RuntimeFrame, TASK_CALLBACK, TASK_INNER, TASK_OUTERMOST};

    use super::{named, parted};
    use crate::model::Named;

    fn function(code: u64) -> Option<Named> {
        let (name, file) = match code {
            1 => ("main", "/app/main.py"),
            2 => ("fetch", "/app/main.py"),
            3 => ("_release_waiter", "/usr/lib/python3.11/asyncio/tasks.py"),
            4 => ("worker", "/app/main.py"),
            5 => ("on_done", "/app/asyncio_helpers/tasks.py"),
            _ => return None,
        };
        Some(Named {
            function: name.to_owned(),
            file: Some(file.to_owned()),
            line: Some(1),
            inlined: false,
            function_line: None,
        })
    }

    fn frame(code: u64, extra: u64) -> RuntimeFrame {
        RuntimeFrame {
            code,
            instruction: 0,
            extra,
        }
    }

    fn names(waiting: &[RuntimeFrame]) -> Vec<String> {
        let all = named(waiting, |frame| function(frame.code));
        all.into_iter().map(|named| named.function).collect()
    }

    #[test]
    fn frames_of_tasks_come_outermost_first_and_are_told_innermost_first() {
        let end = frame(0, 0);
        let found = [
            frame(9, 1),
            frame(3, TASK_CALLBACK),
            frame(1, TASK_OUTERMOST),
            frame(2, TASK_INNER),
            frame(4, TASK_OUTERMOST),
            end,
        ];
        let (stack, waiting) = parted(&found);
        assert_eq!(stack.len(), 1);
        assert_eq!(names(waiting), ["fetch", "main", "worker"]);
        assert_eq!(parted(&found[..1]), (&found[..1], &[][..]));
    }

    #[test]
    fn nobody_is_named_behind_what_is_not_known_to_wait() {
        let foreign = [frame(5, TASK_CALLBACK), frame(1, TASK_OUTERMOST)];
        assert!(names(&foreign).is_empty());
        // the innermost frame has no name: the others of that task would be blamed for it
        let broken = [frame(1, TASK_OUTERMOST), frame(7, TASK_INNER), frame(0, 0)];
        assert!(names(&broken).is_empty());
        // cut off within a task
        let cut = [frame(4, TASK_OUTERMOST), frame(1, TASK_OUTERMOST)];
        assert_eq!(names(&cut), ["worker"]);
        let mut end = frame(0, 0);
        end.instruction = 1;
        let cut = [frame(4, TASK_OUTERMOST), frame(1, TASK_INNER), end];
        assert!(names(&cut).is_empty());
    }
}
