//! Records about the tasks of asyncio that wait for what runs now: they are not on its stack.

/// Most frames and callbacks that are followed.
pub const TASK_FRAMES_MAX: usize = 16;
/// [`crate::RuntimeFrame::extra`] of the outermost frame of a task that waits. The frames that it runs
/// come after it, from the outermost inwards, with [`TASK_INNER`].
pub const TASK_OUTERMOST: u64 = 0x100;
/// See [`TASK_OUTERMOST`].
pub const TASK_INNER: u64 = 0x101;
/// [`crate::RuntimeFrame::extra`] of a function that is called when what ran has ended, on the way to
/// who waits: what is beyond is meant to be told only if that is asyncio's own.
pub const TASK_CALLBACK: u64 = 0x102;
/// [`crate::RuntimeFrame::code`] behind the last one; [`crate::RuntimeFrame::instruction`] is then 0
/// where there are no more.
pub const TASK_END: u64 = 0;

/// [`Tasks::instances`]: where the attributes of an instance are (CPython 3.11, 3.12, 3.13).
pub const INSTANCES_BEFORE: u32 = 11;
/// See [`INSTANCES_BEFORE`].
pub const INSTANCES_TAGGED: u32 = 12;
/// See [`INSTANCES_BEFORE`].
pub const INSTANCES_INLINE: u32 = 13;

/// How CPython's tasks are read: addresses of types and functions, and offsets in bytes from the
/// beginning of objects.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Tasks {
    /// The code object of `asyncio.events.Handle._run`; 0 where it is not known.
    pub handle_run: u64,
    /// The code object of `concurrent.futures.thread._WorkItem.run`; 0 where it is not known.
    pub item_run: u64,
    /// Types whose objects have a frame in them.
    pub generators: [u64; 3],
    /// Type of functions.
    pub function: u64,
    /// Type of methods that belong to an object.
    pub method: u64,
    /// Type of functions written in C.
    pub builtin: u64,
    /// Type of tuples.
    pub tuple: u64,
    /// In an object of [`Tasks::generators`]: the frame.
    pub frame: u32,
    /// In a task: what it runs.
    pub coroutine: u32,
    /// In a task: what it waits for.
    pub waits_for: u32,
    /// One of [`INSTANCES_BEFORE`], [`INSTANCES_TAGGED`] and [`INSTANCES_INLINE`].
    pub instances: u32,
}

const _: () = assert!(size_of::<Tasks>() == 88 && align_of::<Tasks>() == 8);
