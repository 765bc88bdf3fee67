//! Values in dictionaries of CPython 3.11 to 3.13 (`Include/internal/pycore_dict.h`), by their keys. Pure
//! but for the memory it is given.

use super::{code::text, layout::Layout};
use crate::memory::Memory;

/// Entries looked at, of a module's or a class's names.
const ENTRIES_MAX: u64 = 4096;
/// In a dictionary: its keys.
const KEYS: u64 = 32;
/// In keys: two logarithms and the kind of its entries; how many there are; their index.
const SIZES: u64 = 8;
const ENTRIES: u64 = 24;
const INDEX: u64 = 32;
/// In a string: its length.
const LENGTH: u64 = 16;
/// Kind of entries that have no hash: all keys are strings.
const STRINGS: u64 = 1;

/// The value that a dictionary whose keys are strings has for `key`.
#[must_use]
pub fn value(layout: &Layout, memory: &dyn Memory, dictionary: u64, key: &str) -> Option<u64> {
    let word = |object: u64, offset: u64| memory.word(object.wrapping_add(offset));
    let keys = word(dictionary, KEYS)?;
    let sizes = word(keys, SIZES)?;
    let (index_bytes, kind) = (sizes >> 8 & 0xff, sizes >> 16 & 0xff);
    let entries = word(keys, ENTRIES)?;
    if kind != STRINGS || index_bytes > 24 || entries > ENTRIES_MAX {
        return None;
    }
    let first = keys.wrapping_add(INDEX).wrapping_add(1 << index_bytes);
    (0..entries)
        .map(|entry| first.wrapping_add(entry * 16))
        .find(|&entry| {
            word(entry, 0)
                .filter(|name| *name != 0 && word(*name, LENGTH) == Some(key.len() as u64))
                .and_then(|name| text(layout, memory, name))
                .is_some_and(|name| name == key)
        })
        .and_then(|entry| word(entry, 8))
        .filter(|value| *value != 0)
}
