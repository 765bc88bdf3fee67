//! The server name in a TLS ClientHello, found by [`tracer_ebpf::hello`]. Of all that it says only
//! the name is copied.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_user as raw_probe_read_user;
use tracer_ebpf::{
    Counter, HEAD_TLS, HOST_BYTES, HeadKey, LINE_BYTES,
    hello::{self, Memory},
};

use super::{
    kernel::read_user,
    maps::{HEADS, SCRATCH, bounded, count},
    packed::unpack,
    sockets::entry,
    user_buffer::UserBuffer,
};

/// The memory of the process whose system call runs.
struct Process;

impl Memory for Process {
    #[inline(always)]
    fn byte(&self, at: u64) -> u8 {
        read_user(at)
    }

    #[inline(always)]
    fn number(&self, at: u64) -> u16 {
        u16::from_be_bytes(read_user(at))
    }
}

/// How a hello is kept: as the socket's first head, or its latest, where a tunnel was asked for before.
pub const HELLO_FIRST: u32 = 0;
/// See [`HELLO_FIRST`].
pub const HELLO_LATEST: u32 = 1;
/// As its first; the record's header lies elsewhere.
pub const HELLO_WITHOUT_HEADER: u32 = 2;
/// The same, and that of the message does, too.
pub const HELLO_BODY: u32 = 3;

/// Puts the server name of the ClientHello in this buffer into the lane's head; 0 where it is none,
/// or names nobody within its `len` bytes. A global function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep_server_name(lane: u32, buffer: u64, len: u32, how: u32) -> u32 {
    let end = buffer + u64::from(len);
    let name = match how {
        HELLO_WITHOUT_HEADER => hello::server_name_in_message(&Process, buffer, end),
        HELLO_BODY => hello::server_name_in_body(&Process, buffer, end),
        _ => hello::server_name(&Process, buffer, end),
    };
    match name {
        Some((at, name_len)) => take_name(lane, at, name_len),
        None => 0,
    }
}

#[inline(always)]
fn take_name(lane: u32, at: u64, len: u32) -> u32 {
    if len == 0 || len > HOST_BYTES as u32 {
        return 0;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    let head = unsafe {
        (*scratch).composed.forget();
        &mut (*scratch).head
    };
    head.line_len = HEAD_TLS;
    head.host_len = len as u16;
    head.line = [0; LINE_BYTES];
    head.host = [0; HOST_BYTES];
    // SAFETY: at most as many bytes as the host has, and the scratch has more behind it than the
    // mask; the helper checks the source.
    let failed = unsafe {
        raw_probe_read_user(
            head.host.as_mut_ptr().cast::<c_void>(),
            bounded::<0x7f>(len),
            at as *const c_void,
        )
    };
    u32::from(failed == 0)
}

/// Keeps the server name of the ClientHello in this buffer as the socket's first head, or as `how` says;
/// 0 where there is none. A global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep_hello(sk: u64, lane: u32, buffer: u64, len: u32, how: u32) -> u32 {
    if keep_server_name(lane, buffer, len, how) == 0 {
        return 0;
    }
    let (Some(scratch), Some(sock)) = (SCRATCH.get_ptr_mut(lane), entry(sk)) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    let head = unsafe { &mut (*scratch).head };
    head.opened_ns = sock.opened_ns;
    let latest = u64::from(how == HELLO_LATEST);
    head.turn = if latest == 0 { 0 } else { sock.turns };
    if HEADS.insert(&HeadKey { sk, latest }, head, 0).is_err() {
        count(Counter::HeadMapFull);
        return 0;
    }
    1
}

/// Bytes of a record's header, and with that of a handshake message.
const RECORD_HEADER_BYTES: u32 = 5;
const HEADERS_BYTES: u32 = 9;

/// Keeps a hello whose headers, `len` bytes at `at`, are a piece of their own, as Erlang's are. A global
/// function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn hello_in_pieces(sk: u64, lane: u32, at: u64, len: u32) -> u32 {
    const CLIENT_HELLO: u8 = 1;
    let how = match len {
        RECORD_HEADER_BYTES => HELLO_WITHOUT_HEADER,
        HEADERS_BYTES if read_user::<u8>(at + 5) == CLIENT_HELLO => HELLO_BODY,
        _ => return 0,
    };
    let rest = UserBuffer::behind_first();
    if rest.at == 0 {
        return 0;
    }
    keep_hello(sk, lane, rest.at, rest.len, how)
}

/// Looks at what a server receives behind the header of a TLS record, which many libraries read by
/// itself; 1 where it is a hello that names a server. `place` has the lane and the bytes. A global
/// function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn received_hello(sk: u64, place: u64) -> u32 {
    let (lane, bytes) = unpack(place);
    let buffer = UserBuffer::current(bytes);
    if buffer.at == 0 {
        return 0;
    }
    keep_hello(sk, lane, buffer.at, buffer.len, HELLO_WITHOUT_HEADER)
}
