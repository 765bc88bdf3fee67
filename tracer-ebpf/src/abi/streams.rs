//! Records about the streams of HTTP/2, as their frames show them (RFC 9113 section 4.1).

/// A request was sent.
pub const STREAM_REQUESTED: u32 = 1;
/// A part of the response came.
pub const STREAM_ANSWERED: u32 = 2;

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 9;
/// Capacity of [`Flow::header`].
pub const FRAME_ROOM: usize = 16;

/// Most bytes that are kept of a header block, and one.
pub const BLOCK_BYTES_MAX: usize = 2_048;

/// Where one direction of a connection stands.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Flow {
    /// Bytes of the current frame's payload that are still to come.
    pub left: u32,
    /// Bytes of the next frame's header that came already.
    pub have: u32,
    /// Stream of the current frame.
    pub stream: u32,
    /// Type of the current frame.
    pub kind: u8,
    /// Flags of the current frame.
    pub flags: u8,
    /// Nonzero: nothing of its payload was passed yet.
    pub fresh: u8,
    /// Explicit padding.
    pub pad: u8,
    /// The header of the frame, or its beginning.
    pub header: [u8; FRAME_ROOM],
}

/// Value of `HTTP2`, whose key is the kernel's `struct sock *` (u64): a client's connection whose
/// frames are followed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Http2 {
    /// [`crate::Sock::opened_ns`] of the socket it belongs to.
    pub opened_ns: u64,
    /// Since when no frame was missed. What became of streams that are older is not known.
    pub since_ns: u64,
    /// Largest number of a stream that the client opened.
    pub latest: u32,
    /// Header blocks that were sent since following began, by which a lost one is noticed.
    pub blocks: u32,
    /// Nonzero: it speaks HTTP/2, because it began with the preface or many frames fit.
    pub sure: u32,
    /// Explicit padding.
    pub pad: u32,
    /// What is received, and what is sent.
    pub flows: [Flow; 2],
}

/// Key of `STREAMS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct StreamKey {
    /// The kernel's `struct sock *`.
    pub sk: u64,
    /// Number of the stream.
    pub stream: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// Value of `STREAMS`: a stream that a client opened and that neither end has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Stream {
    /// [`crate::Sock::opened_ns`] of its connection.
    pub opened_ns: u64,
    /// When its request was sent, monotonic nanoseconds.
    pub began_ns: u64,
    /// When a part of the response last came, monotonic nanoseconds; 0: none did.
    pub progress_ns: u64,
    /// Stack of whoever sent the request, as [`crate::Sock::request_stack`].
    pub stack: u32,
    /// Process.
    pub tgid: u32,
    /// [`STREAM_REQUESTED`] or [`STREAM_ANSWERED`].
    pub state: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// What stands before the bytes of a header block in the ring `BLOCKS`. It holds values of headers,
/// so it is kept nowhere else.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Block {
    /// The kernel's `struct sock *`.
    pub sk: u64,
    /// [`crate::Sock::opened_ns`] of the socket.
    pub opened_ns: u64,
    /// Stream.
    pub stream: u32,
    /// [`Http2::blocks`], this one included.
    pub number: u32,
    /// Bytes of the payload that follow.
    pub len: u32,
    /// Flags of the frame.
    pub flags: u8,
    /// Nonzero: the block goes on.
    pub cut: u8,
    /// Explicit padding.
    pub pad: u16,
}

const _: () = assert!(size_of::<Flow>() == 32);
const _: () = assert!(size_of::<Http2>() == 96 && align_of::<Http2>() == 8);
const _: () = assert!(size_of::<StreamKey>() == 16);
const _: () = assert!(size_of::<Stream>() == 40 && align_of::<Stream>() == 8);
const _: () = assert!(size_of::<Block>() == 32);
