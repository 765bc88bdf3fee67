//! Compiled code: which piece an address is in, what kind it is, and what was inlined there.

use std::{cmp::Ordering, collections::BTreeMap};

use super::{
    functions::{Functions, TABLE_MAX},
    heap::{Heap, Object, object, small},
    positions,
};
use crate::model::Named;

/// How far back from an instruction the beginning of its code is looked for.
const BACK_MAX: u64 = 1 << 20;
/// That much is read at a time.
const CHUNK: u64 = 16 << 10;
/// Objects with code begin at multiples of this, less their header.
const ALIGNMENT: u64 = 32;
/// Pieces of code that are remembered.
const PIECES_MAX: usize = 4_096;
/// Calls inlined into one another.
const INLINED_MAX: usize = 32;
/// Longest bytecode.
const BYTECODES_MAX: u64 = 8 << 20;

/// A piece of compiled code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// What describes it.
    pub code: Object,
    /// The first instruction.
    pub start: u64,
    /// Behind the last one.
    pub end: u64,
    /// How it was made.
    pub kind: Kind,
}

/// How code was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something of the runtime's own, such as a way into the interpreter.
    Stub,
    /// Bytecode by bytecode (Sparkplug).
    Baseline,
    /// Of a whole function, perhaps with others inlined (Maglev, TurboFan).
    Optimized,
}

/// The pieces seen, by their first instruction. Each is read again before it is believed.
#[derive(Debug, Default)]
pub struct Pieces(BTreeMap<u64, Object>);

impl Pieces {
    /// The piece of code that an instruction is in; `from` is where its mapping begins.
    pub fn at(&mut self, heap: Heap<'_>, pc: u64, from: u64) -> Option<Piece> {
        let known = self.0.range(..=pc).next_back();
        if let Some((_, code)) = known
            && let Some(piece) = piece(heap, *code)
            && (piece.start..piece.end).contains(&pc)
        {
            return Some(piece);
        }
        let found = search(heap, pc, from)?;
        if self.0.len() >= PIECES_MAX {
            self.0.clear();
        }
        self.0.insert(found.start, found.code);
        Some(found)
    }
}

/// What a description of code says.
fn piece(heap: Heap<'_>, code: Object) -> Option<Piece> {
    let (types, fields) = (&heap.layout.types, heap.layout.code);
    if heap.kind(code)? != types.code {
        return None;
    }
    let start = if fields.inline {
        code.0.checked_add(fields.start)?
    } else {
        heap.field(code, fields.start)?
    };
    let size = heap.memory.half(code.0.wrapping_add(fields.size))?;
    let flags = heap.memory.half(code.0.wrapping_add(fields.flags))?;
    Some(Piece {
        code,
        start,
        end: start.checked_add(size.into())?,
        // src/objects/code-kind.h has them in this order
        kind: match (flags & fields.kind_mask).cmp(&fields.baseline) {
            Ordering::Less => Kind::Stub,
            Ordering::Equal => Kind::Baseline,
            Ordering::Greater => Kind::Optimized,
        },
    })
}

/// Goes back from an instruction until there is an object that says that it holds it.
fn search(heap: Heap<'_>, pc: u64, from: u64) -> Option<Piece> {
    let (types, header) = (&heap.layout.types, heap.layout.code.header);
    // objects begin a header before an aligned first instruction
    let mut at = (pc & !(ALIGNMENT - 1)).checked_sub(header)?;
    let lowest = from.max(pc.saturating_sub(BACK_MAX));
    let mut chunk = vec![0; usize::try_from(CHUNK).ok()?];
    let mut chunk_from = u64::MAX;
    while at >= lowest {
        if at < chunk_from || at.checked_add(8)? > chunk_from.checked_add(CHUNK)? {
            // one that ends with this object's map
            chunk_from = at.saturating_add(8).saturating_sub(CHUNK).max(lowest);
            let length = usize::try_from(at.checked_add(8)?.checked_sub(chunk_from)?).ok()?;
            if !heap.memory.read(chunk_from, chunk.get_mut(..length)?) {
                return None;
            }
        }
        let skip = usize::try_from(at - chunk_from).ok()?;
        let word = chunk.get(skip..skip + 8)?;
        let word = u64::from_le_bytes(word.try_into().ok()?);
        // instructions look like a pointer to a map hardly ever
        if word & 3 == 1
            && let Some(kind) = object(word).and_then(|map| heap.kind_by_map(map))
        {
            let code = if heap.layout.code.inline {
                (kind == types.code).then_some(Object(at))
            } else if Some(kind) == types.instructions {
                heap.typed_field(Object(at), 8, |t| t == types.code)
            } else {
                None
            };
            if let Some(piece) = code.and_then(|code| piece(heap, code))
                && piece.start == at.checked_add(header)?
            {
                // the nearest one holds it, or none does
                return (piece.start..piece.end).contains(&pc).then_some(piece);
            }
        }
        at = at.checked_sub(ALIGNMENT)?;
    }
    None
}

/// The functions at a place in optimized code, innermost first; `pc` is a return address.
pub fn optimized(
    heap: Heap<'_>,
    functions: &mut Functions,
    piece: Piece,
    pc: u64,
) -> Option<Vec<Named>> {
    let (types, fields, deopt) = (&heap.layout.types, heap.layout.code, heap.layout.deopt);
    let is_bytes = |t: u16| types.byte_arrays.contains(&t);
    let is_array = |t: u16| types.arrays.contains(&t);
    let table = heap.typed_field(piece.code, fields.positions, is_bytes)?;
    let table = heap.bytes(table, TABLE_MAX)?;
    let data = heap.typed_field(piece.code, fields.deoptimization, is_array)?;
    let is_shared = |t: u16| t == types.shared;
    let own = heap.element(data, deopt.shared)?;
    let own = match types.shared_wrapper {
        Some(wrapper) => {
            let wrapper = heap.typed(own, |t| t == wrapper)?;
            heap.typed_field(wrapper, 8, is_shared)?
        }
        None => heap.typed(own, is_shared)?,
    };
    let inlined = u64::try_from(small(heap.element(data, deopt.inlined)?)?).ok()?;
    // the return address belongs to the call before it
    let offset = pc.checked_sub(piece.start)?.checked_sub(1)?;
    let mut position = positions::at(&table, offset);
    let mut found = Vec::new();
    while let Some(inlining) = position.and_then(|p| p.inlining) {
        if found.len() >= INLINED_MAX {
            return None;
        }
        let calls = heap.typed(heap.element(data, deopt.positions)?, is_bytes)?;
        let calls = heap.bytes(calls, TABLE_MAX)?;
        // where it was inlined, and which function
        let call = calls
            .chunks_exact(16)
            .nth(usize::try_from(inlining).ok()?)?;
        let outer = u64::from_le_bytes(call[..8].try_into().ok()?);
        let which = i32::from_le_bytes(call[8..12].try_into().ok()?);
        let which = u64::try_from(which).ok().filter(|n| *n < inlined)?;
        let literals = heap.typed(heap.element(data, deopt.literals)?, is_array)?;
        let shared = heap.typed(heap.element(literals, which)?, is_shared)?;
        let function = functions.get(heap, shared)?;
        found.push(function.at(position.and_then(|p| p.offset), true));
        position = positions::Position::new(outer);
    }
    let function = functions.get(heap, own)?;
    found.push(function.at(position.and_then(|p| p.offset), false));
    Some(found)
}

/// The place in the bytecode that baseline code returns to.
pub fn baseline_offset(heap: Heap<'_>, piece: Piece, pc: u64, bytecodes: Object) -> Option<u64> {
    let (types, fields) = (&heap.layout.types, heap.layout.code);
    let is_bytes = |t: u16| types.byte_arrays.contains(&t);
    let table = heap.typed_field(piece.code, fields.positions, is_bytes)?;
    let table = heap.bytes(table, TABLE_MAX)?;
    let length = heap.length(bytecodes).filter(|n| *n <= BYTECODES_MAX)?;
    let mut code = vec![0; usize::try_from(length).ok()?];
    let data = bytecodes.0.wrapping_add(heap.layout.bytecode_data);
    if !heap.memory.read(data, &mut code) {
        return None;
    }
    let offset = pc.checked_sub(piece.start)?;
    positions::baseline_bytecode(&table, offset, &code, &heap.layout.bytecode_sizes)
}
