//! The functions of V8 that wait for what runs now: from the microtask that runs, promise by promise.
//!
//! V8 follows the same way for the "async" frames of `Error.stack` (`CaptureAsyncStackTrace` in
//! src/execution/isolate.cc): a promise has reactions, the reaction of an `await` leads to the async
//! function that goes on by it, and that has the promise of its own result. What has another type than
//! it should have ends the walk, and so does a promise that two functions wait for.

use core::hint::black_box;

use tracer_ebpf::{AWAIT_HANDLER, AWAITS_MAX, Awaits, STACK_NONE, TRIE_END, TrieKey};

use super::{
    frames::innermost,
    kernel::read_user,
    maps::{PLANS, SCRATCH, TRIE},
};

/// Promises followed: some only pass on what another was fulfilled with.
const STEPS_MAX: usize = 24;
/// Reactions of one promise that are looked at.
const REACTIONS_MAX: u32 = 4;

// src/objects/*.tq: offsets from the beginning of an object
const MAP: u64 = 0;
const MAP_KIND: u64 = 12;
const PROMISE_REACTIONS: u64 = 24;
const CAPABILITY_PROMISE: u64 = 8;
/// In reactions and microtasks, moved by [`Awaits::shift`].
const REACTION_NEXT: u64 = 8;
const REACTION_FULFILL: u64 = 24;
const REACTION_PROMISE: u64 = 32;
const TASK_HANDLER: u64 = 24;
const TASK_PROMISE: u64 = 32;
const TASK_TO_RESOLVE: u64 = 16;
/// From a function's shared part, in the function, to its context.
const CONTEXT_AFTER: u64 = 8;
/// In a context: the first and second value of its own.
const CONTEXT_FIRST: u64 = 32;
const CONTEXT_SECOND: u64 = 40;
const GENERATOR_FUNCTION: u64 = 24;
/// Where it waits, in its bytecode, as a tagged integer.
const GENERATOR_PLACE: u64 = 48;
/// An async function's promise; an async generator's first request.
const GENERATOR_RESULT: u64 = 80;
const REQUEST_PROMISE: u64 = 32;

/// The bits of an address in user space.
const ADDRESS: u64 = (1 << 48) - 1;
/// In what [`store_waiting`] returns: it has stored a frame.
const STORED: u64 = 1 << 63;
/// In what [`who_waits`] returns: it is an async function or generator.
const WAITS: u64 = 1 << 62;

#[inline(always)]
fn field(object: u64, offset: u64) -> u64 {
    read_user(object.wrapping_sub(1).wrapping_add(offset))
}

/// The instance type; 0, which is a string's, where this is no object: without its tag it becomes an
/// address that can't be read.
#[inline(always)]
fn kind(object: u64) -> u16 {
    let tagged = |word: u64| word.wrapping_add(((word & 3) ^ 1) << 60);
    let map = field(tagged(object), MAP);
    read_user(tagged(map).wrapping_sub(1).wrapping_add(MAP_KIND))
}

// What follows is 1 for yes and 0 for no, and is computed without branches: verifiers before 5.19 follow
// each way through the loop below by itself.

#[inline(always)]
fn equal(one: u64, other: u64) -> u64 {
    black_box(one ^ other).wrapping_sub(1) >> 63
}

#[inline(always)]
fn is(object: u64, wanted: u16) -> u64 {
    equal(kind(object).into(), wanted.into())
}

/// One value for 1, the other for 0.
#[inline(always)]
fn choose(which: u64, one: u64, other: u64) -> u64 {
    other ^ ((one ^ other) & 0u64.wrapping_sub(which))
}

#[inline(always)]
fn is_function(awaits: &Awaits, object: u64) -> u64 {
    let kind = black_box(u64::from(kind(object)));
    let below = kind.wrapping_sub(awaits.callable.into());
    let above = u64::from(awaits.callable_end).wrapping_sub(kind);
    ((below | above) >> 63) ^ 1
}

/// Whether a function was written in the language; those that are built in have no source.
#[inline(always)]
fn is_written(awaits: &Awaits, function: u64) -> u64 {
    let shared = field(function, u64::from(awaits.shared));
    is(field(shared, u64::from(awaits.script_at)), awaits.script)
}

/// The async function or generator that goes on by this function; 0 for any other function.
#[inline(always)]
fn going_on(awaits: &Awaits, handler: u64) -> u64 {
    let context = field(handler, u64::from(awaits.shared) + CONTEXT_AFTER);
    let waiting = field(context, CONTEXT_FIRST);
    // programs can't get hold of the one, but of the other
    let generator = is(waiting, awaits.generator) & (is_written(awaits, handler) ^ 1);
    let goes_on = is_function(awaits, handler) & (is(waiting, awaits.function) | generator);
    choose(goes_on, waiting, 0)
}

/// The promise that an async function or generator will settle.
#[inline(always)]
fn result_of(awaits: &Awaits, waiting: u64) -> u64 {
    let result = field(waiting, GENERATOR_RESULT);
    let requested = field(result, REQUEST_PROMISE);
    choose(is(waiting, awaits.generator), requested, result)
}

/// The promise that is settled by what this microtask runs; 0 where there is none. A global function,
/// see [`super::capture::find_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn first_promise(tgid: u32, task: u64) -> u64 {
    // SAFETY: a map lookup; the value is only read, and not changed while the process lives.
    let Some(plan) = (unsafe { PLANS.get(&tgid) }) else {
        return 0;
    };
    let awaits = &plan.awaits;
    let shift = u64::from(awaits.shift);
    let runs = going_on(awaits, field(task, TASK_HANDLER + shift));
    let derived = field(task, TASK_PROMISE + shift);
    let settled = choose(equal(runs, 0), derived, result_of(awaits, runs));
    let reacts = is(task, awaits.fulfill) | is(task, awaits.reject);
    let to_resolve = field(task, TASK_TO_RESOLVE + shift);
    let thenable = is(task, awaits.thenable);
    choose(thenable, to_resolve, choose(reacts, settled, 0))
}

/// Who waits for a promise: the one async function or generator, with [`WAITS`], or else the one
/// reaction; 0 where there are none or several. A global function, see
/// [`super::capture::find_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn who_waits(tgid: u32, promise: u64) -> u64 {
    // SAFETY: as in `first_promise`.
    let Some(plan) = (unsafe { PLANS.get(&tgid) }) else {
        return 0;
    };
    let awaits = &plan.awaits;
    let shift = u64::from(awaits.shift);
    let held = field(promise, CAPABILITY_PROMISE);
    let promise = choose(is(promise, awaits.capability), held, promise);
    let settles = is(promise, awaits.promise);
    let mut who = 0;
    // a byte counts functions that wait, the next one the others
    let mut counts = 0;
    let mut reaction = field(promise, PROMISE_REACTIONS);
    let mut looked_at = 0;
    while looked_at < REACTIONS_MAX {
        let there = is(reaction, awaits.reaction);
        let found = going_on(awaits, field(reaction, REACTION_FULFILL + shift));
        let waits = (equal(found, 0) ^ 1) & there;
        let first = (equal(who & WAITS, 0) & there) ^ 1;
        let otherwise = choose(first, who, reaction & ADDRESS);
        who = choose(waits, found & ADDRESS | WAITS, otherwise);
        counts += waits | (waits ^ there) << 8;
        // behind the last one there is a small number, and nothing behind that
        reaction = field(reaction, REACTION_NEXT + shift);
        looked_at += 1;
    }
    let alone = equal(counts & 0xff, 1) | equal(counts, 0x100);
    let more = is(reaction, awaits.reaction);
    choose(settles & alone & (more ^ 1), who, 0)
}

/// The promise that is settled when who waits has gone on, 0 at the end of the chain; with [`STORED`]
/// where who waits is in the lane now, as frame `index`. A global function, see
/// [`super::capture::find_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn store_waiting(tgid: u32, lane: u32, who: u64, index: u32) -> u64 {
    // SAFETY: as in `first_promise`.
    let Some(plan) = (unsafe { PLANS.get(&tgid) }) else {
        return 0;
    };
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return 0;
    };
    let awaits = &plan.awaits;
    let address = who & ADDRESS;
    // SAFETY: this program's room on this CPU; the index is masked.
    let frame = unsafe { &mut (*scratch).frames[index as usize & (AWAITS_MAX - 1)] };
    if who & WAITS != 0 {
        let function = field(address, GENERATOR_FUNCTION);
        frame.code = field(function, u64::from(awaits.shared));
        frame.instruction = field(address, GENERATOR_PLACE);
        frame.extra = 0;
        return result_of(awaits, address) & ADDRESS | STORED;
    }
    let shift = u64::from(awaits.shift);
    let handler = field(address, REACTION_FULFILL + shift);
    let derived = field(address, REACTION_PROMISE + shift);
    if is_function(awaits, handler) == 0 {
        return derived & ADDRESS;
    }
    if is_written(awaits, handler) == 0 {
        return settled_by(awaits, handler, derived) & ADDRESS;
    }
    frame.code = field(handler, u64::from(awaits.shared));
    frame.instruction = AWAIT_HANDLER;
    frame.extra = 0;
    derived & ADDRESS | STORED
}

/// The promise that a function settles that is built in: one of those that `new Promise` hands out, or
/// that of `Promise.all`.
#[inline(always)]
fn settled_by(awaits: &Awaits, function: u64, otherwise: u64) -> u64 {
    let context = field(function, u64::from(awaits.shared) + CONTEXT_AFTER);
    let first = field(context, CONTEXT_FIRST);
    let second = field(context, CONTEXT_SECOND);
    let of_all = choose(is(second, awaits.capability), second, otherwise);
    choose(is(first, awaits.promise), first, of_all)
}

/// Puts who waits for the microtask of the current thread into the lane, and an empty frame at the
/// end; their number, 0 where no microtask runs. A global function, see
/// [`super::capture::find_stack`]: as few as can be call one another here, because kernels before
/// 6.13 have 512 bytes of stack for all of them.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn collect_awaits(tgid: u32, lane: u32) -> u32 {
    // SAFETY: as in `first_promise`.
    let Some(plan) = (unsafe { PLANS.get(&tgid) }) else {
        return 0;
    };
    let task = innermost(plan).at;
    if equal(kind(task).into(), 0) | is(task, plan.awaits.nothing) != 0 {
        return 0;
    }
    let mut promise = first_promise(tgid, task);
    let mut found = 0u32;
    let mut step = 0;
    while step < STEPS_MAX && promise != 0 && found < AWAITS_MAX as u32 {
        let who = who_waits(tgid, promise);
        if who == 0 {
            break;
        }
        promise = store_waiting(tgid, lane, who, found);
        found += (promise >> 63) as u32;
        promise &= ADDRESS;
        step += 1;
    }
    if let Some(scratch) = SCRATCH.get_ptr_mut(lane) {
        // SAFETY: as in `store_waiting`; there is room for one more than are found.
        let end = unsafe { &mut (*scratch).frames[found as usize & (2 * AWAITS_MAX - 1)] };
        end.code = 0;
        end.instruction = 0;
        end.extra = 0;
    }
    found + 1
}

/// The id of the path that ends with these of the lane's frames, from the trie's `node` on. A global
/// function, see [`super::capture::find_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn match_awaits(tgid: u32, node: u32, lane: u32, found: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr(lane) else {
        return STACK_NONE;
    };
    let mut key = TrieKey {
        address: 0,
        tgid,
        node,
    };
    let mut frame = 0;
    while frame < AWAITS_MAX + 1 {
        if frame as u32 >= found {
            return STACK_NONE;
        }
        // SAFETY: as in `store_waiting`.
        key.address = unsafe { (*scratch).frames[frame & (2 * AWAITS_MAX - 1)] }.key();
        // SAFETY: a map lookup; the value is copied at once.
        let Some(step) = (unsafe { TRIE.get(&key) }) else {
            return STACK_NONE;
        };
        if step.delta == TRIE_END {
            return step.node;
        }
        key.node = step.node;
        frame += 1;
    }
    STACK_NONE
}
