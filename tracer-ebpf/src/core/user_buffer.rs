//! What a program sends or has received, where it is in the program's own memory.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_user as raw_probe_read_user;

use super::{
    kernel::read_user,
    maps::{Scratch, bounded},
    task::current_call,
};

/// Most bytes looked at.
pub const WINDOW_BYTES: u32 = 1024;

/// The beginning of what the current call sends or received.
#[derive(Clone, Copy)]
pub struct UserBuffer {
    /// Its address, 0 where none can be found (io_uring, sendfile, splice).
    pub at: u64,
    /// Bytes of it that lie there; the rest of the call's is elsewhere.
    pub len: u32,
}

/// Empty pieces that may stand before what is sent: Erlang's drivers put one there.
const EMPTY_MAX: u32 = 2;

/// The `struct iovec { base, len }` that a vector begins with, but for empty ones, and where the next
/// is. As bytes were transferred, there is one.
#[inline(always)]
fn first_piece(vector: u64) -> ([u64; 2], u64) {
    let mut at = vector;
    let mut piece: [u64; 2] = read_user(at);
    let mut i = 0;
    while i < EMPTY_MAX {
        if piece[1] != 0 {
            break;
        }
        at += 16;
        piece = read_user(at);
        i += 1;
    }
    (piece, at + 16)
}

/// The vector of the current call, which sends or receives by one; 0: it does not. System call numbers
/// of x86-64.
#[inline(always)]
fn vector_of(number: u64, argument: u64) -> u64 {
    match number {
        // readv, writev: the vector
        19 | 20 => argument,
        // sendmsg, recvmsg, sendmmsg, recvmmsg: struct user_msghdr, msg_iov at 16
        46 | 47 | 299 | 307 => read_user(argument + 16),
        _ => 0,
    }
}

impl UserBuffer {
    /// That of the current send or receive call, which is about this many bytes. System call
    /// numbers of x86-64.
    #[inline(always)]
    pub fn current(bytes: u32) -> UserBuffer {
        let none = UserBuffer { at: 0, len: 0 };
        let Some(call) = current_call() else {
            return none;
        };
        let argument = call.second;
        // read, write, sendto, recvfrom: the buffer
        if matches!(call.number, 0 | 1 | 44 | 45) {
            return UserBuffer {
                at: argument,
                len: bytes,
            };
        }
        let vector = vector_of(call.number, argument);
        if vector == 0 {
            return none;
        }
        let ([at, len], _) = first_piece(vector);
        let len = if len < u64::from(bytes) {
            len as u32
        } else {
            bytes
        };
        UserBuffer { at, len }
    }

    /// The piece behind it in the vector of the current call; empty where there is none.
    #[inline(always)]
    pub fn behind_first() -> UserBuffer {
        let none = UserBuffer { at: 0, len: 0 };
        let Some(call) = current_call() else {
            return none;
        };
        let vector = vector_of(call.number, call.second);
        if vector == 0 {
            return none;
        }
        let (_, next) = first_piece(vector);
        let [at, len]: [u64; 2] = read_user(next);
        UserBuffer {
            at,
            len: len as u32,
        }
    }

    /// Copies its beginning into the lane's window; the number of bytes, 0 where it can't be read.
    #[inline(always)]
    pub fn look(self, scratch: *mut Scratch) -> u32 {
        self.look_at(WINDOW_BYTES, scratch)
    }

    /// The same of at most so many bytes.
    #[inline(always)]
    pub fn look_at(self, most: u32, scratch: *mut Scratch) -> u32 {
        let len = if self.len > most { most } else { self.len };
        // SAFETY: this program's room on this CPU, which is larger than the mask; the helper checks
        // the source.
        let failed = unsafe {
            raw_probe_read_user(
                (&raw mut (*scratch).window).cast::<c_void>(),
                bounded::<{ 2 * WINDOW_BYTES - 1 }>(len),
                self.at as *const c_void,
            )
        };
        if failed != 0 { 0 } else { len }
    }
}

/// All of what the current call sends or has received, piece by piece.
#[repr(C)]
pub struct Pieces {
    /// Address of what is left of the present piece.
    pub at: u64,
    /// Bytes of it.
    pub len: u32,
    /// Bytes of the call that were not passed yet.
    pub left: u32,
    /// Where the next `struct iovec` is; 0: there is one piece only.
    vector: u64,
}

impl Pieces {
    /// Those of the current call, which is about this many bytes; `None` where they can't be found.
    /// System call numbers of x86-64.
    #[inline(always)]
    pub fn current(bytes: u32) -> Option<Pieces> {
        let call = current_call()?;
        let argument = call.second;
        let (at, vector) = match call.number {
            0 | 1 | 44 | 45 => (argument, 0),
            19 | 20 => (0, argument),
            46 | 47 => (0, read_user(argument + 16)),
            _ => return None,
        };
        Some(Pieces {
            at,
            len: if at == 0 { 0 } else { bytes },
            left: bytes,
            vector,
        })
    }

    /// One piece, of that many bytes.
    #[inline(always)]
    pub fn one(at: u64, bytes: u32) -> Pieces {
        Pieces {
            at,
            len: bytes,
            left: bytes,
            vector: 0,
        }
    }

    /// Goes to the next piece; `false` where there can't be one.
    #[inline(always)]
    pub fn next(&mut self) -> bool {
        // struct iovec { base, len }
        let [at, len]: [u64; 2] = read_user(self.vector);
        self.at = at;
        self.len = if len < u64::from(self.left) {
            len as u32
        } else {
            self.left
        };
        let more = self.vector != 0;
        self.vector += 16;
        more
    }

    /// Passes some bytes of the present piece.
    #[inline(always)]
    pub fn pass(&mut self, bytes: u32) {
        self.at += u64::from(bytes);
        self.len -= bytes;
        self.left -= bytes;
    }
}
