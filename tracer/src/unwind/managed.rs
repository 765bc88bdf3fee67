//! Frames of code that a language runtime made itself: interpreted, or compiled into memory that
//! is in no file.
//!
//! The unwinder knows return addresses and stack slots, a runtime knows its own frame layouts.
//! Where the unwinder meets code that a [`Walker`] claims, the walker says which functions run
//! there, how to reach the caller, and which words of the stack tell this call from another one at
//! the same return address (an interpreter has one return address for all functions).

use crate::{
    memory::{Memory, NoMemory},
    model::Named,
};

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
    /// Its stack pointer, above `slot`: just above, or above arguments that were pushed for the call.
    pub sp: u64,
    /// Its RBP, where known.
    pub fp: Option<u64>,
}

/// Walks the frames of one runtime in one process.
pub trait Walker {
    /// Whether code at this address (the call instruction, for return addresses) is this
    /// runtime's to explain. Asked for every frame, so it must be cheap.
    fn claims(&self, pc: u64) -> bool;

    /// Another stack's frames follow, inwards to outwards.
    fn begin(&mut self) {}

    /// Explains one frame. `stack` reads words of the copied stack, `memory` the process as it is
    /// now, which may have gone on since the copy: what is read there must be checked.
    fn explain(
        &mut self,
        at: Place,
        stack: &dyn Fn(u64) -> Option<u64>,
        memory: &dyn Memory,
    ) -> Option<ManagedFrame>;
}

/// The walkers of one process.
pub struct Walkers<'a> {
    walkers: Vec<&'a mut dyn Walker>,
    memory: &'a dyn Memory,
}

impl std::fmt::Debug for Walkers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} walkers", self.walkers.len())
    }
}

impl<'a> Walkers<'a> {
    /// These walkers, who read that memory, for one stack.
    #[must_use]
    pub fn new(mut walkers: Vec<&'a mut dyn Walker>, memory: &'a dyn Memory) -> Walkers<'a> {
        for walker in &mut walkers {
            walker.begin();
        }
        Walkers { walkers, memory }
    }

    /// A process without code that a runtime made.
    #[must_use]
    pub fn none() -> Walkers<'static> {
        Walkers {
            walkers: Vec::new(),
            memory: &NoMemory,
        }
    }

    /// What the walker who claims it says of a frame; `None` where nobody does, or where he can't
    /// tell.
    pub fn explain(
        &mut self,
        at: Place,
        stack: &dyn Fn(u64) -> Option<u64>,
    ) -> Option<ManagedFrame> {
        let pc = at.pc.wrapping_sub(u64::from(at.returning));
        let walker = self.walkers.iter_mut().find(|walker| walker.claims(pc))?;
        walker.explain(at, stack, self.memory)
    }
}
