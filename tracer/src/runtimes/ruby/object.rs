//! Ruby objects of another process: strings and arrays. Pure but for the memory it is given.

use super::layout::{
    FLAG_1, INTERNAL_MASK, INTERNAL_SHIFT, Layout, OBJECT_BYTES, Strings, TYPE_ARRAY,
    TYPE_INTERNAL, TYPE_MASK, TYPE_STRING,
};
use crate::memory::Memory;

/// Longest text read, bytes.
const TEXT_MAX: u64 = 4096;
/// Bits of the length of an embedded string, in its flags (3.1).
const EMBEDDED_SHIFT: u32 = 14;
/// See [`EMBEDDED_SHIFT`].
const EMBEDDED_MASK: u64 = 0x1f;

/// Bits of the length of an array that has its elements in itself, in its flags (3.1 has two of
/// them only, and leaves the others at zero).
const ELEMENTS_SHIFT: u32 = 15;
/// See [`ELEMENTS_SHIFT`].
const ELEMENTS_MASK: u64 = 0x7f;

/// Whether a value is a reference to an object, rather than a number or `nil`.
const fn is_reference(value: u64) -> bool {
    value & 7 == 0 && value > 0xff
}

/// Whether an object is one that the interpreter keeps for itself, of this kind.
#[must_use]
pub fn is_internal(memory: &dyn Memory, object: u64, kind: u64) -> bool {
    is_reference(object)
        && memory.word(object).is_some_and(|flags| {
            flags & TYPE_MASK == TYPE_INTERNAL && flags >> INTERNAL_SHIFT & INTERNAL_MASK == kind
        })
}

/// The characters of a string that is one, and text.
#[must_use]
pub fn text(layout: &Layout, memory: &dyn Memory, object: u64) -> Option<String> {
    if !is_reference(object) {
        return None;
    }
    let flags = memory.word(object)?;
    if flags & TYPE_MASK != TYPE_STRING {
        return None;
    }
    let own = object.wrapping_add(OBJECT_BYTES);
    let elsewhere = flags & FLAG_1 != 0;
    let (length, place) = match (layout.strings, elsewhere) {
        (Strings::LengthInFlags, false) => (flags >> EMBEDDED_SHIFT & EMBEDDED_MASK, own),
        (_, false) => (memory.word(own)?, own.wrapping_add(8)),
        (_, true) => (memory.word(own)?, memory.word(own.wrapping_add(8))?),
    };
    if length == 0 || length > TEXT_MAX {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    if !memory.read(place, &mut bytes) {
        return None;
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

/// An element of an array that is one.
#[must_use]
pub fn element(memory: &dyn Memory, object: u64, index: u64) -> Option<u64> {
    if !is_reference(object) {
        return None;
    }
    let flags = memory.word(object)?;
    if flags & TYPE_MASK != TYPE_ARRAY {
        return None;
    }
    let own = object.wrapping_add(OBJECT_BYTES);
    let (length, first) = match flags & FLAG_1 {
        0 => (memory.word(own)?, memory.word(own.wrapping_add(16))?),
        _ => (flags >> ELEMENTS_SHIFT & ELEMENTS_MASK, own),
    };
    if index >= length {
        return None;
    }
    memory.word(first.wrapping_add(index.wrapping_mul(8)))
}
