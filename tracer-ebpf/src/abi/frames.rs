//! Records about the frames of interpreters, which the kernel side collects beside a stack copy.
//!
//! An interpreter keeps its frames in structures of its own: linked to their callers' (CPython,
//! PHP), or side by side (Ruby). A [`RuntimePlan`] leads from the thread to the innermost one, and
//! from each to the next.

use super::tasks::Tasks;

/// Most frames followed.
pub const RUNTIME_FRAMES_MAX: usize = 64;
/// Steps on the way to the innermost frame at most.
pub const RUNTIME_WAY: usize = 4;
/// A distance in a [`RuntimePlan`] that stands for none.
pub const RUNTIME_NONE: i32 = i32::MIN;

/// [`crate::TrieValue::delta`] of the last native frame of a path on which an interpreter runs: the
/// walk goes on from `node` with one step for each of its frames, innermost first, whose key is
/// [`RuntimeFrame::key`]; the last one has [`crate::TRIE_END`]. Deltas of these steps mean nothing
/// else.
pub const TRIE_RUNTIME: u32 = u32::MAX - 1;

/// [`RuntimePlan::kind`]: frames linked to their callers', all of whose members the plan tells.
pub const RUNTIME_LINKED: u32 = 0;
/// [`RuntimePlan::kind`]: PHP's. The way leads to the innermost one.
pub const RUNTIME_PHP: u32 = 1;
/// [`RuntimePlan::kind`]: Ruby's. The way leads to the thread's execution context, which has the
/// innermost frame and the end of the stack that frames lie in.
pub const RUNTIME_RUBY: u32 = 2;
/// [`RuntimePlan::kind`]: V8's functions that wait for what runs now. The way leads to the microtask
/// that runs, a tagged pointer. Frames are those of functions off the stack; see [`Awaits`].
pub const RUNTIME_V8: u32 = 3;

/// V8: most functions that are followed from one awaited promise to the next.
pub const AWAITS_MAX: usize = 16;
/// V8, [`RuntimeFrame::instruction`]: not a function that awaits, but one that is called when the
/// promise is fulfilled. (Of one that awaits, it is a tagged integer.)
pub const AWAIT_HANDLER: u64 = 1;

/// PHP: in a frame ([`RuntimeFrame::extra`]), set for the outermost one that a run of the virtual
/// machine executes (`ZEND_CALL_TOP`).
pub const PHP_OUTERMOST: u32 = 1 << 17;
/// PHP: the part of [`RuntimeFrame::instruction`] that is its address. Above it are the lowest bits
/// of the hash of the file's name: another function may have been at the same address before.
pub const PHP_ADDRESS: u64 = (1 << 48) - 1;

/// How V8's promises are read: instance types, and offsets in bytes from the beginning of objects.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Awaits {
    /// Type of promises.
    pub promise: u16,
    /// Type of what is to be done when one is settled.
    pub reaction: u16,
    /// Type of a promise with the functions that settle it.
    pub capability: u16,
    /// Types of the microtasks that go on after a promise was fulfilled or rejected.
    pub fulfill: u16,
    /// See [`Awaits::fulfill`].
    pub reject: u16,
    /// Type of the microtask that calls somebody's own `then`.
    pub thenable: u16,
    /// Type of `undefined`, which stands where no microtask runs.
    pub nothing: u16,
    /// Type of running or waiting async functions.
    pub function: u16,
    /// Type of async generators.
    pub generator: u16,
    /// Types of functions: the first.
    pub callable: u16,
    /// The last of them.
    pub callable_end: u16,
    /// Type of a source text.
    pub script: u16,
    /// In a function: the part that all closures share. The context follows.
    pub shared: u16,
    /// In that part: the source text.
    pub script_at: u16,
    /// Bytes by which what microtasks and reactions have of their own begins later: 0 or 8.
    pub shift: u16,
    /// Explicit padding.
    pub pad: u16,
}

/// How to find the frames of one process; value of a map by process id. Distances are in bytes,
/// [`RUNTIME_NONE`] where there is no such thing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct RuntimePlan {
    /// Where the way begins: an address, or 0 for the thread's `fsbase` (x86-64).
    pub base: u64,
    /// The way to the innermost frame: each distance is added to where the step before led, and
    /// the pointer there is followed. The last pointer is the frame's address, 0 when the thread
    /// runs none. Ends with [`RUNTIME_NONE`] where it is shorter.
    pub way: [i32; RUNTIME_WAY],
    /// One of [`RUNTIME_LINKED`], [`RUNTIME_PHP`], [`RUNTIME_RUBY`] and [`RUNTIME_V8`].
    pub kind: u32,
    /// What varies between versions. PHP: in a function, the distance of the pointer to the name
    /// of its file. Ruby: bytes of a frame.
    pub varying: u32,
    /// Linked: in a frame, the word for [`RuntimeFrame::code`].
    pub code: i32,
    /// Linked: in a frame, where it is executing.
    pub instruction: i32,
    /// Linked: bytes of that, 4 (zero-extended) or 8.
    pub instruction_bytes: u32,
    /// Linked: in a frame, the byte for [`RuntimeFrame::extra`].
    pub extra: i32,
    /// Linked: in a frame, the pointer to the caller's frame; null ends the walk.
    pub previous: i32,
    /// Explicit padding.
    pub pad: u32,
    /// V8: its promises.
    pub awaits: Awaits,
    /// Linked: tasks that wait, where they are known.
    pub tasks: Tasks,
}

/// One frame as it was found, not yet interpreted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct RuntimeFrame {
    /// Address of what says which function it is: Python's code object, PHP's function, Ruby's
    /// instruction sequence or (of a method written in C) method entry, what closures of V8's share
    /// (tagged; 0 at the end of the chain).
    pub code: u64,
    /// Where it is executing; 0 where a function is written in C.
    pub instruction: u64,
    /// Linked: the byte at [`RuntimePlan::extra`], or 0; more than a byte for what is not on the stack,
    /// see [`crate::TASK_OUTERMOST`]. PHP: [`PHP_OUTERMOST`], and the line in
    /// the upper half. Ruby: 0.
    pub extra: u64,
}

impl RuntimeFrame {
    /// What stands for the frame in a [`crate::TrieKey::address`].
    #[must_use]
    #[inline(always)]
    pub const fn key(&self) -> u64 {
        // one byte of it does not tell frames apart
        let extra = if self.extra > 0xff { self.extra } else { 0 };
        self.code
            .wrapping_add(self.instruction.rotate_left(32))
            .wrapping_add(extra.rotate_left(16))
    }
}

const _: () = assert!(size_of::<RuntimePlan>() == 176 && align_of::<RuntimePlan>() == 8);
const _: () = assert!(size_of::<RuntimeFrame>() == 24 && align_of::<RuntimeFrame>() == 8);
