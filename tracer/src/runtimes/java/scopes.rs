//! Which methods run at a place in compiled code: the compiled one and those inlined into it.
//!
//! For each place that can be returned to, the compiler left a `PcDesc` that leads to a chain of
//! scopes, from the innermost inlined method out: the place of the next scope, the method's number
//! among the references, and the position in its bytecode (`code/debugInfo.hpp`,
//! `code/pcDesc.hpp`).

use super::{
    code_cache::Blob,
    layout::{CompiledLayout, Extent, Handler, Layout, Metadata, Parts},
    numbers::Numbers,
};
use crate::memory::Memory;

/// Inlined methods followed at one place.
const DEPTH_MAX: usize = 64;
/// Bytes of positions of one compiled method.
const POSITIONS_MAX: u64 = 4 << 20;
/// Bytes of scopes of one compiled method.
const SCOPES_MAX: u64 = 8 << 20;
/// A scope begins within so many bytes of its place: three numbers.
const SCOPE_BYTES: u64 = 16;
/// Places read at once.
const CHUNK: usize = 4096;

/// A method and the position in its bytecode; the position is unknown where the method has none
/// (native) or it is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Address of the `Method`.
    pub method: u64,
    /// Position in its bytecode.
    pub position: Option<u32>,
}

/// What runs at a place in compiled code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scopes {
    /// Innermost first; never empty.
    pub scopes: Vec<Scope>,
    /// The place is described exactly; if not, the compiled method alone is known.
    pub exact: bool,
}

/// Where the parts are in memory.
struct Found {
    positions: std::ops::Range<u64>,
    scopes: std::ops::Range<u64>,
    metadata: std::ops::Range<u64>,
}

/// Whether a frame that returns to `pc` was deoptimized: it will go on in the interpreter.
#[must_use]
pub fn is_deoptimized(layout: &CompiledLayout, blob: &Blob, pc: u64, memory: &dyn Memory) -> bool {
    layout.deoptimized.iter().any(|handler| match handler {
        Handler::Address(at) => memory.word(blob.address.wrapping_add(*at)) == Some(pc),
        Handler::Distance(at) => {
            memory
                .half(blob.address.wrapping_add(*at))
                .and_then(|distance| blob.address.checked_add(u64::from(distance)))
                == Some(pc)
        }
    })
}

/// What runs at `pc` in a compiled method.
#[must_use]
pub fn at(layout: &Layout, blob: &Blob, pc: u64, memory: &dyn Memory) -> Option<Scopes> {
    let method = memory.word(blob.address.wrapping_add(layout.compiled.method))?;
    let outermost = Scopes {
        scopes: vec![Scope {
            method,
            position: None,
        }],
        exact: false,
    };
    let chain = || {
        let found = parts(layout, blob, memory)?;
        let distance = u32::try_from(pc.checked_sub(blob.code.start)?).ok()?;
        let start = position(&layout.compiled, &found, distance, memory)?;
        chain(&layout.compiled, &found, start, method, memory)
    };
    Some(match chain() {
        Some(scopes) => Scopes {
            scopes,
            exact: true,
        },
        None => outermost,
    })
}

/// Where the parts of a compiled method are, each of a plausible size.
fn parts(layout: &Layout, blob: &Blob, memory: &dyn Memory) -> Option<Found> {
    let address = blob.address;
    let half = |at: u64| memory.half(address.wrapping_add(at)).map(u64::from);
    let word = |at: u64| memory.word(address.wrapping_add(at));
    let found = match layout.compiled.parts {
        Parts::Behind {
            metadata,
            scopes,
            positions,
            end,
        } => {
            let from = |at| address.checked_add(half(at)?);
            let (scopes, positions) = (word(scopes)?, from(positions)?);
            Found {
                metadata: from(metadata)?..scopes,
                scopes: scopes..positions,
                positions: positions..from(end)?,
            }
        }
        Parts::Apart {
            data,
            size,
            positions,
            scopes,
            metadata,
        } => {
            let data = word(data)?;
            let from = |at| data.checked_add(half(at)?);
            let (positions, scopes) = (from(positions)?, from(scopes)?);
            Found {
                positions: positions..scopes,
                scopes: scopes..from(size)?,
                metadata: references(layout, blob, metadata, memory)?,
            }
        }
    };
    let fits = |part: &std::ops::Range<u64>, max: u64| {
        part.start != 0 && part.end >= part.start && part.end - part.start <= max
    };
    let plausible = fits(&found.positions, POSITIONS_MAX)
        && fits(&found.scopes, SCOPES_MAX)
        && fits(&found.metadata, SCOPES_MAX);
    plausible.then_some(found)
}

/// The references since 23.
fn references(
    layout: &Layout,
    blob: &Blob,
    metadata: Metadata,
    memory: &dyn Memory,
) -> Option<std::ops::Range<u64>> {
    let half = |at: u64| memory.half(blob.address.wrapping_add(at)).map(u64::from);
    match metadata {
        Metadata::Mutable {
            data,
            size,
            relocations,
        } => {
            let data = memory.word(blob.address.wrapping_add(data))?;
            let relocations = half(relocations)?;
            Some(data.checked_add(relocations)?..data.checked_add(half(size)?)?)
        }
        Metadata::AfterCode { distance } => {
            let Extent::Distances(_, end) = layout.blob.code else {
                return None;
            };
            let start = half(end)?.checked_add(half(distance)? & 0xffff)?;
            let size = half(layout.blob.size)?;
            Some(blob.address.checked_add(start)?..blob.address.checked_add(size)?)
        }
    }
}

/// The place of the scope for exactly this distance from the code's start.
fn position(
    layout: &CompiledLayout,
    found: &Found,
    distance: u32,
    memory: &dyn Memory,
) -> Option<u64> {
    let each = usize::try_from(layout.position_bytes).ok()?;
    let (pc, scope) = (
        usize::try_from(layout.pc).ok()?,
        usize::try_from(layout.scope).ok()?,
    );
    if each < 8 || pc.max(scope) + 4 > each {
        return None;
    }
    let number = |entry: &[u8], at: usize| {
        let bytes = entry.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    // They are in the order of the code, but not so many that looking at all would take long.
    let mut at = found.positions.start;
    while at < found.positions.end {
        let left = usize::try_from(found.positions.end - at).ok()?;
        let mut chunk = vec![0; left.min(CHUNK / each * each)];
        if !memory.read(at, &mut chunk) {
            return None;
        }
        for entry in chunk.chunks_exact(each) {
            if number(entry, pc)? == distance {
                return Some(u64::from(number(entry, scope)?)).filter(|place| *place != 0);
            }
        }
        at = at.checked_add(chunk.len().max(1) as u64)?;
    }
    None
}

/// Follows the scopes outwards. The last must be that of the compiled method itself.
fn chain(
    layout: &CompiledLayout,
    found: &Found,
    start: u64,
    compiled: u64,
    memory: &dyn Memory,
) -> Option<Vec<Scope>> {
    let mut scopes = Vec::new();
    let mut place = start;
    while place != 0 {
        if scopes.len() == DEPTH_MAX {
            return None;
        }
        let at = found.scopes.start.checked_add(place)?;
        let room = found.scopes.end.checked_sub(at)?.min(SCOPE_BYTES);
        let mut bytes = vec![0; usize::try_from(room).ok()?];
        if !memory.read(at, &mut bytes) {
            return None;
        }
        let mut numbers = Numbers::new(&bytes, layout.without_zeros);
        let outer = u64::from(numbers.unsigned()?);
        let method = u64::from(numbers.unsigned()?);
        // Positions are kept one higher, so that "before the first" is 0.
        let position = numbers.unsigned()?.checked_sub(1);
        let slot = method
            .checked_sub(1)?
            .checked_mul(8)
            .and_then(|offset| found.metadata.start.checked_add(offset))?;
        if slot.checked_add(8)? > found.metadata.end {
            return None;
        }
        scopes.push(Scope {
            method: memory.word(slot)?,
            position,
        });
        // Outer scopes are written before inner ones.
        if outer >= place {
            return None;
        }
        place = outer;
    }
    (scopes.last()?.method == compiled).then_some(scopes)
}
