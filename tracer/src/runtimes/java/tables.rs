//! What a HotSpot virtual machine says of its own structures.
//!
//! `libjvm.so` exports tables for the serviceability agent (`vmStructs.hpp`): the fields of the
//! VM's classes with their offsets or addresses, the classes' sizes, and named constants. They are
//! read from the process, where the loader has relocated them.

use std::collections::HashMap;

use thiserror::Error;

use crate::memory::Memory;

/// Entries looked at in one table; the largest seen has about 2,000.
const ENTRIES_MAX: u64 = 16_384;
/// Bytes of one entry at most.
const STRIDE_MAX: u64 = 256;
/// Bytes of a name at most.
const NAME_MAX: usize = 192;

/// Why a virtual machine's frames can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refused {
    /// The library lacks a symbol that every HotSpot of 9 and later exports.
    #[error("its library exports no `{0}`")]
    NoSymbol(&'static str),
    /// A table can't be read or makes no sense.
    #[error("its table `{0}` can't be read")]
    BadTable(&'static str),
    /// A field, type or constant that is needed is not in the tables.
    #[error("version {version} has no `{name}` in its tables")]
    Missing {
        /// The version, as far as it is known.
        version: String,
        /// What is missing.
        name: &'static str,
    },
    /// What the tables lead to is not what must be there.
    #[error("version {version} lays out its {what} in another way")]
    Unlike {
        /// The version.
        version: String,
        /// What was looked at.
        what: &'static str,
    },
    /// The machine has not set itself up so far: worth another try later.
    #[error("it is still starting")]
    Starting,
}

/// One field: where it is in an object, or where it is in memory when static.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Offset in the object.
    pub offset: u64,
    /// Address of a static field, else 0.
    pub address: u64,
}

/// Fields, sizes and constants by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    fields: HashMap<String, Field>,
    sizes: HashMap<String, u64>,
    constants: HashMap<String, u64>,
}

/// Addresses of exported symbols in the process.
pub type Symbols<'a> = &'a dyn Fn(&'static str) -> Option<u64>;

/// How one table is laid out, as the VM says it.
struct Shape {
    name: &'static str,
    first: u64,
    stride: u64,
}

impl Shape {
    fn read(
        name: &'static str,
        stride: &'static str,
        symbols: Symbols<'_>,
        memory: &dyn Memory,
    ) -> Result<Shape, Refused> {
        let first = number(name, symbols, memory)?;
        let stride = number(stride, symbols, memory)?;
        if first == 0 || stride == 0 || stride > STRIDE_MAX || !stride.is_multiple_of(8) {
            return Err(Refused::BadTable(name));
        }
        Ok(Shape {
            name,
            first,
            stride,
        })
    }

    /// Calls `each` with the address of every entry until it says there are no more.
    fn walk(&self, mut each: impl FnMut(u64) -> Option<bool>) -> Result<(), Refused> {
        for number in 0..ENTRIES_MAX {
            let entry = number
                .checked_mul(self.stride)
                .and_then(|bytes| self.first.checked_add(bytes))
                .ok_or(Refused::BadTable(self.name))?;
            match each(entry) {
                Some(true) => {}
                Some(false) => return Ok(()),
                None => return Err(Refused::BadTable(self.name)),
            }
        }
        Err(Refused::BadTable(self.name))
    }
}

/// The value of an exported 64-bit variable.
fn number(name: &'static str, symbols: Symbols<'_>, memory: &dyn Memory) -> Result<u64, Refused> {
    let address = symbols(name).ok_or(Refused::NoSymbol(name))?;
    memory.word(address).ok_or(Refused::BadTable(name))
}

impl Tables {
    /// Reads the entries of these types, and these constants.
    ///
    /// # Errors
    /// When a symbol or a table is not there.
    pub fn read(
        types: &[&str],
        constants: &[&str],
        symbols: Symbols<'_>,
        memory: &dyn Memory,
    ) -> Result<Tables, Refused> {
        let mut tables = Tables::default();
        let of = |name| number(name, symbols, memory);

        let shape = Shape::read(
            "gHotSpotVMStructs",
            "gHotSpotVMStructEntryArrayStride",
            symbols,
            memory,
        )?;
        let type_name = of("gHotSpotVMStructEntryTypeNameOffset")?;
        let field_name = of("gHotSpotVMStructEntryFieldNameOffset")?;
        let offset = of("gHotSpotVMStructEntryOffsetOffset")?;
        let address = of("gHotSpotVMStructEntryAddressOffset")?;
        // Entries of one type follow each other and share the name's address.
        let mut last = (0, false, String::new());
        shape.walk(|entry| {
            let at = memory.word(entry.wrapping_add(type_name))?;
            if at == 0 {
                return Some(false);
            }
            if at != last.0 {
                let name = text(memory, at, NAME_MAX)?;
                last = (at, types.contains(&name.as_str()), name);
            }
            if last.1 {
                let field = text(
                    memory,
                    memory.word(entry.wrapping_add(field_name))?,
                    NAME_MAX,
                )?;
                let value = Field {
                    offset: memory.word(entry.wrapping_add(offset))?,
                    address: memory.word(entry.wrapping_add(address))?,
                };
                tables.fields.insert(format!("{}.{field}", last.2), value);
            }
            Some(true)
        })?;

        let shape = Shape::read(
            "gHotSpotVMTypes",
            "gHotSpotVMTypeEntryArrayStride",
            symbols,
            memory,
        )?;
        let type_name = of("gHotSpotVMTypeEntryTypeNameOffset")?;
        let size = of("gHotSpotVMTypeEntrySizeOffset")?;
        shape.walk(|entry| {
            let at = memory.word(entry.wrapping_add(type_name))?;
            if at == 0 {
                return Some(false);
            }
            let name = text(memory, at, NAME_MAX)?;
            if types.contains(&name.as_str()) {
                let size = memory.word(entry.wrapping_add(size))?;
                tables.sizes.insert(name, size);
            }
            Some(true)
        })?;

        let shape = Shape::read(
            "gHotSpotVMIntConstants",
            "gHotSpotVMIntConstantEntryArrayStride",
            symbols,
            memory,
        )?;
        let name = of("gHotSpotVMIntConstantEntryNameOffset")?;
        let value = of("gHotSpotVMIntConstantEntryValueOffset")?;
        shape.walk(|entry| {
            let at = memory.word(entry.wrapping_add(name))?;
            if at == 0 {
                return Some(false);
            }
            let name = text(memory, at, NAME_MAX)?;
            if constants.contains(&name.as_str()) {
                let value = memory.half(entry.wrapping_add(value))?;
                tables.constants.insert(name, u64::from(value));
            }
            Some(true)
        })?;
        Ok(tables)
    }

    /// A field by `Type._field`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<Field> {
        self.fields.get(name).copied()
    }

    /// A type's size in bytes.
    #[must_use]
    pub fn size(&self, name: &str) -> Option<u64> {
        self.sizes.get(name).copied()
    }

    /// A constant's value.
    #[must_use]
    pub fn constant(&self, name: &str) -> Option<u64> {
        self.constants.get(name).copied()
    }
}

/// A C string of printable ASCII, of at most `max` bytes.
pub(super) fn text(memory: &dyn Memory, address: u64, max: usize) -> Option<String> {
    let mut found = Vec::new();
    if address == 0 {
        return None;
    }
    while found.len() < max {
        let mut part = [0; 32];
        let at = address.checked_add(found.len() as u64)?;
        // Not over the end of a page: the next may not be there.
        let room = 4096 - (at % 4096);
        let len = room.min(part.len() as u64) as usize;
        let part = &mut part[..len];
        if !memory.read(at, part) {
            return None;
        }
        match part.iter().position(|byte| *byte == 0) {
            Some(end) => {
                found.extend_from_slice(&part[..end]);
                let plain = found.iter().all(|b| (0x20..0x7f).contains(b));
                return plain.then(|| String::from_utf8(found).ok()).flatten();
            }
            None => found.extend_from_slice(part),
        }
    }
    None
}
