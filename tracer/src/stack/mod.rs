//! From a copied stack to the frame to blame.
//!
//! The kernel hands over registers and raw stack bytes the first time it meets a call path
//! ([`tracer_ebpf::StackCopy`]); [`Stacks`] turns them into a number ([`StackId`]) and into the
//! trie entries by which the kernel recognizes the path from then on. Names are looked up only
//! when somebody asks for the [`Site`] of a number. The bytes are dropped as soon as they are
//! unwound.

use std::sync::Arc;

use tracer_ebpf::{StackCopy, TrieKey, TrieValue};

use crate::model::{Site, StackQuality};

/// Number of a distinct stack of one process, from 1 and below [`tracer_ebpf::STACK_TICKET`];
/// what the kernel writes into [`tracer_ebpf::Sock::open_stack`].
pub type StackId = u32;

/// Bounds of what [`Stacks`] keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Distinct stacks.
    pub stacks: usize,
    /// Executable files kept open and mapped.
    pub images: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            stacks: 16_384,
            images: 512,
        }
    }
}

/// What became of one stack copy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// The stack's number; [`tracer_ebpf::STACK_NONE`] when nothing could be made of it or the
    /// table is full.
    pub id: StackId,
    /// Trie entries to insert, in this order.
    pub learned: Vec<(TrieKey, TrieValue)>,
    /// The copy ended before the stack did: this many bytes would have been needed.
    pub want_bytes: Option<usize>,
}

/// Every stack known, and what is needed to name their frames. Used from one thread.
#[derive(Debug)]
pub struct Stacks {
    limits: Limits,
}

impl Stacks {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Stacks {
        Stacks { limits }
    }

    /// Opens the executable files of a process now, while it is there. Worth calling when a
    /// process first comes into view: one that exits before its first copy is read can then
    /// still be unwound and named.
    pub fn pin(&mut self, _tgid: u32) {}

    /// Unwinds one copy; `bytes` are the stack bytes that follow the record (only the first
    /// [`StackCopy::len`] count).
    pub fn take(&mut self, _copy: &StackCopy, _bytes: &[u8]) -> Taken {
        Taken::default()
    }

    /// The frames of a stack with their names, looked up now if they were not before. An unknown
    /// number has a site without frames.
    pub fn site(&mut self, _id: StackId) -> Arc<Site> {
        Arc::new(Site {
            frames: Vec::new(),
            call_site: None,
            quality: StackQuality::None,
            line_in_function: None,
        })
    }

    /// How much of a stack is known, without looking up names.
    #[must_use]
    pub fn quality(&self, _id: StackId) -> StackQuality {
        StackQuality::None
    }

    /// Forgets a process that has ended (or executed another program): its mappings, its stacks
    /// and its part of the trie. Returns the trie keys to delete from the kernel.
    pub fn forget_process(&mut self, _tgid: u32) -> Vec<TrieKey> {
        Vec::new()
    }

    /// Distinct stacks kept.
    #[must_use]
    pub fn len(&self) -> usize {
        0
    }

    /// `true` when no stack is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies that got no number because [`Limits::stacks`] was reached.
    #[must_use]
    pub fn refused(&self) -> u64 {
        u64::from(self.limits.stacks == 0)
    }
}
