//! The first messages of clients' connections that speak neither HTTP nor TLS: user space tells the
//! protocol by them, and a database's name.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{
        bpf_probe_read_kernel as raw_probe_read_kernel, bpf_probe_read_user as raw_probe_read_user,
    },
    macros::map,
    maps::RingBuf,
};
use tracer_ebpf::{
    Counter, GREETING_BYTES, Greeting, HEADS_HTTP, HEADS_HTTP2, HEADS_PLAINTEXT, HEADS_TLS,
    ROLE_CLIENT, ROLE_SERVER, SOCK_PREEXISTING, STATUS_IN_FAILED, STATUS_IN_TRANSACTION, Sock,
};

use super::{
    helpers::current_thread,
    kernel::read_user,
    maps::{LANE_RUNTIME, SCRATCH, bounded, count},
    plaintext::PLAINTEXTS,
    sockets::entry,
    user_buffer::UserBuffer,
};
use crate::config;

/// Messages on their way to user space.
#[map]
static GREETINGS: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// Turns of a connection whose beginnings are looked at: what is asked for first may be encryption, then
/// comes who asks, then what about.
const TURNS: u32 = 8;
/// `BPF_RB_NO_WAKEUP`: user space looks when it sweeps.
const NO_WAKEUP: u64 = 1;
/// First byte of a password message of PostgreSQL, which holds nothing else.
const PASSWORD: u8 = b'p';
/// The command AUTH of Redis in an array of two or three texts (`*2\r\n$4\r\nAUTH`): where it stands,
/// and what it is.
const COMMAND_AT: u64 = 8;
const AUTH: u32 = u32::from_le_bytes(*b"AUTH");
/// Letters as large ones.
const LARGE: u32 = 0xdfdf_dfdf;

/// Whether the beginning of a client's turn, which was just looked at, is to be passed on.
#[inline(always)]
pub fn is_awaited(sock: &Sock) -> bool {
    const OTHERS: u8 = HEADS_HTTP | HEADS_TLS | HEADS_HTTP2 | HEADS_PLAINTEXT;
    sock.role == ROLE_CLIENT && sock.turns <= TURNS && sock.heads & OTHERS == 0
}

/// Whether what a client receives comes before anything it sends.
#[inline(always)]
pub fn is_first(sock: &Sock) -> bool {
    sock.role == ROLE_CLIENT
        && sock.last_direction() == 0
        && sock.flags & SOCK_PREEXISTING == 0
        && config!(want_heads) != 0
}

/// Whether what a client receives may be answers of a database in the clear.
#[inline(always)]
pub fn may_be_database(sock: &Sock) -> bool {
    const OTHERS: u8 = HEADS_HTTP | HEADS_TLS | HEADS_HTTP2 | HEADS_PLAINTEXT;
    config!(want_heads) != 0
        && sock.role != ROLE_SERVER
        && sock.turns != 0
        && sock.heads & OTHERS == 0
        && sock.response == 0
}

/// Whether what the current call received ends with PostgreSQL's ReadyForQuery in a transaction: a
/// `STATUS_*` constant, else 0. A global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn transaction(bytes: u32) -> u32 {
    // type and length, in network byte order, and a letter
    const READY: u32 = u32::from_le_bytes(*b"Z\0\0\0");
    const LEN: u8 = 5;
    const MESSAGE_BYTES: u32 = 6;
    let buffer = UserBuffer::current(bytes);
    if buffer.at == 0 || buffer.len < bytes || bytes < MESSAGE_BYTES {
        return 0;
    }
    let at = buffer.at + u64::from(bytes - MESSAGE_BYTES);
    let [len, state]: [u8; 2] = read_user(at + 4);
    if read_user::<u32>(at) != READY || len != LEN {
        return 0;
    }
    match state {
        b'T' => u32::from(STATUS_IN_TRANSACTION),
        b'E' => u32::from(STATUS_IN_FAILED),
        _ => 0,
    }
}

/// Bytes of the beginning of a message that may be kept: no password.
#[inline(always)]
fn without_password(buffer: UserBuffer, sent: u32) -> u32 {
    if sent != 0 && read_user::<u8>(buffer.at) == PASSWORD {
        return 0;
    }
    let mut kept = buffer.len;
    if kept >= GREETING_BYTES as u32 {
        kept = GREETING_BYTES as u32 - 1;
    }
    let command: u32 = read_user(buffer.at + COMMAND_AT);
    if command & LARGE == AUTH && kept > COMMAND_AT as u32 + 4 {
        kept = COMMAND_AT as u32 + 4;
    }
    kept
}

/// Longest message that is looked at before it is encrypted: the first are short.
const MESSAGE_BYTES_MAX: u32 = 1_024;

/// Whether the current thread has written a request whose record was not sent yet.
#[inline(always)]
fn request_waits() -> bool {
    match PLAINTEXTS.get_ptr(&current_thread()) {
        // SAFETY: a live map value, which only this thread changes.
        Some(kept) => unsafe { (*kept).bytes != 0 && (*kept).message == 0 },
        None => false,
    }
}

/// The current thread hands these bytes, which are no request, to its TLS library: they are kept, but
/// for passwords, until the record that carries them shows the socket. 0 where there is nothing to
/// keep. A global function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep_message(at: u64, bytes: u32) -> u32 {
    if bytes == 0 || bytes > MESSAGE_BYTES_MAX || request_waits() {
        return 0;
    }
    let kept = without_password(UserBuffer { at, len: bytes }, 1);
    let Some(scratch) = SCRATCH.get_ptr_mut(LANE_RUNTIME) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU; the line has more room than the mask lets through, and
    // the helper checks the source.
    let failed = unsafe {
        raw_probe_read_user(
            (&raw mut (*scratch).head.line).cast::<c_void>(),
            bounded::<{ GREETING_BYTES as u32 - 1 }>(kept),
            at as *const c_void,
        )
    };
    if failed == 0 { kept } else { 0 }
}

/// Hands a message that was kept, and is sent on this socket now inside TLS, to user space, if it is
/// one of a client's first. A global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pass_on_kept(sk: u64, thread: u64) -> u32 {
    const OTHERS: u8 = HEADS_HTTP | HEADS_HTTP2 | HEADS_PLAINTEXT;
    let (Some(sock), Some(message)) = (entry(sk), PLAINTEXTS.get_ptr(&thread)) else {
        return 0;
    };
    if sock.role != ROLE_CLIENT || sock.turns > TURNS || sock.heads & OTHERS != 0 {
        return 0;
    }
    // SAFETY: a live map value, which only this thread changes.
    let (told, kept) = unsafe { ((*message).told, (*message).message) };
    let said = Said {
        len: told,
        kept,
        sent: 1,
    };
    tell(sk, sock, said, |to| {
        // SAFETY: `to` has that room, and so many bytes has the line; the helper checks the source.
        unsafe {
            raw_probe_read_kernel(
                to,
                GREETING_BYTES as u32,
                (&raw const (*message).head.line).cast::<c_void>(),
            )
        }
    })
}

/// What is said of a message beside its bytes.
struct Said {
    /// Bytes in all.
    len: u32,
    /// Those that are kept.
    kept: u32,
    /// By the client.
    sent: u32,
}

/// Hands a message to user space; `copy` writes its bytes, and answers 0 if it could.
#[inline(always)]
fn tell(sk: u64, sock: &Sock, said: Said, copy: impl FnOnce(*mut c_void) -> i64) -> u32 {
    let Some(mut entry) = GREETINGS.reserve::<Greeting>(0) else {
        count(Counter::GreetingRingFull);
        return 0;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the reserved entry is ours until submitted, and what user space reads of it (all but the
    // bytes behind those kept) is written here.
    unsafe {
        (*record).sk = sk;
        (*record).opened_ns = sock.opened_ns;
        (*record).len = said.len;
        (*record).kept = said.kept;
        (*record).sent = said.sent;
        (*record).port = u32::from(sock.remote_port);
        if copy((&raw mut (*record).bytes).cast::<c_void>()) != 0 {
            (*record).kept = 0;
        }
    }
    entry.submit(NO_WAKEUP);
    1
}

/// Hands the first bytes of what the current call transferred to user space, but for passwords. A
/// global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn pass_on(sk: u64, bytes: u32, sent: u32) -> u32 {
    let buffer = UserBuffer::current(bytes);
    let Some(sock) = entry(sk) else { return 0 };
    if buffer.at == 0 {
        return 0;
    }
    let kept = without_password(buffer, sent);
    if kept == 0 {
        return 0;
    }
    let said = Said {
        len: bytes,
        kept,
        sent,
    };
    tell(sk, sock, said, |to| {
        // SAFETY: the mask is less than the room of `to`; the helper checks the source.
        unsafe {
            raw_probe_read_user(
                to,
                bounded::<{ GREETING_BYTES as u32 - 1 }>(kept),
                buffer.at as *const c_void,
            )
        }
    })
}
