//! Records about connections of HTTP/2 inside TLS, of which the TLS library knows, and at first not
//! which socket they have.

/// Key of `TLS_HTTP2`: a connection of a TLS library.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct TlsKey {
    /// The library's object, an address of the process.
    pub object: u64,
    /// Process.
    pub tgid: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// Value of `TLS_HTTP2`: a client's connection whose frames are followed before they are encrypted
/// and after they are decrypted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct TlsHttp2 {
    /// What it is known by in `HTTP2`, `STREAMS` and `BLOCKS`, in place of a `struct sock *`, whose
    /// highest bit is always set: when following began, monotonic nanoseconds. Also what stands there
    /// for [`crate::Sock::opened_ns`].
    pub number: u64,
    /// The kernel's `struct sock *` that carries it, 0 while unknown.
    pub sk: u64,
    /// [`crate::Sock::opened_ns`] of that socket.
    pub opened_ns: u64,
    /// Where in the process's memory that which was written last lay.
    pub written_at: u64,
    /// The first bytes of that, as a number.
    pub begins: [u64; 2],
    /// Bytes of it.
    pub written: u32,
    /// Nonzero: it was not seen on a socket yet.
    pub pending: u32,
    /// How often a record that the socket sent had the length of what was written right before.
    pub matches: u32,
    /// Nonzero: what is received is followed.
    pub reads: u32,
}

/// Matches of lengths that tell a socket for sure: one may be a chance.
pub const MATCHES_SURE: u32 = 2;

const _: () = assert!(size_of::<TlsKey>() == 16);
const _: () = assert!(size_of::<TlsHttp2>() == 64 && align_of::<TlsHttp2>() == 8);
