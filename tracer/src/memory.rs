//! The memory of another process, read as plain values.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

/// Reads a process's memory through `/proc/PID/mem`.
#[derive(Debug)]
pub struct Memory {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Process(File),
    /// Any bytes, again and again over all addresses, for the fuzzer and property tests.
    #[cfg(any(test, fuzzing))]
    Hostile(Vec<u8>),
}

impl Source {
    /// Reads up to as many bytes as there is room for; returns their number.
    fn read_at(&self, into: &mut [u8], address: u64) -> usize {
        match self {
            Source::Process(file) => file.read_at(into, address).unwrap_or(0),
            #[cfg(any(test, fuzzing))]
            Source::Hostile(bytes) => {
                for (at, byte) in (0u64..).zip(into.iter_mut()) {
                    let place = address.wrapping_add(at) % bytes.len().max(1) as u64;
                    *byte = bytes.get(place as usize).copied().unwrap_or_default();
                }
                into.len()
            }
        }
    }
}

impl Memory {
    /// Opens the memory of a process.
    ///
    /// # Errors
    /// When the process is gone or may not be read.
    pub fn open(pid: u32) -> io::Result<Memory> {
        let file = File::open(Path::new("/proc").join(pid.to_string()).join("mem"))?;
        Ok(Memory {
            source: Source::Process(file),
        })
    }

    /// A memory in which these bytes repeat.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn hostile(bytes: &[u8]) -> Memory {
        Memory {
            source: Source::Hostile(bytes.to_vec()),
        }
    }

    /// Fills `into` from `address`; `false` when not all of it is mapped.
    pub fn read(&self, address: u64, into: &mut [u8]) -> bool {
        // What is mapped is read at once.
        self.source.read_at(into, address) == into.len()
    }

    /// Reads up to `len` bytes: as many as are mapped at once.
    #[must_use]
    pub fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = self.source.read_at(&mut bytes, address);
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
