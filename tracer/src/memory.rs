//! The memory of another process, read as plain values.
//!
//! Whoever reads a runtime's structures gets a [`Memory`], never the process: what serves it may
//! be `/proc/PID/mem`, another process that is allowed to read it, or bytes of a test.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

/// A page: what is mapped is mapped in such.
const PAGE: u64 = 4096;

/// Memory of a process. Every read may fail: the process goes on, and what it holds is not trusted.
pub trait Memory {
    /// Fills `buffer` from `address`; `false` when any of it can't be read.
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool;

    /// A 64-bit word, little endian.
    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)
            .then(|| u64::from_le_bytes(bytes))
    }

    /// A 32-bit word, little endian.
    fn half(&self, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)
            .then(|| u32::from_le_bytes(bytes))
    }

    /// A signed 32-bit integer, little endian.
    fn int(&self, address: u64) -> Option<i32> {
        self.half(address).map(u32::cast_signed)
    }

    /// One byte.
    fn byte(&self, address: u64) -> Option<u8> {
        let mut byte = [0];
        self.read(address, &mut byte).then_some(byte[0])
    }

    /// Up to `len` bytes from `address`: as many as can be read without a gap.
    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        if self.read(address, &mut bytes) {
            return bytes;
        }
        let mut done = 0;
        while done < len {
            let at = address.wrapping_add(done as u64);
            let page = usize::try_from(PAGE - at % PAGE).unwrap_or(len);
            let end = len.min(done.saturating_add(page));
            let part = bytes.get_mut(done..end);
            if !part.is_some_and(|part| self.read(at, part)) {
                break;
            }
            done = end;
        }
        bytes.truncate(done);
        bytes
    }
}

/// Memory that can be read for a time only: what a hostile program pretends to have is then not
/// followed to its end.
pub struct Budgeted<'a> {
    memory: &'a dyn Memory,
    until: Instant,
}

impl<'a> Budgeted<'a> {
    /// Reads fail after this time from now.
    #[must_use]
    pub fn new(memory: &'a dyn Memory, time: Duration) -> Budgeted<'a> {
        Budgeted {
            memory,
            until: Instant::now() + time,
        }
    }
}

impl std::fmt::Debug for Budgeted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budgeted").finish_non_exhaustive()
    }
}

impl Memory for Budgeted<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        Instant::now() < self.until && self.memory.read(address, buffer)
    }
}

/// The memory of a process through `/proc/PID/mem`.
#[derive(Debug)]
pub struct ProcessMemory(File);

impl ProcessMemory {
    /// Opens the memory of a process.
    ///
    /// # Errors
    /// When the process is gone or may not be read.
    pub fn open(pid: u32) -> io::Result<ProcessMemory> {
        File::open(Path::new("/proc").join(pid.to_string()).join("mem")).map(ProcessMemory)
    }
}

impl Memory for ProcessMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.0.read_exact_at(buffer, address).is_ok()
    }
}

/// No memory at all: of a process that is gone.
#[derive(Debug, Clone, Copy)]
pub struct NoMemory;

impl Memory for NoMemory {
    fn read(&self, _address: u64, _buffer: &mut [u8]) -> bool {
        false
    }
}

/// Any bytes, again and again over all addresses, for the fuzzer and property tests.
#[cfg(any(test, fuzzing))]
#[derive(Debug, Clone, Copy)]
pub struct Repeated<'a>(pub &'a [u8]);

#[cfg(any(test, fuzzing))]
impl Memory for Repeated<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let len = self.0.len().max(1) as u64;
        for (at, byte) in (0u64..).zip(buffer.iter_mut()) {
            let place = usize::try_from(address.wrapping_add(at) % len).unwrap_or_default();
            *byte = self.0.get(place).copied().unwrap_or_default();
        }
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;

    /// One page and a half.
    struct Half;

    impl Memory for Half {
        fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
            buffer.fill(7);
            address + buffer.len() as u64 <= 0x2800
        }
    }

    #[test]
    fn bytes_end_with_the_last_page_that_can_be_read() {
        assert_eq!(Half.bytes(0x1800, 16).len(), 16);
        assert_eq!(Half.bytes(0x1800, 0x2000).len(), 0x800);
        assert_eq!(Half.bytes(0x3000, 16).len(), 0);
        assert_eq!(Half.word(0x1000), Some(0x0707_0707_0707_0707));
        assert_eq!(Half.byte(0x2800), None);
    }
}
