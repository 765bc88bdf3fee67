//! The functions that run what others wait for, an event loop's and an executor's, and how the kernel
//! side gets to know them.

use tracer_ebpf::{RUNTIME_FRAMES_MAX, RuntimeFrame};

use super::{Interpreter, dictionaries, innermost, layout::Layout, named_now, threads};
use crate::{memory::Memory, model::Named};

/// In a module, a class (`tp_dict`) and a function (3.11 to 3.13): what it is looked for in.
const MODULE_NAMES: u64 = 16;
const CLASS_NAMES: u64 = 264;
const FUNCTION_CODE: u64 = 48;

/// What runs what others wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runner {
    /// `asyncio.events.Handle._run`: a step of a task.
    Handle,
    /// `concurrent.futures.thread._WorkItem.run`: an executor's job.
    Item,
}

/// Whether a function is a runner.
fn runner(function: &Named) -> Option<Runner> {
    let file = function.file.as_deref()?;
    match function.function.as_str() {
        "Handle._run" if file.ends_with("/asyncio/events.py") => Some(Runner::Handle),
        "_WorkItem.run" if file.ends_with("/concurrent/futures/thread.py") => Some(Runner::Item),
        _ => None,
    }
}

/// Whose runs a function waits for, if it does: that of an event loop or of an executor's thread.
fn waiter(function: &Named) -> Option<Runner> {
    let file = function.file.as_deref()?;
    match function.function.as_str() {
        "BaseEventLoop._run_once" if file.ends_with("/asyncio/base_events.py") => {
            Some(Runner::Handle)
        }
        "_worker" if file.ends_with("/concurrent/futures/thread.py") => Some(Runner::Item),
        _ => None,
    }
}

/// The code object of a runner, from the names of the module that waits for it.
fn runner_of(layout: &Layout, memory: &dyn Memory, globals: u64, runner: Runner) -> Option<u64> {
    let word = |object: u64, offset: u64| memory.word(object.wrapping_add(offset));
    let value = |of: u64, key: &str| dictionaries::value(layout, memory, of, key);
    let (class, method) = match runner {
        Runner::Handle => {
            let names = word(value(globals, "events")?, MODULE_NAMES)?;
            (value(names, "Handle")?, "_run")
        }
        Runner::Item => (value(globals, "_WorkItem")?, "run"),
    };
    let function = value(word(class, CLASS_NAMES)?, method)?;
    word(function, FUNCTION_CODE)
}

/// The innermost of named frames that runs what others wait for: where it is, and which.
pub(super) fn innermost_of(named: &[(Option<Named>, bool)]) -> Option<(usize, Runner)> {
    let mut all = named.iter().enumerate();
    all.find_map(|(index, (name, _))| Some((index, runner(name.as_ref()?)?)))
}

/// Whether the kernel side knows a runner.
pub(super) fn is_known(runtime: &Interpreter, is: Runner) -> bool {
    runtime.tasks.is_some_and(|tasks| match is {
        Runner::Handle => tasks.handle_run != 0,
        Runner::Item => tasks.item_run != 0,
    })
}

/// Remembers the code object of a runner that is on the stack.
pub(super) fn learn(
    runtime: &mut Interpreter,
    memory: &dyn Memory,
    on_stack: &[RuntimeFrame],
    is: Runner,
) {
    let found = on_stack.iter().find(|frame| {
        let name = named_now(runtime, memory, frame);
        name.is_some_and(|name| runner(&name) == Some(is))
    });
    let (Some(frame), Some(tasks)) = (found, &mut runtime.tasks) else {
        return;
    };
    let known = match is {
        Runner::Handle => &mut tasks.handle_run,
        Runner::Item => &mut tasks.item_run,
    };
    runtime.learned |= *known != frame.code;
    *known = frame.code;
}

/// Learns the runners from what threads run that wait for work: they are among the names of the same
/// modules.
pub(super) fn learn_by_waiting_threads(runtime: &mut Interpreter, memory: &dyn Memory) {
    let layout = runtime.layout;
    let (Some(offsets), Some(mut tasks)) = (layout.tasks(), runtime.tasks) else {
        return;
    };
    for thread in threads(runtime, memory).unwrap_or_default() {
        let mut frame = innermost(&layout, memory, thread, |_| None).unwrap_or(0);
        for _ in 0..RUNTIME_FRAMES_MAX {
            let word = |offset: u64| memory.word(frame.wrapping_add(offset));
            let (Some(code), Some(caller)) = (word(layout.frame_code), word(layout.frame_previous))
            else {
                break;
            };
            let of_code = RuntimeFrame {
                code,
                ..RuntimeFrame::default()
            };
            let waits = named_now(runtime, memory, &of_code).and_then(|name| waiter(&name));
            let globals = word(offsets.globals);
            let found = waits.zip(globals).and_then(|(waits, globals)| {
                Some((waits, runner_of(&layout, memory, globals, waits)?))
            });
            match found {
                Some((Runner::Handle, code)) => tasks.handle_run = code,
                Some((Runner::Item, code)) => tasks.item_run = code,
                None => {}
            }
            if caller == 0 {
                break;
            }
            frame = caller;
        }
    }
    runtime.tasks = Some(tasks);
}

#[cfg(test)]
mod tests {
    use super::{Runner, innermost_of, runner, waiter};
    use crate::model::Named;

    fn function(name: &str, file: &str) -> Named {
        Named {
            function: name.to_owned(),
            file: Some(file.to_owned()),
            line: Some(1),
            inlined: false,
            function_line: None,
        }
    }

    #[test]
    fn runners_are_known_by_their_files() {
        let events = "/usr/lib/python3.11/asyncio/events.py";
        let threads = "/usr/lib/python3.11/concurrent/futures/thread.py";
        let is = |name, file| runner(&function(name, file));
        assert_eq!(is("Handle._run", events), Some(Runner::Handle));
        assert_eq!(is("_WorkItem.run", threads), Some(Runner::Item));
        assert_eq!(is("Handle._run", "/app/events.py"), None);
        assert_eq!(waiter(&function("_worker", threads)), Some(Runner::Item));
        assert_eq!(waiter(&function("_worker", "/app/thread.py")), None);
    }

    #[test]
    fn the_innermost_runner_is_found() {
        let events = "/usr/lib/python3.11/asyncio/events.py";
        let stack = ["send", "Handle._run", "Handle._run"];
        let stack = stack.map(|name| (Some(function(name, events)), false));
        assert_eq!(innermost_of(&stack), Some((1, Runner::Handle)));
        assert_eq!(innermost_of(&stack[..1]), None);
    }
}
