//! The tasks of asyncio that wait for what runs now, from CPython's objects.
//!
//! A coroutine that another one awaits is on the stack of their task. But `gather`, `wait_for`,
//! `create_task` and the threads of an executor run what they are given in a task or thread of its
//! own: who waits for it is found by the callbacks of its future. A task is believed only if it waits
//! for exactly that future, and what runs only if it is exactly the coroutine of the task.

use core::hint::black_box;

use tracer_ebpf::{
    INSTANCES_BEFORE, INSTANCES_TAGGED, RUNTIME_FRAMES_MAX, RuntimePlan, TASK_CALLBACK, TASK_END,
    TASK_FRAMES_MAX, TASK_INNER, TASK_OUTERMOST, Tasks,
};

use super::{
    frames::{FRAMES_BEFORE_TASKS, caller, executing, innermost},
    kernel::read_user,
    maps::{PLANS, SCRATCH},
};

/// Callbacks and frames followed.
const STEPS_MAX: usize = 40;
/// Values of a closure, or arguments, that are looked at.
const VALUES_MAX: u64 = 6;

/// Offsets in objects, the same in CPython 3.11 to 3.13.
mod at {
    pub const TYPE: u64 = 8;
    /// Futures: their loop, the first callback, the others.
    pub const LOOP: u64 = 16;
    pub const CALLBACK: u64 = 24;
    pub const CALLBACKS: u64 = 40;
    /// `Handle`: what it calls.
    pub const HANDLE_CALLBACK: u64 = 24;
    /// What begins a task: the task.
    pub const STEP_TASK: u64 = 16;
    /// Functions in C, methods: the object they belong to.
    pub const SELF: u64 = 24;
    /// `partial`, methods: the function. Cells: their value. Awaitables of a generator: that.
    pub const FIRST: u64 = 16;
    /// `partial`: its arguments.
    pub const ARGUMENTS: u64 = 24;
    pub const FUNCTION_CODE: u64 = 48;
    pub const FUNCTION_CLOSURE: u64 = 72;
    /// Tuples and lists: how many; tuples: their values; lists: where their values are.
    pub const SIZE: u64 = 16;
    pub const VALUES: u64 = 24;
    /// Frames: how many values they have (32 bits), and the values.
    pub const FRAME_SIZE: u64 = 64;
    pub const FRAME_VALUES: u64 = 72;
    /// Attributes by number. Of `_WorkItem`: its future.
    pub const ITEM_FUTURE: u64 = 0;
    /// Of `concurrent.futures.Future`: its callbacks.
    pub const DONE_CALLBACKS: u64 = 5 * 8;
    /// Of `TaskGroup`: its loop, the task that opened it, and what that waits for at its end.
    pub const GROUP_LOOP: u64 = 3 * 8;
    pub const GROUP_PARENT: u64 = 4 * 8;
    pub const GROUP_COMPLETED: u64 = 9 * 8;
}

/// The bits of an address in user space.
const ADDRESS: u64 = (1 << 48) - 1;
/// In what [`call_back`] and [`first_future`] return: a future whose callback is to be followed, a
/// callback, a task that waits, a coroutine of its.
const FUTURE: u64 = 1 << 48;
const CALLBACK: u64 = 1 << 49;
const TASK: u64 = 1 << 50;
const COROUTINE: u64 = 1 << 51;
/// A frame was stored.
const STORED: u64 = 1 << 63;
/// Nothing waits that could be followed, but a task or executor runs.
const NOBODY: u64 = 1 << 52;

#[inline(always)]
fn word(object: u64, offset: u64) -> u64 {
    read_user(object.wrapping_add(offset))
}

// As in `super::awaits`: 1 for yes and 0 for no, without branches.

#[inline(always)]
fn zero(value: u64) -> u64 {
    let value = black_box(value);
    ((value | value.wrapping_neg()) >> 63) ^ 1
}

#[inline(always)]
fn equal(one: u64, other: u64) -> u64 {
    zero(one ^ other)
}

#[inline(always)]
fn choose(which: u64, one: u64, other: u64) -> u64 {
    other ^ ((one ^ other) & 0u64.wrapping_sub(which))
}

#[inline(always)]
fn is_generator(tasks: &Tasks, object: u64) -> u64 {
    let kind = word(object, at::TYPE);
    equal(kind, tasks.generators[0])
        | equal(kind, tasks.generators[1])
        | equal(kind, tasks.generators[2])
}

/// Where the values of an instance's attributes are.
#[inline(always)]
fn attributes(tasks: &Tasks, object: u64) -> u64 {
    let before = word(object, 0u64.wrapping_sub(32));
    let tagged = word(object, 0u64.wrapping_sub(24)).wrapping_add(1);
    let inline = object.wrapping_add(24);
    let kind = u64::from(tasks.instances);
    let first = choose(equal(kind, INSTANCES_TAGGED.into()), tagged, inline);
    choose(equal(kind, INSTANCES_BEFORE.into()), before, first)
}

/// The task that a callback goes on with, if it waits for this future; else 0.
#[inline(always)]
fn woken(tasks: &Tasks, callback: u64, future: u64) -> u64 {
    let task = word(callback, at::SELF);
    let waits_for = word(task, tasks.waits_for.into());
    let wakes = equal(word(callback, at::TYPE), tasks.builtin)
        & equal(waits_for, future)
        & (zero(future) ^ 1);
    choose(wakes, task, 0)
}

/// The only task that waits for a future, by its first two callbacks; 0 where there is none, or where
/// it has more.
#[inline(always)]
fn awaiting(tasks: &Tasks, future: u64) -> u64 {
    let others = word(future, at::CALLBACKS);
    let second = word(word(word(others, at::VALUES), 0), at::VALUES);
    let one = woken(tasks, word(future, at::CALLBACK), future);
    let other = woken(tasks, second, future);
    let few = zero(others) | equal(word(others, at::SIZE), 1);
    let only = few & (zero(one) | zero(other));
    choose(only, one | other, 0)
}

/// What the thread runs that others may wait for: the future of its task, the callback of its
/// executor's future, [`NOBODY`], or 0 where it runs neither. A global function, see
/// [`super::capture::capture_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn first_future(tgid: u32) -> u64 {
    // SAFETY: a map lookup; the value is only read, and replaced as a whole.
    let Some(plan) = (unsafe { PLANS.get(&tgid) }) else {
        return 0;
    };
    let tasks = &plan.tasks;
    if tasks.handle_run | tasks.item_run == 0 {
        return 0;
    }
    let mut walk = innermost(plan);
    // the frame, the one that it called, and the one that that called
    let mut inner = 0;
    let mut called = 0;
    let mut frame = 0;
    while frame < RUNTIME_FRAMES_MAX {
        if walk.at == 0 {
            return 0;
        }
        let code = executing(plan, walk.at).code;
        if code != 0 {
            if code == tasks.handle_run {
                return of_handle(plan, walk.at, called, inner);
            }
            if code == tasks.item_run {
                return of_item(tasks, walk.at);
            }
        }
        inner = called;
        called = walk.at;
        walk.at = caller(plan, walk.at);
        frame += 1;
    }
    0
}

#[inline(always)]
fn of_handle(plan: &RuntimePlan, frame: u64, called: u64, inner: u64) -> u64 {
    let tasks = &plan.tasks;
    let handle = word(frame, at::FRAME_VALUES);
    let callback = word(handle, at::HANDLE_CALLBACK);
    let builtin = equal(word(callback, at::TYPE), tasks.builtin);
    let task = choose(
        builtin,
        word(callback, at::SELF),
        word(callback, at::STEP_TASK),
    );
    let runs = word(task, tasks.coroutine.into()).wrapping_add(tasks.frame.into());
    let is_it = (equal(runs, called) | equal(runs, inner)) & (zero(task) ^ 1);
    choose(is_it, FUTURE | task & ADDRESS, NOBODY)
}

#[inline(always)]
fn of_item(tasks: &Tasks, frame: u64) -> u64 {
    let item = word(frame, at::FRAME_VALUES);
    let future = word(attributes(tasks, item), at::ITEM_FUTURE);
    let callbacks = word(attributes(tasks, future), at::DONE_CALLBACKS);
    let only = equal(word(callbacks, at::SIZE), 1);
    let callback = word(word(callbacks, at::VALUES), 0);
    choose(only, CALLBACK | callback & ADDRESS, NOBODY)
}

/// Stores the frame of a task or of a coroutine that it runs; the coroutine that this one awaits, or
/// only [`STORED`]. A global function, see [`super::capture::capture_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn store_coroutine(tgid: u32, lane: u32, what: u64, index: u32) -> u64 {
    // SAFETY: as in `first_future`.
    let Some(plan) = (unsafe { PLANS.get(&tgid) }) else {
        return 0;
    };
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return 0;
    };
    let tasks = &plan.tasks;
    let address = what & ADDRESS;
    let outermost = zero(what & TASK) ^ 1;
    let coroutine = choose(outermost, word(address, tasks.coroutine.into()), address);
    let at = coroutine.wrapping_add(tasks.frame.into());
    // SAFETY: this program's room on this CPU; the index is masked.
    let frame = unsafe { &mut (*scratch).frames[index as usize & (RUNTIME_FRAMES_MAX - 1)] };
    let executing = executing(plan, at);
    frame.code = executing.code;
    frame.instruction = executing.instruction;
    frame.extra = choose(outermost, TASK_OUTERMOST, TASK_INNER);
    let size = u64::from(read_user::<u32>(at.wrapping_add(at::FRAME_SIZE)));
    let last = at::FRAME_VALUES.wrapping_add(size.wrapping_sub(1).wrapping_mul(8));
    let awaited = word(at, last);
    let behind = word(awaited, at::FIRST);
    let inner = choose(is_generator(tasks, behind), behind, 0);
    let inner = choose(is_generator(tasks, awaited), awaited, inner) & ADDRESS;
    STORED | choose(zero(inner), 0, COROUTINE | inner)
}

/// The task that waits for a future, or 0. A global function, see [`super::capture::capture_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn waiting_task(tgid: u32, what: u64) -> u64 {
    // SAFETY: as in `first_future`.
    let Some(plan) = (unsafe { PLANS.get(&tgid) }) else {
        return 0;
    };
    if what & FUTURE == 0 {
        return 0;
    }
    match awaiting(&plan.tasks, what & ADDRESS) & ADDRESS {
        0 => 0,
        task => TASK | task,
    }
}

/// Who may wait for a future for which no task does, by its callback, which is stored: a task, another
/// future, or 0. A global function, see [`super::capture::capture_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn call_back(tgid: u32, lane: u32, what: u64, index: u32) -> u64 {
    // SAFETY: as in `first_future`.
    let Some(plan) = (unsafe { PLANS.get(&tgid) }) else {
        return 0;
    };
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return 0;
    };
    let tasks = &plan.tasks;
    let given = what & ADDRESS;
    let of_future = zero(what & FUTURE) ^ 1;
    let future = choose(of_future, given, 0);
    let callback = choose(of_future, word(given, at::CALLBACK), given);
    if word(future, at::CALLBACKS) != 0 {
        return 0; // perhaps several wait
    }
    let kind = word(callback, at::TYPE);
    let is_function = equal(kind, tasks.function);
    let function = choose(is_function, callback, word(callback, at::FIRST));
    if word(function, at::TYPE) != tasks.function {
        return 0;
    }
    // SAFETY: as in `store_coroutine`; where nobody is found, what comes next takes the place.
    let frame = unsafe { &mut (*scratch).frames[index as usize & (RUNTIME_FRAMES_MAX - 1)] };
    frame.code = word(function, at::FUNCTION_CODE);
    frame.instruction = 0;
    frame.extra = TASK_CALLBACK;
    let around = word(future, at::LOOP);
    if kind == tasks.method {
        return group_of(tasks, word(callback, at::SELF), around);
    }
    let place = choose(is_function, at::FUNCTION_CLOSURE, at::ARGUMENTS);
    let values = word(callback, place);
    // that of an executor's future is `_chain_future`'s, which has the loop as its second value
    let second = word(word(values, at::VALUES + 8), at::FIRST);
    let around = choose(of_future, around, second);
    given_to(tasks, values, is_function, future, around)
}

/// The task that waits at the end of its `TaskGroup`.
#[inline(always)]
fn group_of(tasks: &Tasks, group: u64, around: u64) -> u64 {
    let values = attributes(tasks, group);
    let parent = word(values, at::GROUP_PARENT);
    let completed = word(values, at::GROUP_COMPLETED);
    let waits = equal(word(parent, tasks.waits_for.into()), completed)
        & (zero(completed) ^ 1)
        & equal(word(values, at::GROUP_LOOP), around)
        & equal(word(parent, at::LOOP), around)
        & (zero(around) ^ 1);
    choose(waits, STORED | TASK | parent & ADDRESS, 0)
}

/// The only future among the values of a closure or the arguments of a `partial`.
#[inline(always)]
fn given_to(tasks: &Tasks, values: u64, closure: u64, future: u64, around: u64) -> u64 {
    if word(values, at::TYPE) != tasks.tuple {
        return 0;
    }
    let size = word(values, at::SIZE);
    let mut found = 0;
    let mut count = 0;
    let mut index = 0;
    while index < VALUES_MAX {
        let value = word(values, at::VALUES + index * 8);
        let value = choose(closure, word(value, at::FIRST), value);
        let of_loop = equal(word(value, at::LOOP), around) & (zero(around) ^ 1);
        // whether `index` is below `size`
        let there = index.wrapping_sub(size) >> 63;
        let is_one = of_loop & there & (equal(value, future) ^ 1);
        found = choose(is_one, value, found);
        count += is_one;
        index += 1;
    }
    choose(equal(count, 1), STORED | FUTURE | found & ADDRESS, 0)
}

/// Puts who waits for the current task or thread into the lane, from frame `first` on, and the end
/// behind them; their number, 0 where the thread runs neither a task nor an executor's job. A global
/// function, see [`super::capture::capture_stack`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn collect_tasks(tgid: u32, lane: u32, first: u32) -> u32 {
    if first as usize > FRAMES_BEFORE_TASKS {
        return 0;
    }
    let mut what = first_future(tgid);
    if what == 0 {
        return 0;
    }
    let mut task = 0;
    let mut found = 0u32;
    let mut step = 0;
    while step < STEPS_MAX && found < TASK_FRAMES_MAX as u32 {
        let runs = what & (TASK | COROUTINE);
        let mut next = waiting_task(tgid, what);
        if runs != 0 {
            next = store_coroutine(tgid, lane, what, first + found);
        } else if next == 0 {
            next = call_back(tgid, lane, what, first + found);
        }
        task = choose(zero(what & TASK), task, what & ADDRESS);
        found += (next >> 63) as u32;
        what = next & !STORED;
        // a task without more frames: who waits for it
        let ended = zero(what) & (zero(task) ^ 1);
        what = choose(ended, FUTURE | task, what);
        task = choose(ended, 0, task);
        step += 1;
        if what == 0 {
            break;
        }
    }
    if let Some(scratch) = SCRATCH.get_ptr_mut(lane) {
        let place = (first + found) as usize & (RUNTIME_FRAMES_MAX - 1);
        // SAFETY: as in `store_coroutine`.
        let end = unsafe { &mut (*scratch).frames[place] };
        end.code = TASK_END;
        end.instruction = zero(what) ^ 1;
        end.extra = 0;
    }
    found + 1
}
