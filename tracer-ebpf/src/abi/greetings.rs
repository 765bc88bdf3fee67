//! Records about the first messages of connections that speak neither HTTP nor TLS.

/// Room for a message's first bytes; one more than are kept.
pub const GREETING_BYTES: usize = 128;

/// A message in the ring `GREETINGS`. It may hold what is secret, so it is kept nowhere else, and its
/// reader keeps no more than the protocol and a database's name.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Greeting {
    /// The kernel's `struct sock *`.
    pub sk: u64,
    /// [`crate::Sock::opened_ns`] of the socket.
    pub opened_ns: u64,
    /// Bytes of the call that sent or received it.
    pub len: u32,
    /// Bytes valid in `bytes`.
    pub kept: u32,
    /// Nonzero: the client sent it; else it is the first that came from the server.
    pub sent: u32,
    /// The server's port, host byte order; 0: none.
    pub port: u32,
    /// The beginning of the message.
    pub bytes: [u8; GREETING_BYTES],
}

const _: () = assert!(size_of::<Greeting>() == 160 && align_of::<Greeting>() == 8);
