//! Records about user stacks.
//!
//! The kernel recognizes a call path it has seen before by walking a *trie* that user space
//! builds from unwound copies: starting at the root with the user instruction pointer and stack
//! pointer, each step looks up (process, node, return address) and learns how many bytes further
//! up the stack the next return address is. A path that reaches an end has a stack id; a path
//! that falls off is copied (registers and stack bytes) for user space to unwind, and gets a
//! *ticket* until its id is known.

/// No stack.
pub const STACK_NONE: u32 = 0;
/// Bit that marks a ticket: the copy with this number is on its way to user space.
pub const STACK_TICKET: u32 = 1 << 31;

/// Taken while connecting.
pub const WHEN_CONNECT: u8 = 1;
/// Taken while accepting.
pub const WHEN_ACCEPT: u8 = 2;
/// Taken at the first send or receive seen on the socket.
pub const WHEN_FIRST_IO: u8 = 3;
/// Taken when a new turn (request) began.
pub const WHEN_REQUEST: u8 = 4;

/// Not a stack: the process replaced its program (`execve`); user space forgets its addresses.
pub const WHEN_EXEC: u8 = 5;

/// Most frames the kernel follows in the trie.
pub const FRAMES_MAX: usize = 96;
/// Smallest stack copy, bytes.
pub const COPY_BYTES_MIN: usize = 16 << 10;
/// The size between.
pub const COPY_BYTES_MIDDLE: usize = 32 << 10;
/// Largest stack copy, bytes.
pub const COPY_BYTES_MAX: usize = 64 << 10;

/// Node that every walk starts from.
pub const TRIE_ROOT: u32 = 0;
/// [`TrieValue::delta`] of a path's last frame: `node` is then the stack id.
pub const TRIE_END: u32 = u32::MAX;
/// Set in [`TrieValue::delta`] where a frame has not the same size at each call (interpreters'):
/// the word below the current slot is then a frame pointer, and the next slot lies where it
/// points, plus the lowest 16 bits, minus [`TRIE_FRAME_BIAS`].
pub const TRIE_FRAME: u32 = 1 << 31;
/// Distance from a frame pointer that [`TRIE_FRAME`] stands for without any other bit, bytes down.
pub const TRIE_FRAME_BIAS: u64 = 1 << 15;

/// Key of `TRIE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct TrieKey {
    /// Instruction pointer (first frame) or return address.
    pub address: u64,
    /// Process whose address space `address` is in.
    pub tgid: u32,
    /// Node reached so far.
    pub node: u32,
}

/// Value of `TRIE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct TrieValue {
    /// Next node, or the stack id when `delta` is [`TRIE_END`].
    pub node: u32,
    /// Bytes from the current slot (at the root: from the stack pointer) up to the slot that
    /// holds the next return address; or [`TRIE_END`].
    pub delta: u32,
}

/// Return addresses in a [`Shape`] at most; longer paths are recognized by the trie alone.
pub const SHAPE_FRAMES: usize = 32;
/// Words of the stack that a [`Shape`] may reach over, a power of two.
pub const SHAPE_WORDS: usize = 256;
/// Entries of `SHAPES`, a power of two.
pub const SHAPES_MAX: u32 = 4_096;

/// Value of `SHAPES`: the native frames of one path as a whole, so that the path taken last from
/// some place can be confirmed by one read, without walking the trie. The index is
/// [`Shape::node`] modulo [`SHAPES_MAX`]. An entry is written only where there was none, and a path
/// is recognized only if every address is there and not zero, so one that is half written
/// recognizes nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Shape {
    /// User instruction pointer.
    pub ip: u64,
    /// Process.
    pub tgid: u32,
    /// [`TrieValue::node`] of the last native frame; 0: no entry.
    pub node: u32,
    /// [`TrieValue::delta`] of the last native frame: [`TRIE_END`] or [`crate::TRIE_RUNTIME`].
    pub end: u32,
    /// Return addresses, at most [`SHAPE_FRAMES`].
    pub frames: u32,
    /// How far above the stack pointer each is, in words of eight bytes; ascending, below
    /// [`SHAPE_WORDS`].
    pub words: [u16; SHAPE_FRAMES],
    /// The return addresses, innermost first.
    pub addresses: [u64; SHAPE_FRAMES],
}

/// Head of a stack copy in the ring buffer `STACKS`. After it come [`crate::RUNTIME_FRAMES_MAX`]
/// [`crate::RuntimeFrame`]s, of which `found_frames` are valid, and then the stack from the address
/// in `sp` on, of which `len` bytes are valid: copies come in fixed sizes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct StackCopy {
    /// The kernel's `struct sock *` it was taken for.
    pub sk: u64,
    /// [`crate::Sock::opened_ns`] of that socket.
    pub opened_ns: u64,
    /// When it was taken, monotonic nanoseconds.
    pub taken_ns: u64,
    /// Process.
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
    /// The ticket in [`crate::Sock::open_stack`] or [`crate::Sock::request_stack`].
    pub ticket: u32,
    /// Bytes of stack that follow and are valid.
    pub len: u32,
    /// One of the `WHEN_*` constants.
    pub when: u32,
    /// Interpreted frames found at the same moment, of [`crate::RUNTIME_FRAMES_MAX`].
    pub found_frames: u32,
    /// User instruction pointer.
    pub ip: u64,
    /// User stack pointer.
    pub sp: u64,
    /// RBP (x86-64).
    pub bp: u64,
    /// RBX, R12, R13, R14, R15 (x86-64): the registers a callee must preserve.
    pub saved: [u64; 5],
    /// Process id of the parent: until it executes another program, a process has its parent's.
    pub parent: u32,
    /// Explicit padding.
    pub pad: u32,
}

const _: () = assert!(size_of::<TrieKey>() == 16);
const _: () = assert!(size_of::<TrieValue>() == 8);
const _: () = assert!(size_of::<Shape>() == 344 && align_of::<Shape>() == 8);
const _: () = assert!(SHAPES_MAX.is_power_of_two());
const _: () = assert!(size_of::<StackCopy>() == 120 && align_of::<StackCopy>() == 8);

/// Key of `COPY_SIZES`, whose value is the number of bytes to copy (u32): call sites whose stack
/// turned out longer than [`COPY_BYTES_MIN`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct CopySizeKey {
    /// User instruction pointer at the copy.
    pub ip: u64,
    /// Process.
    pub tgid: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// Value of `BUDGETS`, by process: copies taken in the present second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The second, on the monotonic clock.
    pub second: u64,
    /// Copies taken in it.
    pub used: u64,
}
