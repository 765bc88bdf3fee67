//! Frames of code that a language runtime made itself: interpreted, or compiled into memory that
//! is in no file.
//!
//! The unwinder knows return addresses and stack slots, a runtime knows its own frame layouts.
//! Where the unwinder meets code that a [`Walker`] claims, the walker says which functions run
//! there, how to reach the caller, and which words of the stack tell this call from another one at
//! the same return address (an interpreter has one return address for all functions).

use crate::symbols::symbolize::Named;

/// Memory of a process, for whoever reads a runtime's structures. Every read may fail: the process
/// goes on, and what it holds is not trusted.
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

    /// One byte.
    fn byte(&self, address: u64) -> Option<u8> {
        let mut byte = [0];
        self.read(address, &mut byte).then_some(byte[0])
    }
}

/// Where an unwinder stands: the registers of one frame. What it does not know is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Instruction pointer of the innermost frame, return address of the others.
    pub pc: u64,
    /// `true` for a return address: the instruction that runs is the call before it.
    pub returning: bool,
    /// Stack pointer.
    pub sp: u64,
    /// RBP.
    pub fp: Option<u64>,
}

/// What a walker made of one frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ManagedFrame {
    /// The functions that run here, innermost first: those inlined before the one they are
    /// inlined into. Empty for a stub of the runtime, which is not shown. A function that could
    /// not be named (the self-check failed) is left out, and `doubt` says why.
    pub functions: Vec<Named>,
    /// Stack addresses whose words, together with the return address, tell this call from others:
    /// the method and the position in it of an interpreted frame. Ascending.
    pub tells: Vec<u64>,
    /// Where the caller stands. `None` where the walker knows no way on: then unwinding ends as
    /// truncated.
    pub caller: Option<Caller>,
    /// Why functions are missing, in a few words; `None` when none are.
    pub doubt: Option<&'static str>,
}

/// How to go on from a managed frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The stack address that holds the return address.
    pub slot: u64,
    /// The return address.
    pub pc: u64,
    /// Its stack pointer, just above `slot`.
    pub sp: u64,
    /// Its RBP, where known.
    pub fp: Option<u64>,
}

/// Walks the frames of one runtime in one process.
pub trait Walker {
    /// Whether code at this address (the call instruction, for return addresses) is this
    /// runtime's to explain. Asked for every frame, so it must be cheap.
    fn claims(&self, pc: u64) -> bool;

    /// Explains one frame. `stack` reads words of the copied stack, `memory` the process as it is
    /// now, which may have gone on since the copy: what is read there must be checked.
    fn explain(
        &mut self,
        at: Place,
        stack: &dyn Fn(u64) -> Option<u64>,
        memory: &dyn Memory,
    ) -> Option<ManagedFrame>;
}
