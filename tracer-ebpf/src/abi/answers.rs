//! Records about names that processes resolve.

/// Room for an answer's first bytes; one more than are kept.
pub const ANSWER_BYTES: usize = 512;

/// A DNS message that a process received, in the ring `ANSWERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Answer {
    /// When, monotonic nanoseconds.
    pub at_ns: u64,
    /// Process.
    pub tgid: u32,
    /// Bytes valid in `bytes`.
    pub kept: u32,
    /// Nonzero: it came by TCP, behind its length.
    pub stream: u32,
    /// Explicit padding.
    pub pad: u32,
    /// The beginning of the message.
    pub bytes: [u8; ANSWER_BYTES],
}

const _: () = assert!(size_of::<Answer>() == 536 && align_of::<Answer>() == 8);
