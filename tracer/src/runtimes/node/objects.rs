//! Properties of JavaScript objects by name.
//!
//! An object has a map, which says where its properties are: in the object, in an array beside it,
//! or (for one that many were added to or removed from) in a table of their own.

use std::collections::HashMap;

use super::heap::{Heap, Object, object, small};

/// Properties of one object that are looked through.
const PROPERTIES_MAX: u64 = 1_020;
/// Slots of a table of properties that are looked through.
const TABLE_MAX: u64 = 3 * 4_096;
/// Maps remembered in one reading.
const SHAPES_MAX: usize = 1_024;

/// Where a property is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Bytes from the beginning of the object.
    Inside(u64),
    /// Index in the array beside it.
    Beside(u64),
    /// With the map: all objects of this shape have the same.
    Shared(u64),
}

/// Reads objects; remembers where the maps of this one reading have what.
pub struct Objects<'a> {
    heap: Heap<'a>,
    places: HashMap<(Object, &'static str), Option<Place>>,
}

/// What a property has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Neither null nor undefined nor a boolean.
    Object(Object),
    /// Null or undefined.
    Nothing,
    /// True or false.
    Bool(bool),
    /// A small integer.
    Small(i32),
}

impl<'a> Objects<'a> {
    /// Begins a reading.
    #[must_use]
    pub fn new(heap: Heap<'a>) -> Objects<'a> {
        Objects {
            heap,
            places: HashMap::new(),
        }
    }

    /// A property of an object's own; `None` where it has none of that name, or where it can't be
    /// read. Symbols are found by their description.
    pub fn get(&mut self, of: Object, name: &'static str) -> Option<Value> {
        let map = object(self.heap.field(of, 0)?)?;
        let flags = self.heap.memory.half(map.0.wrapping_add(16))?;
        let layout = self.heap.layout.properties;
        let word = if flags >> layout.dictionary_shift & 1 == 1 {
            self.in_table(of, name)?
        } else {
            let place = match self.places.get(&(map, name)) {
                Some(known) => *known,
                None => {
                    let found = self.find(map, flags, name);
                    if self.places.len() < SHAPES_MAX {
                        self.places.insert((map, name), found);
                    }
                    found
                }
            };
            match place? {
                Place::Inside(offset) => self.heap.field(of, offset)?,
                Place::Shared(word) => word,
                Place::Beside(index) => {
                    let array = object(self.heap.field(of, 8)?)?;
                    self.heap
                        .field(array, index.checked_mul(8)?.checked_add(16)?)?
                }
            }
        };
        self.value(word)
    }

    fn value(&self, word: u64) -> Option<Value> {
        if let Some(number) = small(word) {
            return Some(Value::Small(number));
        }
        let found = object(word)?;
        let layout = self.heap.layout.properties;
        if self.heap.kind(found)? != layout.oddball {
            return Some(Value::Object(found));
        }
        let kind = small(self.heap.field(found, 40)?)?;
        if kind == layout.null || kind == layout.undefined {
            Some(Value::Nothing)
        } else {
            // src/objects/oddball.h: false is 0, true is 1
            matches!(kind, 0 | 1).then_some(Value::Bool(kind == 1))
        }
    }

    /// Whether a word is the property's name.
    fn is_name(&self, word: u64, name: &str) -> bool {
        let layout = self.heap.layout.properties;
        let text = |word: u64| {
            let found = object(word)?;
            let kind = self.heap.kind(found)?;
            let found = match self.heap.is_string(kind) {
                true => found,
                false if kind == layout.symbol => {
                    object(self.heap.field(found, layout.symbol_name)?)?
                }
                false => return None,
            };
            let length = self.heap.string_length(found)?;
            (length == name.len() as u64).then(|| self.heap.text(found, length))?
        };
        text(word).is_some_and(|text| text == name)
    }

    /// Looks through what a map describes: a name, a number of flags and a value for each.
    fn find(&self, map: Object, flags: u32, name: &str) -> Option<Place> {
        let (heap, layout) = (self.heap, self.heap.layout.properties);
        let count = u64::from(flags >> layout.own_shift & 0x3ff).min(PROPERTIES_MAX);
        let described = object(heap.field(map, layout.descriptors)?)?;
        let mut words = vec![0; usize::try_from(count.checked_mul(24)?).ok()?];
        let from = described.0.wrapping_add(layout.descriptors_header);
        if !heap.memory.read(from, &mut words) {
            return None;
        }
        let word = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
        let size = heap.memory.byte(map.0.wrapping_add(8))?;
        let start = heap.memory.byte(map.0.wrapping_add(9))?;
        let inside = u64::from(size.checked_sub(start)?);
        for entry in words.chunks_exact(24) {
            if !self.is_name(word(&entry[..8])?, name) {
                continue;
            }
            let details = small(word(&entry[8..16])?)?.cast_unsigned();
            // an accessor has no value that could be read
            if details & 1 == 1 {
                return None;
            }
            if details >> layout.location_shift & 1 == 1 {
                return Some(Place::Shared(word(&entry[16..])?));
            }
            let index = u64::from(details >> 19 & 0x3ff);
            return Some(match index.checked_sub(inside) {
                None => Place::Inside((u64::from(start) + index) * 8),
                Some(beside) => Place::Beside(beside),
            });
        }
        None
    }

    /// Looks through a table: a name, a value and flags for each, after a header.
    fn in_table(&self, of: Object, name: &str) -> Option<u64> {
        let (heap, layout) = (self.heap, self.heap.layout.properties);
        let table = object(heap.field(of, 8)?)?;
        let length = heap.length(table)?.min(TABLE_MAX);
        let mut words = vec![0; usize::try_from(length.checked_mul(8)?).ok()?];
        if !heap.memory.read(table.0.wrapping_add(16), &mut words) {
            return None;
        }
        let word = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
        let header = usize::try_from(layout.table_header.checked_mul(8)?).ok()?;
        words
            .get(header..)?
            .chunks_exact(24)
            .find(|entry| word(&entry[..8]).is_some_and(|key| self.is_name(key, name)))
            .and_then(|entry| word(&entry[8..16]))
    }
}
