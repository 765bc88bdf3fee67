//! V8's promises, as the kernel side follows them: what of V8's layout it needs for that, and where a
//! thread has the microtask that runs.

use std::ops::{Range, RangeInclusive};

use tracer_ebpf::{Awaits, RUNTIME_V8, RuntimePlan};

use crate::{
    elf::Image,
    memory::Memory,
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
const PRESERVED_FIRST: (u32, u32, u32) = (12, 0, 0);

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

/// What of a layout the kernel side needs besides, as the layout has it.
#[derive(Debug, Clone)]
pub struct Around {
    /// Version of V8.
    pub version: (u32, u32, u32),
    /// Instance type of `undefined` and its like.
    pub nothing: u16,
    /// Instance types of functions.
    pub callable: RangeInclusive<u16>,
    /// Instance type of scripts.
    pub script: u16,
    /// Where a function has the part that its closures share.
    pub shared: u64,
    /// Where that part has its script.
    pub script_at: u64,
}

/// How V8's promises are read, and from an isolate to its microtask; `None` for a version of which
/// that is not known.
#[must_use]
pub fn fields(of: &Around, get: &dyn Fn(&str) -> Option<i32>) -> Option<Fields> {
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
        nothing: of.nothing,
        function,
        generator,
        callable: *of.callable.start(),
        callable_end: *of.callable.end(),
        script: of.script,
        shared: u16::try_from(of.shared).ok()?,
        script_at: u16::try_from(of.script_at).ok()?,
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
