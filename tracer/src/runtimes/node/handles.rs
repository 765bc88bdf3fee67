//! The handles of an event loop: which descriptor belongs to which object.
//!
//! include/uv.h and include/uv/unix.h: the beginning of loops and handles is part of libuv's binary
//! interface, the same in all of its versions 1.

use crate::memory::Memory;

/// Handles of one loop that are looked at.
const HANDLES_MAX: usize = 8_192;

// offsets in uv_loop_t
const LOOP_QUEUE: u64 = 16;
// offsets in uv_handle_t and uv_stream_t
const LOOP: usize = 8;
const KIND: usize = 16;
const QUEUE: u64 = 32;
const DESCRIPTOR: usize = 184;
/// Up to here a handle is read.
const READ: usize = 188;

/// `UV_NAMED_PIPE`.
const PIPE: u32 = 7;
/// `UV_TCP`.
const TCP: u32 = 12;
/// `UV_HANDLE_TYPE_MAX`.
const KINDS: u32 = 18;

/// A handle of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle {
    /// The socket's descriptor.
    pub fd: i32,
    /// Whose it is: Node.js's object in C++.
    pub data: u64,
}

/// The sockets among the handles of the loop at this address.
pub fn sockets(memory: &dyn Memory, at: u64) -> Vec<Handle> {
    let mut found = Vec::new();
    let head = at.wrapping_add(LOOP_QUEUE);
    let mut next = memory.word(head);
    for _ in 0..HANDLES_MAX {
        let Some(queue) = next.filter(|queue| *queue != head) else {
            break;
        };
        let handle = queue.wrapping_sub(QUEUE);
        let mut bytes = [0; READ];
        if !memory.read(handle, &mut bytes) {
            // the last one may lie at the end of what is mapped, and is shorter
            break;
        }
        let word = |at: usize| {
            let bytes = bytes.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let half = |at: usize| {
            let bytes = bytes.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        // A handle knows its loop; what does not is none (any more).
        let kind = half(KIND).unwrap_or_default();
        if word(LOOP) != Some(at) || !(1..KINDS).contains(&kind) {
            break;
        }
        let fd = half(DESCRIPTOR).map_or(-1, u32::cast_signed);
        if matches!(kind, TCP | PIPE) && fd >= 0 {
            let data = word(0).unwrap_or_default();
            found.push(Handle { fd, data });
        }
        next = word(QUEUE as usize);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Handle, Memory, sockets};

    struct Bytes(u64, Vec<u8>);

    impl Memory for Bytes {
        fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
            let at = address.checked_sub(self.0).map(|at| at as usize);
            let bytes = at.and_then(|at| self.1.get(at..at + buffer.len()));
            bytes.map(|bytes| buffer.copy_from_slice(bytes)).is_some()
        }
    }

    #[test]
    fn sockets_are_found_among_timers() {
        let base = 0x1000;
        let mut memory = Bytes(base, vec![0; 0x1000]);
        let mut put = |at: u64, value: u64| {
            let at = (at - base) as usize;
            memory.1[at..at + 8].copy_from_slice(&value.to_le_bytes());
        };
        let (timer, socket) = (0x1200, 0x1400);
        put(base + 16, timer + 32);
        for (handle, kind, next, data) in
            [(timer, 13, socket + 32, 1), (socket, 12, base + 16, 0x77)]
        {
            put(handle, data);
            put(handle + 8, base);
            put(handle + 16, kind);
            put(handle + 32, next);
            put(handle + 184, 9);
        }
        assert_eq!(sockets(&memory, base), [Handle { fd: 9, data: 0x77 }]);
        // another loop's
        memory.1[0x208] = 1;
        assert_eq!(sockets(&memory, base), []);
    }
}
