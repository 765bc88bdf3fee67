//! The way to the server name in a TLS ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3),
//! over whatever reads its bytes: the memory of a process in the kernel's programs, a slice in tests
//! and under the fuzzer. Both walk it by this very code.

/// `handshake` (RFC 8446 section 5.1), then the first byte of a version 3.x.
const HANDSHAKE: u16 = 22 << 8 | 3;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
/// Extensions looked through; clients send some twenty.
const EXTENSIONS_MAX: u32 = 48;
/// Bytes of a record's header.
const RECORD_HEADER: u64 = 5;
/// Bytes of a handshake message's header.
const MESSAGE_HEADER: u64 = 4;
/// Version and random: what stands before the session's id.
const BEFORE_SESSION: u64 = 2 + 32;

/// Bytes by their address; zeros where there are none.
pub trait Memory {
    /// One byte.
    fn byte(&self, at: u64) -> u8;
    /// Two bytes as a number, the higher one first.
    fn number(&self, at: u64) -> u16;
}

/// Address and length of the server name in the ClientHello that begins at `begin`; nothing where
/// it is none, or names nobody before `end`.
#[inline(always)]
pub fn server_name(memory: &impl Memory, begin: u64, end: u64) -> Option<(u64, u32)> {
    if memory.number(begin) != HANDSHAKE {
        return None;
    }
    server_name_in_message(memory, begin + RECORD_HEADER, end)
}

/// The same of a ClientHello whose record's header is elsewhere.
#[inline(always)]
pub fn server_name_in_message(memory: &impl Memory, begin: u64, end: u64) -> Option<(u64, u32)> {
    if memory.byte(begin) != CLIENT_HELLO {
        return None;
    }
    server_name_in_body(memory, begin + MESSAGE_HEADER, end)
}

/// The same of what follows the header of a ClientHello.
#[inline(always)]
pub fn server_name_in_body(memory: &impl Memory, begin: u64, end: u64) -> Option<(u64, u32)> {
    let mut at = begin + BEFORE_SESSION;
    let session = memory.byte(at);
    at += 1 + u64::from(session);
    at += 2 + u64::from(memory.number(at));
    let compression = memory.byte(at);
    at += 1 + u64::from(compression) + 2;
    let mut extension = 0;
    while extension < EXTENSIONS_MAX {
        if at + 4 > end {
            return None;
        }
        if memory.number(at) == SERVER_NAME {
            // list length, name type, name length
            let len = u32::from(memory.number(at + 7));
            return (at + 9 + u64::from(len) <= end).then_some((at + 9, len));
        }
        at += 4 + u64::from(memory.number(at + 2));
        extension += 1;
    }
    None
}
