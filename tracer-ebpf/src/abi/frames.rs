//! Records about the frames of interpreters, which the kernel side collects beside a stack copy.
//!
//! An interpreter keeps its frames in structures of its own: linked to their callers' (CPython,
//! PHP), or side by side (Ruby). A [`RuntimePlan`] leads from the thread to the innermost one, and
//! from each to the next.

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
    /// In a frame: the word for [`RuntimeFrame::code`].
    pub code: i32,
    /// In a frame: where it is executing.
    pub instruction: i32,
    /// Bytes of that: 4 (zero-extended) or 8.
    pub instruction_bytes: u32,
    /// In a frame: [`RuntimeFrame::extra`].
    pub extra: i32,
    /// Bytes of that: 1, which does not tell frames apart, or 8, which does.
    pub extra_bytes: u32,
    /// Of eight bytes: they are a pointer, and the word at this distance from where it points is
    /// taken instead.
    pub extra_next: i32,
    /// In a frame: the pointer to the caller's frame; null ends the walk.
    pub previous: i32,
    /// Without `previous`: the caller's frame lies this much further on. The walk does not end
    /// but at [`RUNTIME_FRAMES_MAX`], or at the end of a path that is known.
    pub stride: u32,
}

/// One frame as it was found, not yet interpreted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct RuntimeFrame {
    /// What is executed: as read at [`RuntimePlan::code`].
    pub code: u64,
    /// As read at [`RuntimePlan::instruction`].
    pub instruction: u64,
    /// As read by [`RuntimePlan::extra`], or 0.
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

const _: () = assert!(size_of::<RuntimePlan>() == 56 && align_of::<RuntimePlan>() == 8);
const _: () = assert!(size_of::<RuntimeFrame>() == 24 && align_of::<RuntimeFrame>() == 8);
