//! Records about CPython's frames, which the kernel side collects beside a stack copy.
//!
//! A thread finds its `PyThreadState` through thread-local storage (glibc, x86-64): the word at
//! `fsbase + `[`PythonPlan::thread_state`]. That leads to the innermost frame, and each frame to
//! its caller's.

/// Most frames followed.
pub const PYTHON_FRAMES_MAX: usize = 64;

/// [`crate::TrieValue::delta`] of the last native frame of a path on which Python runs: the walk
/// goes on from `node` with one step for each Python frame, innermost first, whose key is
/// [`PythonFrame::key`]; the last one has [`crate::TRIE_END`]. Deltas of these steps mean nothing
/// else.
pub const TRIE_PYTHON: u32 = u32::MAX - 1;

/// How to find the frames of one process; value of a map by process id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct PythonPlan {
    /// From the thread's `fsbase` to the pointer to its state.
    pub thread_state: u32,
    /// In the thread state: the pointer to the innermost frame, or (`c_frame_current` given) to
    /// the `_PyCFrame` that has it.
    pub current: u32,
    /// In the `_PyCFrame`: the pointer to the innermost frame; `u32::MAX`: there is no such step.
    pub c_frame_current: u32,
    /// In a frame: the pointer to its code object.
    pub frame_code: u32,
    /// In a frame: the pointer to the caller's frame; null ends the walk.
    pub frame_previous: u32,
    /// In a frame: where it is executing.
    pub frame_instruction: u32,
    /// Bytes of that: 4 (zero-extended) or 8.
    pub instruction_bytes: u32,
    /// In a frame: the byte for [`PythonFrame::owner`]; `u32::MAX`: there is none.
    pub frame_owner: u32,
}

/// One frame as it was found, not yet interpreted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct PythonFrame {
    /// Address of the code object.
    pub code: u64,
    /// As read at [`PythonPlan::frame_instruction`].
    pub instruction: u64,
    /// As read at [`PythonPlan::frame_owner`], or 0.
    pub owner: u64,
}

impl PythonFrame {
    /// What stands for the frame in a [`crate::TrieKey::address`].
    #[must_use]
    #[inline(always)]
    pub const fn key(&self) -> u64 {
        self.code.wrapping_add(self.instruction.rotate_left(32))
    }
}

const _: () = assert!(size_of::<PythonPlan>() == 32 && align_of::<PythonPlan>() == 4);
const _: () = assert!(size_of::<PythonFrame>() == 24 && align_of::<PythonFrame>() == 8);
