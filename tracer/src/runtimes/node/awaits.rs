//! The functions that wait for what runs: of a connection that is made after an `await`, who asked is
//! not on the stack any more, but waits for the promise of who is.
//!
//! The kernel side follows the promises at the moment of the copy ([`tracer_ebpf::Awaits`]); what it
//! finds of a function, the part that all of its closures share, is named right afterwards.

use std::ops::Range;

use tracer_ebpf::{AWAIT_HANDLER, Awaits, RUNTIME_V8, RuntimeFrame, RuntimePlan};

use super::{
    functions::{ANONYMOUS, Functions},
    heap::{Heap, Object, object, small},
    layout::{Layout, Version},
    walker,
};
use crate::{
    elf::Image,
    memory::Memory,
    model::Named,
    runtimes::{
        script,
        thread_local::{self, Access, CODE_BYTES, Library},
    },
};

/// The constants that are needed besides those of the layout.
pub const CONSTANTS: [&str; 8] = [
    "type_JSPromise__JS_PROMISE_TYPE",
    "type_PromiseReaction__PROMISE_REACTION_TYPE",
    "type_PromiseCapability__PROMISE_CAPABILITY_TYPE",
    "type_PromiseFulfillReactionJobTask__PROMISE_FULFILL_REACTION_JOB_TASK_TYPE",
    "type_PromiseRejectReactionJobTask__PROMISE_REJECT_REACTION_JOB_TASK_TYPE",
    "type_PromiseResolveThenableJobTask__PROMISE_RESOLVE_THENABLE_JOB_TASK_TYPE",
    "type_JSAsyncFunctionObject__JS_ASYNC_FUNCTION_OBJECT_TYPE",
    "type_JSAsyncGeneratorObject__JS_ASYNC_GENERATOR_OBJECT_TYPE",
];

/// Where an isolate has the microtask that runs, among its roots; by V8's major and minor version.
/// Promises were looked at in these.
const MICROTASK: [((u32, u32), i32); 5] = [
    ((9, 4), 0x1510),
    ((10, 2), 0x1928),
    ((11, 3), 0x1b60),
    ((12, 4), 0x1cb0),
    ((13, 6), 0x2580),
];

/// From here on the data that a continuation preserves comes first in reactions and microtasks.
const PRESERVED_FIRST: Version = (12, 0, 0);

/// `v8::Isolate::TryGetCurrent()`, whose code says where a thread has its isolate.
pub const CURRENT: &str = "_ZN2v87Isolate13TryGetCurrentEv";
/// The key of the thread's value that is the isolate (up to V8 10).
pub const KEY: &str = "_ZN2v88internal7Isolate12isolate_key_E";
/// What runs microtasks: the functions in C++ around their frames.
pub const RUNNERS: [&str; 3] = [
    "_ZN2v88internal9Execution16TryRunMicrotasksEPNS0_7IsolateEPNS0_14MicrotaskQueueE",
    "_ZN2v88internal9Execution16TryRunMicrotasksEPNS0_7IsolateEPNS0_14MicrotaskQueueEPNS0_11MaybeHandleINS0_6ObjectEEE",
    "_ZN2v88internal14MicrotaskQueue13RunMicrotasksEPNS0_7IsolateE",
];

/// In glibc's `struct pthread`, the values of a thread's first keys, each behind its sequence number
/// (nptl/descr.h, `specific_1stblock`).
const VALUES: i32 = 0x310;
/// Keys whose values lie there.
const KEYS: u32 = 32;

/// How V8's promises are read, and from an isolate to its microtask; `None` for a version of which
/// that is not known.
#[must_use]
pub fn fields(of: &Layout, get: &dyn Fn(&str) -> Option<i32>) -> Option<Fields> {
    let minor = (of.version.0, of.version.1);
    let (_, microtask) = MICROTASK.iter().find(|(known, _)| *known == minor)?;
    let mut types = [0; CONSTANTS.len()];
    for (name, kind) in CONSTANTS.iter().zip(&mut types) {
        *kind = u16::try_from(get(name)?).ok().filter(|kind| *kind > 0)?;
    }
    let [
        promise,
        reaction,
        capability,
        fulfill,
        reject,
        thenable,
        function,
        generator,
    ] = types;
    let awaits = Awaits {
        promise,
        reaction,
        capability,
        fulfill,
        reject,
        thenable,
        nothing: of.properties.oddball,
        function,
        generator,
        callable: *of.types.function.start(),
        callable_end: *of.types.function.end(),
        script: of.types.script,
        shared: u16::try_from(of.function_shared).ok()?,
        script_at: u16::try_from(of.shared.script).ok()?,
        shift: if of.version >= PRESERVED_FIRST { 8 } else { 0 },
        pad: 0,
    };
    Some(Fields {
        awaits,
        microtask: *microtask,
    })
}

/// See [`fields`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    awaits: Awaits,
    microtask: i32,
}

/// What an executable tells, addresses as linked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    isolate: Isolate,
    runners: Vec<Range<u64>>,
}

/// Where a thread has its isolate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Isolate {
    /// In a variable of its own.
    Variable(Access),
    /// Under the key that is here.
    Key(u64),
}

impl Sources {
    /// Reads an executable, whose symbols are at `at`.
    #[must_use]
    pub fn read(image: &Image, at: &dyn Fn(&str) -> Option<(u64, u64)>) -> Option<Sources> {
        let variable = at(CURRENT).and_then(|(start, size)| {
            let size = usize::try_from(size).ok()?.min(CODE_BYTES);
            thread_local::access(&image.up_to(start, size)?, start)
        });
        let isolate = match variable {
            Some(access) => Isolate::Variable(access),
            None => Isolate::Key(at(KEY)?.0),
        };
        let found = RUNNERS.iter().filter_map(|name| at(name));
        let runners: Vec<Range<u64>> = found
            .filter_map(|(start, size)| Some(start..start.checked_add(size)?))
            .collect();
        (!runners.is_empty()).then_some(Sources { isolate, runners })
    }

    /// Whether a return address, as linked, is in what runs microtasks.
    #[must_use]
    pub fn runs(&self, address: u64) -> bool {
        self.runners.iter().any(|runner| runner.contains(&address))
    }

    /// How the kernel side finds who waits; `None` where that can't be told (yet).
    #[must_use]
    pub fn plan(
        &self,
        fields: &Fields,
        library: Library,
        bias: u64,
        memory: &dyn Memory,
    ) -> Option<RuntimePlan> {
        let mut way = match self.isolate {
            Isolate::Variable(access) => thread_local::way(access, library, bias, memory)?,
            Isolate::Key(at) if library == Library::Glibc => {
                // the first key is the C++ library's
                let key = memory.half(bias.wrapping_add(at))?;
                if key == 0 || key >= KEYS {
                    return None;
                }
                vec![VALUES + 16 * key.cast_signed() + 8]
            }
            Isolate::Key(_) => return None,
        };
        way.push(fields.microtask);
        Some(RuntimePlan {
            awaits: fields.awaits,
            ..script::plan(RUNTIME_V8, 0, &way, 0)?
        })
    }
}

/// Names of the functions that wait, innermost first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Their names.
    pub functions: Vec<Named>,
    /// None of them, or of those beyond, is missing.
    pub exact: bool,
}

/// Names what the kernel side found. Behind a function without a name others would be blamed, so the
/// rest is left out.
pub fn named(heap: Heap<'_>, functions: &mut Functions, found: &[RuntimeFrame]) -> Waiting {
    let mut waiting = Waiting::default();
    for frame in found {
        let Some(shared) = object(frame.code) else {
            waiting.exact = frame.code == 0;
            break;
        };
        if frame.instruction == AWAIT_HANDLER {
            match handler(heap, functions, shared) {
                Some(named) => waiting.functions.extend(named),
                None => break,
            }
        } else {
            match awaiting(heap, functions, shared, frame.instruction) {
                Some(named) => waiting.functions.push(named),
                None => break,
            }
        }
    }
    waiting
}

/// A function that waits in an `await`.
fn awaiting(
    heap: Heap<'_>,
    functions: &mut Functions,
    shared: Object,
    place: u64,
) -> Option<Named> {
    shared_part(heap, shared)?;
    let function = functions.get(heap, shared)?;
    let header = heap.layout.bytecode_data.checked_sub(1)?;
    let offset = small(place).and_then(|place| u64::try_from(place).ok());
    let offset = offset.and_then(|place| place.checked_sub(header));
    let position = offset.and_then(|offset| {
        let bytecodes = super::functions::bytecodes_of(heap, shared)?;
        walker::position(heap, bytecodes, offset)
    });
    Some(function.at(position, false))
}

/// A function that is called with the result. One without a name stands where it is passed on, which
/// is in the function around it that asked; one with a name may be from anywhere and is left out.
fn handler(heap: Heap<'_>, functions: &mut Functions, shared: Object) -> Option<Option<Named>> {
    shared_part(heap, shared)?;
    let function = functions.get(heap, shared)?;
    let named = function.begins();
    let nameless = named.function.ends_with(ANONYMOUS);
    Some(nameless.then_some(named))
}

/// The object, where it is what closures share.
fn shared_part(heap: Heap<'_>, shared: Object) -> Option<Object> {
    (heap.kind(shared) == Some(heap.layout.types.shared)).then_some(shared)
}
