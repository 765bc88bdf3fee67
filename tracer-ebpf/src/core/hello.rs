//! The server name in a TLS ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3). Of all that
//! it says only the name is copied.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_user as raw_probe_read_user;
use tracer_ebpf::{Counter, HEAD_TLS, HOST_BYTES, HeadKey, LINE_BYTES};

use super::{
    kernel::read_user,
    maps::{HEADS, SCRATCH, bounded, count},
    sockets::entry,
};

/// `handshake` (RFC 8446 section 5.1), then version 3.x.
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
/// Extensions looked through; clients send some twenty.
const EXTENSIONS_MAX: u32 = 48;
/// Record header, handshake header, version and random: what stands before the session's id.
const BEFORE_SESSION: u64 = 5 + 4 + 2 + 32;

#[inline(always)]
fn number(at: u64) -> u16 {
    u16::from_be_bytes(read_user(at))
}

/// Puts the server name of the ClientHello in this buffer into the lane's head; 0 where it is none,
/// or names nobody within its `len` bytes. A global function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep_server_name(lane: u32, buffer: u64, len: u32) -> u32 {
    let begins: [u8; 6] = read_user(buffer);
    if begins[0] != HANDSHAKE || begins[1] != 3 || begins[5] != CLIENT_HELLO {
        return 0;
    }
    let end = buffer + u64::from(len);
    let mut at = buffer + BEFORE_SESSION;
    let session: u8 = read_user(at);
    at += 1 + u64::from(session);
    at += 2 + u64::from(number(at));
    let compression: u8 = read_user(at);
    at += 1 + u64::from(compression) + 2;
    let mut extension = 0;
    while extension < EXTENSIONS_MAX {
        if at + 4 > end {
            return 0;
        }
        if number(at) == SERVER_NAME {
            // list length, name type, name length
            let name_len = u32::from(number(at + 7));
            if at + 9 + u64::from(name_len) > end {
                return 0;
            }
            return take_name(lane, at + 9, name_len);
        }
        at += 4 + u64::from(number(at + 2));
        extension += 1;
    }
    0
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
    let head = unsafe { &mut (*scratch).head };
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

/// Keeps the server name of the ClientHello in this buffer as the socket's first head; 0 where there
/// is none. A global function, see [`super::transfers::is_stale`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep_hello(sk: u64, lane: u32, buffer: u64, len: u32) -> u32 {
    if keep_server_name(lane, buffer, len) == 0 {
        return 0;
    }
    let (Some(scratch), Some(sock)) = (SCRATCH.get_ptr_mut(lane), entry(sk)) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    let head = unsafe { &mut (*scratch).head };
    head.opened_ns = sock.opened_ns;
    head.turn = 0;
    if HEADS.insert(&HeadKey { sk, latest: 0 }, head, 0).is_err() {
        count(Counter::HeadMapFull);
        return 0;
    }
    1
}
