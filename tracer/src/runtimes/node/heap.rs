//! Objects of V8's heap, read from outside: tagged words, types, strings.
//!
//! The program goes on while this reads, and its collector moves what it likes. So no word is
//! believed: what it points to must have the type it should have.

use super::layout::Layout;
use crate::memory::Memory;

/// An object, by its address without the tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object(pub u64);

/// User space ends here.
const USER_MAX: u64 = 1 << 47;
/// Strings in strings in strings.
const STRING_DEPTH_MAX: usize = 24;
/// String parts read for one text.
const STRING_PARTS_MAX: usize = 4096;

/// An integer, from a word tagged as one.
#[must_use]
pub fn small(word: u64) -> Option<i32> {
    // the low half is zero but for the tag
    (word & 0xffff_ffff == 0).then_some((word >> 32) as i32)
}

/// An object, from a word tagged as a pointer, be it a weak one.
#[must_use]
pub fn object(word: u64) -> Option<Object> {
    let address = word & !3;
    (word & 1 == 1 && (0x1000..USER_MAX).contains(&address)).then_some(Object(address))
}

/// The heap of one process.
#[derive(Clone, Copy)]
pub struct Heap<'a> {
    /// Where things are.
    pub layout: &'a Layout,
    /// The process.
    pub memory: &'a dyn Memory,
}

impl Heap<'_> {
    /// The object's type; `None` where it is none.
    #[must_use]
    pub fn kind(&self, of: Object) -> Option<u16> {
        let map = object(self.memory.word(of.0)?)?;
        self.kind_by_map(map)
    }

    /// The type of the objects that have this map.
    #[must_use]
    pub fn kind_by_map(&self, map: Object) -> Option<u16> {
        let mut bytes = [0; 2];
        self.memory
            .read(map.0.wrapping_add(self.layout.map_type), &mut bytes)
            .then(|| u16::from_le_bytes(bytes))
    }

    /// What a word points to where its type is one of these.
    #[must_use]
    pub fn typed(&self, word: u64, is: impl Fn(u16) -> bool) -> Option<Object> {
        let found = object(word)?;
        let found = self.moved(found).unwrap_or(found);
        self.kind(found).is_some_and(is).then_some(found)
    }

    /// Where the collector has put an object that was here: it leaves the new address, without a
    /// tag, in place of the map.
    fn moved(&self, from: Object) -> Option<Object> {
        let word = self.memory.word(from.0)?;
        (word & 7 == 0 && (0x1000..USER_MAX).contains(&word)).then_some(Object(word))
    }

    /// A field of an object.
    #[must_use]
    pub fn field(&self, of: Object, offset: u64) -> Option<u64> {
        self.memory.word(of.0.wrapping_add(offset))
    }

    /// A field that holds an object of one of these types.
    #[must_use]
    pub fn typed_field(&self, of: Object, offset: u64, is: impl Fn(u16) -> bool) -> Option<Object> {
        self.typed(self.field(of, offset)?, is)
    }

    /// Length of an array, its header being map and length.
    #[must_use]
    pub fn length(&self, array: Object) -> Option<u64> {
        u64::try_from(small(self.field(array, 8)?)?).ok()
    }

    /// The contents of an array of bytes of at most `max` bytes.
    #[must_use]
    pub fn bytes(&self, array: Object, max: u64) -> Option<Vec<u8>> {
        let length = self.length(array).filter(|length| *length <= max)?;
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        self.memory
            .read(array.0.wrapping_add(16), &mut bytes)
            .then_some(bytes)
    }

    /// An element of an array of values.
    #[must_use]
    pub fn element(&self, array: Object, index: u64) -> Option<u64> {
        if index >= self.length(array)? {
            return None;
        }
        self.field(array, index.checked_mul(8)?.checked_add(16)?)
    }

    /// Whether a type is a string's.
    #[must_use]
    pub fn is_string(&self, kind: u16) -> bool {
        kind < self.layout.types.first_nonstring
    }

    /// A string of at most `max` characters.
    #[must_use]
    pub fn text(&self, of: Object, max: u64) -> Option<String> {
        let units = self.units(of, max)?;
        Some(match units {
            // one byte a character: Latin 1
            Units::One(bytes) => bytes.into_iter().map(char::from).collect(),
            Units::Two(words) => String::from_utf16_lossy(&words),
        })
    }

    /// The code units of a string of at most `max` of them.
    #[must_use]
    pub fn units(&self, of: Object, max: u64) -> Option<Units> {
        let kind = self.kind(of).filter(|kind| self.is_string(*kind))?;
        let length = self.string_length(of).filter(|length| *length <= max)?;
        let mut into = if kind & ONE_BYTE != 0 {
            Units::One(Vec::new())
        } else {
            Units::Two(Vec::new())
        };
        let mut parts = STRING_PARTS_MAX;
        self.append(of, 0, length, STRING_DEPTH_MAX, &mut parts, &mut into)?;
        (into.len() as u64 == length).then_some(into)
    }

    /// A string's length.
    #[must_use]
    pub fn string_length(&self, of: Object) -> Option<u64> {
        self.memory.half(of.0.wrapping_add(12)).map(u64::from)
    }

    /// Appends `length` units from `start`.
    fn append(
        &self,
        of: Object,
        start: u64,
        length: u64,
        depth: usize,
        parts: &mut usize,
        into: &mut Units,
    ) -> Option<()> {
        if length == 0 {
            return Some(());
        }
        *parts = parts.checked_sub(1)?;
        let depth = depth.checked_sub(1)?;
        let kind = self.kind(of).filter(|kind| self.is_string(*kind))?;
        let all = self.string_length(of)?;
        if start.checked_add(length)? > all {
            return None;
        }
        let one = kind & ONE_BYTE != 0;
        let width = if one { 1 } else { 2 };
        let from = |data: u64| data.checked_add(start.checked_mul(width)?);
        match kind & REPRESENTATION {
            SEQUENTIAL => into.read(self.memory, from(of.0.checked_add(16)?)?, length, one),
            EXTERNAL => {
                // the resource, then (where it is kept) the address of its contents
                let data = self.field(of, 24).filter(|data| *data < USER_MAX)?;
                into.read(self.memory, from(data)?, length, one)
            }
            THIN => {
                let actual = object(self.field(of, 16)?)?;
                self.append(actual, start, length, depth, parts, into)
            }
            SLICED => {
                let parent = object(self.field(of, 16)?)?;
                let skip = u64::try_from(small(self.field(of, 24)?)?).ok()?;
                let start = start.checked_add(skip)?;
                self.append(parent, start, length, depth, parts, into)
            }
            CONS => {
                let (first, second) = (object(self.field(of, 16)?)?, object(self.field(of, 24)?)?);
                let split = self.string_length(first)?;
                let of_first = split.saturating_sub(start).min(length);
                self.append(first, start.min(split), of_first, depth, parts, into)?;
                let start = start.saturating_sub(split);
                self.append(second, start, length - of_first, depth, parts, into)
            }
            _ => None,
        }
    }
}

// src/objects/instance-type.h: the low bits of a string's type.
const REPRESENTATION: u16 = 7;
const SEQUENTIAL: u16 = 0;
const CONS: u16 = 1;
const EXTERNAL: u16 = 2;
const SLICED: u16 = 3;
const THIN: u16 = 5;
const ONE_BYTE: u16 = 8;

/// Code units of a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Units {
    /// Latin 1.
    One(Vec<u8>),
    /// UTF-16.
    Two(Vec<u16>),
}

impl Units {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Units::One(units) => units.len(),
            Units::Two(units) => units.len(),
        }
    }

    /// Appends units from memory. A string of wide units may have narrow parts.
    fn read(&mut self, memory: &dyn Memory, from: u64, length: u64, one: bool) -> Option<()> {
        let width = if one { 1 } else { 2 };
        let mut bytes = vec![0; usize::try_from(length.checked_mul(width)?).ok()?];
        if !memory.read(from, &mut bytes) {
            return None;
        }
        match (self, one) {
            (Units::One(all), true) => all.extend(bytes),
            (Units::Two(all), true) => all.extend(bytes.into_iter().map(u16::from)),
            (Units::Two(all), false) => all.extend(
                bytes
                    .chunks_exact(2)
                    .map(|pair| u16::from_le_bytes([pair[0], pair[1]])),
            ),
            (Units::One(_), false) => return None,
        }
        Some(())
    }

    /// Where each line ends: the positions of the terminators as the language has them.
    #[must_use]
    pub fn line_ends(&self, max: usize) -> Option<Vec<u32>> {
        let at = |i: usize| match self {
            Units::One(units) => units.get(i).copied().map(u16::from),
            Units::Two(units) => units.get(i).copied(),
        };
        let mut ends = Vec::new();
        for i in 0..self.len() {
            // ECMA-262, 12.3: LF, CR, LS and PS; CR LF is one
            let ends_here = match at(i)? {
                0x0a | 0x2028 | 0x2029 => true,
                0x0d => at(i + 1) != Some(0x0a),
                _ => false,
            };
            if ends_here {
                if ends.len() >= max {
                    return None;
                }
                ends.push(u32::try_from(i).ok()?);
            }
        }
        Some(ends)
    }
}
