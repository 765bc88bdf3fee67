//! The name, source file and line of a method, from the VM's metadata, which does not move.
//!
//! What an address leads to counts only where everything fits together: the method is one of its
//! class's, its name is a text in the constant pool of that class, and so on. Memory that was
//! freed and used again fails that.

use super::{
    layout::{MethodLayout, Source},
    numbers::line_of,
};
use crate::{memory::Memory, model::Named};

/// Bytes of a name at most; longer ones stay unknown.
const NAME_MAX: usize = 1024;
/// Methods of one class at most (the class file format's limit).
const METHODS_MAX: u32 = 65_535;
/// Bytes of a method with its bytecode and tables that are read: the bytecode has 64 KiB at most.
const WHOLE_MAX: u64 = 1 << 20;

/// A method that passed the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// Its class as the VM has it: `com/example/Poller$1`.
    pub class: String,
    /// Its name.
    pub name: String,
    /// The source file's name, without directories.
    pub source: Option<String>,
    /// The class was loaded by the boot loader: it is the runtime's own.
    pub boot: bool,
    /// Address of its bytecode.
    pub code: u64,
    /// Bytes of its bytecode; 0 for a native method.
    pub code_bytes: u32,
    /// What follows the bytecode: lines, if the method has any.
    tables: std::ops::Range<u64>,
    lines: bool,
}

impl Method {
    /// Reads a method; `None` where anything does not fit.
    #[must_use]
    pub fn read(layout: &MethodLayout, address: u64, memory: &dyn Memory) -> Option<Method> {
        if address == 0 || !address.is_multiple_of(8) {
            return None;
        }
        let short = |address: u64, offset: u64| {
            let mut bytes = [0; 2];
            memory
                .read(address.wrapping_add(offset), &mut bytes)
                .then(|| u16::from_le_bytes(bytes))
        };
        let word = |address: u64, offset: u64| memory.word(address.wrapping_add(offset));
        let fixed = word(address, layout.fixed)?;
        let pool = word(fixed, layout.constants)?;
        let class = word(pool, layout.holder)?;
        if !belongs(layout, address, short(fixed, layout.number)?, class, memory) {
            return None;
        }
        let names = Pool {
            layout,
            address: pool,
            entries: memory.half(pool.wrapping_add(layout.entries))?,
            tags: word(pool, layout.tags)?,
            memory,
        };
        let name = names.text(short(fixed, layout.name)?)?;
        let signature = names.text(short(fixed, layout.signature)?)?;
        let class_name = symbol(layout, word(class, layout.class_name)?, memory)?;
        if !is_method_name(&name) || !signature.starts_with('(') || !is_class_name(&class_name) {
            return None;
        }
        let source = match layout.source {
            Source::Class(at) => short(class, at)?,
            Source::Pool(at) => short(pool, at)?,
        };
        let source = if source == 0 {
            None
        } else {
            names.text(source).filter(|name| is_file_name(name))
        };
        let loader = word(class, layout.loader)?;
        let loader = word(loader, layout.loader_object)?;
        let code = fixed.checked_add(layout.fixed_bytes)?;
        let code_bytes = u32::from(short(fixed, layout.code_bytes)?);
        let tables = code.checked_add(u64::from(code_bytes))?;
        let whole = u64::from(memory.half(fixed.wrapping_add(layout.whole_words))?) * 8;
        let end = fixed.checked_add(whole)?;
        if whole > WHOLE_MAX || end < tables {
            return None;
        }
        Some(Method {
            class: class_name,
            name,
            source,
            boot: loader == 0,
            code,
            code_bytes,
            tables: tables..end,
            lines: memory.byte(fixed.wrapping_add(layout.flags))? & layout.has_lines != 0,
        })
    }

    /// The line at a position in the bytecode, and the first line of the method's code.
    fn line(
        &self,
        position: u32,
        without_zeros: bool,
        memory: &dyn Memory,
    ) -> (Option<u32>, Option<u32>) {
        if !self.lines || position >= self.code_bytes {
            return (None, None);
        }
        let len = self.tables.end.saturating_sub(self.tables.start);
        let Ok(len) = usize::try_from(len.min(WHOLE_MAX)) else {
            return (None, None);
        };
        let mut table = vec![0; len];
        if !memory.read(self.tables.start, &mut table) {
            return (None, None);
        }
        line_of(&table, without_zeros, position)
    }

    /// Whether the VM leaves it out of its own stack traces: what it made to call a lambda or a
    /// method handle.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        if self.class.contains("$$Lambda") {
            return true;
        }
        let Some(inner) = self.class.strip_prefix("java/lang/invoke/") else {
            return false;
        };
        inner.starts_with("LambdaForm$") || inner.contains("$Holder")
    }

    /// `com.example.Poller$1.run`. What the VM adds to the names of classes that have none in any
    /// file is left out: it is another in every run.
    #[must_use]
    pub fn full_name(&self) -> String {
        let class = self.class.split(['+', ';']).next().unwrap_or_default();
        let class = match class.split_once("/0x") {
            Some((before, _)) => before,
            None => class,
        };
        format!("{}.{}", class.replace('/', "."), self.name)
    }

    /// The frame to show.
    #[must_use]
    pub fn named(
        &self,
        position: Option<u32>,
        inlined: bool,
        without_zeros: bool,
        memory: &dyn Memory,
    ) -> Named {
        let (line, function_line) = position.map_or((None, None), |position| {
            self.line(position, without_zeros, memory)
        });
        Named {
            function: self.full_name(),
            file: self.source.clone(),
            line,
            inlined,
            function_line,
        }
    }
}

/// Whether the class's methods have this one among them.
fn belongs(
    layout: &MethodLayout,
    method: u64,
    number: u16,
    class: u64,
    memory: &dyn Memory,
) -> bool {
    let Some(methods) = memory.word(class.wrapping_add(layout.methods)) else {
        return false;
    };
    // `Array<T>` begins with its length.
    let Some(len) = memory.half(methods).filter(|len| *len <= METHODS_MAX) else {
        return false;
    };
    let data = methods.wrapping_add(layout.array_data);
    // Mostly it is where its number says.
    let expected = data.wrapping_add(u64::from(number) * 8);
    if u32::from(number) < len && memory.word(expected) == Some(method) {
        return true;
    }
    let mut all = vec![0; len as usize * 8];
    memory.read(data, &mut all) && all.chunks_exact(8).any(|word| word == method.to_le_bytes())
}

/// Texts of a constant pool.
struct Pool<'a> {
    layout: &'a MethodLayout,
    address: u64,
    entries: u32,
    tags: u64,
    memory: &'a dyn Memory,
}

impl Pool<'_> {
    fn text(&self, place: u16) -> Option<String> {
        if place == 0 || u32::from(place) >= self.entries {
            return None;
        }
        let place = u64::from(place);
        let tag = self.tags.wrapping_add(self.layout.bytes_data + place);
        if self.memory.byte(tag)? != self.layout.utf8 {
            return None;
        }
        let entry = self
            .address
            .wrapping_add(self.layout.pool_bytes + place * 8);
        symbol(self.layout, self.memory.word(entry)?, self.memory)
    }
}

/// The text of a `Symbol`.
pub(super) fn symbol(layout: &MethodLayout, address: u64, memory: &dyn Memory) -> Option<String> {
    if address == 0 {
        return None;
    }
    let mut len = [0; 2];
    if !memory.read(address.wrapping_add(layout.symbol_len), &mut len) {
        return None;
    }
    let len = usize::from(u16::from_le_bytes(len));
    if len == 0 || len > NAME_MAX {
        return None;
    }
    let mut bytes = vec![0; len];
    if !memory.read(address.wrapping_add(layout.symbol_body), &mut bytes) {
        return None;
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

/// JVM specification, 4.2.2: no `. ; [ /`, and `< >` only in the two special names.
fn is_method_name(name: &str) -> bool {
    name == "<init>" || name == "<clinit>" || !name.contains(['.', ';', '[', '/', '<', '>'])
}

fn is_class_name(name: &str) -> bool {
    !name.contains(['[', '(', '<', '>', ' ']) && !name.starts_with('/')
}

fn is_file_name(name: &str) -> bool {
    !name.contains(['/', '\n'])
}

/// The first method of a class.
#[must_use]
pub fn first_of(layout: &MethodLayout, class: u64, memory: &dyn Memory) -> Option<Method> {
    let methods = memory.word(class.wrapping_add(layout.methods))?;
    if !(1..=METHODS_MAX).contains(&memory.half(methods)?) {
        return None;
    }
    let first = memory.word(methods.wrapping_add(layout.array_data))?;
    Method::read(layout, first, memory)
}

/// The addresses of all methods of a class.
#[must_use]
pub fn all_of(layout: &MethodLayout, class: u64, memory: &dyn Memory) -> Option<Vec<u64>> {
    let methods = memory.word(class.wrapping_add(layout.methods))?;
    let len = memory.half(methods).filter(|len| *len <= METHODS_MAX)?;
    let mut all = vec![0; len as usize * 8];
    if !memory.read(methods.wrapping_add(layout.array_data), &mut all) {
        return None;
    }
    let words = all.chunks_exact(8);
    Some(
        words
            .filter_map(|w| Some(u64::from_le_bytes(w.try_into().ok()?)))
            .collect(),
    )
}
