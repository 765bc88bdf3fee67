//! The memory of another process, read as plain values.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

/// Reads a process's memory through `/proc/PID/mem`.
#[derive(Debug)]
pub struct Memory {
    file: File,
}

impl Memory {
    /// Opens the memory of a process.
    ///
    /// # Errors
    /// When the process is gone or may not be read.
    pub fn open(pid: u32) -> io::Result<Memory> {
        let file = File::open(Path::new("/proc").join(pid.to_string()).join("mem"))?;
        Ok(Memory { file })
    }

    /// Fills `into` from `address`; `false` when not all of it is mapped.
    pub fn read(&self, address: u64, into: &mut [u8]) -> bool {
        self.file.read_exact_at(into, address).is_ok()
    }

    /// Reads up to `len` bytes: as many as are mapped at once.
    #[must_use]
    pub fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = self.file.read_at(&mut bytes, address).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }

    /// A 64-bit number.
    #[must_use]
    pub fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)
            .then(|| u64::from_le_bytes(bytes))
    }

    /// A 32-bit number.
    #[must_use]
    pub fn half(&self, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)
            .then(|| u32::from_le_bytes(bytes))
    }

    /// A Go string of at most `max` bytes, given the address of its header.
    #[must_use]
    pub fn string(&self, header: u64, max: usize) -> Option<Vec<u8>> {
        let start = self.word(header)?;
        let len = usize::try_from(self.word(header.checked_add(8)?)?).ok()?;
        if start == 0 || len == 0 || len > max {
            return None;
        }
        let mut bytes = vec![0; len];
        self.read(start, &mut bytes).then_some(bytes)
    }
}
