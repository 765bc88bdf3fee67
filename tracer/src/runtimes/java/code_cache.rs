//! The code cache: which piece of code an address is in.
//!
//! The cache has up to three heaps of segments. For each segment a byte says how far back the block
//! begins that it belongs to (`memory/heap.cpp`); a block's header says whether it is in use, and
//! behind the header is the blob.

use std::ops::Range;

use super::{
    layout::{Extent, HeapLayout, Layout},
    tables::{Refused, text},
};
use crate::memory::Memory;

/// Heaps looked at.
const HEAPS_MAX: u32 = 8;
/// The cache is no larger (`CodeCache` reserves at most 2 GiB).
const BYTES_MAX: u64 = 2 << 30;
/// Steps back to the block's begin: enough for blocks of 16 MiB.
const STEPS_MAX: u32 = 1024;
/// Mark of a segment in no block.
const UNUSED: u8 = 0xff;
/// Frames of compiled code are no larger.
const FRAME_WORDS_MAX: u32 = 1 << 16;
/// Bytes of a blob's name.
const NAME_MAX: usize = 96;

/// One heap.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Heap {
    code: Range<u64>,
    segments: Range<u64>,
    shift: u32,
}

/// Where code is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeCache {
    bounds: Range<u64>,
    heaps: Vec<Heap>,
}

/// What a piece of code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The interpreter.
    Interpreter,
    /// A compiled method, or what calls a native one.
    Method,
    /// Anything else of the VM's.
    Stub,
}

/// A piece of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Address of the `CodeBlob`.
    pub address: u64,
    /// What it is.
    pub kind: Kind,
    /// Its instructions.
    pub code: Range<u64>,
    /// Words of its frames, the return address included; 0 where they have no fixed size.
    pub frame_words: u32,
}

impl CodeCache {
    /// Finds the heaps.
    ///
    /// # Errors
    /// [`Refused::Starting`] where there are none so far.
    pub fn read(layout: &HeapLayout, memory: &dyn Memory) -> Result<CodeCache, Refused> {
        let bad = || Refused::BadTable("CodeCache");
        let pointer = |address: u64, offset: u64| memory.word(address.wrapping_add(offset));
        let list = memory.word(layout.list).ok_or_else(bad)?;
        let low = memory.word(layout.low).ok_or_else(bad)?;
        let high = memory.word(layout.high).ok_or_else(bad)?;
        if list == 0 || high == 0 || low >= high {
            return Err(Refused::Starting);
        }
        if high - low > BYTES_MAX {
            return Err(bad());
        }
        let len = memory.half(list.wrapping_add(layout.len)).ok_or_else(bad)?;
        let data = pointer(list, layout.data).ok_or_else(bad)?;
        let mut heaps = Vec::new();
        for number in 0..u64::from(len.min(HEAPS_MAX)) {
            let heap = pointer(data, number * 8).ok_or_else(bad)?;
            let space = |at: u64| {
                let space = heap.wrapping_add(at);
                Some(pointer(space, layout.start)?..pointer(space, layout.end)?)
            };
            let code = space(layout.memory).ok_or_else(bad)?;
            let segments = space(layout.segments).ok_or_else(bad)?;
            let shift = memory
                .half(heap.wrapping_add(layout.shift))
                .ok_or_else(bad)?;
            if !(4..=16).contains(&shift) || code.is_empty() || code.start < low || code.end > high
            {
                continue;
            }
            heaps.push(Heap {
                code,
                segments,
                shift,
            });
        }
        if heaps.is_empty() {
            return Err(Refused::Starting);
        }
        Ok(CodeCache {
            bounds: low..high,
            heaps,
        })
    }

    /// Code at any address, for the fuzzer.
    #[cfg(any(test, fuzzing))]
    pub(super) fn anywhere() -> CodeCache {
        CodeCache {
            bounds: 0..u64::MAX,
            heaps: vec![Heap {
                code: 0..u64::MAX,
                segments: 0..u64::MAX,
                shift: 7,
            }],
        }
    }

    /// Whether the VM's code is at this address.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        self.bounds.contains(&address)
    }

    /// The piece of code that an address is in.
    #[must_use]
    pub fn blob(&self, layout: &Layout, address: u64, memory: &dyn Memory) -> Option<Blob> {
        let heap = self
            .heaps
            .iter()
            .find(|heap| heap.code.contains(&address))?;
        let mut segment = (address - heap.code.start) >> heap.shift;
        let mut steps = 0;
        loop {
            let mark = heap.segments.start.checked_add(segment)?;
            if mark >= heap.segments.end || steps > STEPS_MAX {
                return None;
            }
            match memory.byte(mark)? {
                UNUSED => return None,
                0 => break,
                back => segment = segment.checked_sub(u64::from(back))?,
            }
            steps += 1;
        }
        let block = heap.code.start.checked_add(segment << heap.shift)?;
        if memory.byte(block.checked_add(layout.heaps.used)?)? != 1 {
            return None;
        }
        let blob = block.checked_add(layout.heaps.header)?;
        let at = |offset: u64| blob.wrapping_add(offset);
        let code = match layout.blob.code {
            Extent::Addresses(begin, end) => memory.word(at(begin))?..memory.word(at(end))?,
            Extent::Distances(begin, end) => {
                let distance = |offset| memory.half(at(offset)).map(u64::from);
                blob.checked_add(distance(begin)?)?..blob.checked_add(distance(end)?)?
            }
        };
        let size = u64::from(memory.half(at(layout.blob.size))?);
        let inside = blob..blob.checked_add(size)?.min(heap.code.end);
        if !code.contains(&address) || code.start < inside.start || code.end > inside.end {
            return None;
        }
        let frame_words = memory.half(at(layout.blob.frame_words))?;
        let name = text(memory, memory.word(at(layout.blob.name))?, NAME_MAX)?;
        let kind = match name.as_str() {
            "Interpreter" => Kind::Interpreter,
            "nmethod" | "native nmethod" => Kind::Method,
            _ => Kind::Stub,
        };
        Some(Blob {
            address: blob,
            kind,
            code,
            // Some stubs say that theirs is unknown by a negative size.
            frame_words: if frame_words > FRAME_WORDS_MAX {
                0
            } else {
                frame_words
            },
        })
    }
}
