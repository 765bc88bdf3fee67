//! The Go linker's function table: addresses to functions, files, lines and inlined calls.
//!
//! Layout: `runtime/symtab.go`, `runtime/symtabinl.go` and `cmd/link/internal/ld/pcln.go` of
//! Go 1.16 to 1.27. It is loaded with the program, so stripping does not remove it.

use bytes::Bytes;

use crate::elf::Loaded;

/// The three layouts in use since Go 1.16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Go 1.16 and 1.17: absolute addresses.
    Go116,
    /// Go 1.18 and 1.19: offsets from the start of the text.
    Go118,
    /// Since Go 1.20: functions know the line they start on.
    Go120,
}

impl Layout {
    fn of_magic(magic: u32) -> Option<Layout> {
        match magic {
            0xffff_fffa => Some(Layout::Go116),
            0xffff_fff0 => Some(Layout::Go118),
            0xffff_fff1 => Some(Layout::Go120),
            _ => None,
        }
    }

    /// Offset of the table offsets in the header.
    const fn header_offsets(self) -> usize {
        match self {
            Layout::Go116 => 24,
            // `textStart` lies before them; Go 1.26 leaves it zero.
            Layout::Go118 | Layout::Go120 => 32,
        }
    }

    /// Bytes by which the members of `_func` from `nameOff` on are shifted.
    const fn function_shift(self) -> u64 {
        match self {
            Layout::Go116 => 4,
            Layout::Go118 | Layout::Go120 => 0,
        }
    }

    /// Offset of the first pcdata word in `_func`.
    const fn pcdata(self) -> u64 {
        match self {
            Layout::Go116 | Layout::Go120 => 44,
            Layout::Go118 => 40,
        }
    }

    /// Size of an `inlinedCall`, and the offsets of its name and parent pc.
    const fn inlined_call(self) -> (u64, u64, u64) {
        match self {
            Layout::Go116 | Layout::Go118 => (20, 12, 16),
            Layout::Go120 => (16, 4, 8),
        }
    }
}

/// `_PCDATA_InlTreeIndex`.
const PCDATA_INLINE_INDEX: u64 = 2;
/// `_FUNCDATA_InlTree`.
const FUNCDATA_INLINE_TREE: u64 = 3;
/// More functions than any program has; a larger count is damage.
const FUNCTIONS_MAX: u64 = 3_000_000;
/// Longest name or path that is believed.
const NAME_MAX: usize = 64 << 10;
/// Bytes of a name that are read at first; few are longer.
const NAME_USUAL: usize = 256;
/// Longest pc-value table that is followed; a function of 10,000 lines has some 40 KiB.
const VALUES_MAX: usize = 1 << 20;
/// Bytes of a pc-value table that are read at a time.
const VALUES_STEP: usize = 1 << 10;
/// Bytes of one segment in which a table without a section is looked for.
const SEARCHED_MAX: u64 = 256 << 20;
/// Headers tried in that search.
const HEADERS_MAX: usize = 4_096;
/// Deepest nesting of inlined calls that is followed.
const INLINE_MAX: usize = 128;

/// Where the parts of the table are, as virtual addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionTable {
    /// Address of the header.
    pub address: u64,
    /// Layout.
    pub layout: Layout,
    /// Address of the function names.
    pub names: u64,
    /// Address of the function index, and of the function records.
    pub functions: u64,
    quantum: u64,
    count: u64,
    units: u64,
    files: u64,
    values: u64,
    /// Start of the text, that offsets count from.
    pub(crate) text: u64,
    /// Address that inline trees are relative to; 0 when it is not known.
    pub(crate) inline_base: u64,
}

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// First address.
    pub entry: u64,
    /// Address after its last byte.
    pub end: u64,
    record: u64,
}

/// One source position that an address stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Function as Go names it: `main.(*T).M`, `main.F[...]`, `main.F.func1`.
    pub function: String,
    /// Source file.
    pub file: Option<String>,
    /// Line, from 1.
    pub line: Option<u32>,
    /// Line the function starts on.
    pub start_line: Option<u32>,
    /// Inlined into the next one.
    pub inlined: bool,
}

impl FunctionTable {
    /// Finds the table: by section, else by its header.
    #[must_use]
    pub fn find(image: &Loaded) -> Option<FunctionTable> {
        for name in [".gopclntab", ".data.rel.ro.gopclntab"] {
            if let Some(address) = image.section(name)
                && let Some(table) = FunctionTable::read(image, address)
            {
                return Some(table);
            }
        }
        let segments = image.segments().iter().filter(|s| !s.executable);
        let blocks = segments.flat_map(|segment| image.blocks(segment, SEARCHED_MAX));
        blocks
            .flat_map(|(address, block)| headers(&block).map(move |at| address + at))
            .take(HEADERS_MAX)
            .find_map(|address| FunctionTable::read(image, address))
    }

    /// Reads a header; `None` when it is not one.
    #[must_use]
    pub fn read(image: &Loaded, address: u64) -> Option<FunctionTable> {
        let layout = Layout::of_magic(image.u32(address)?)?;
        let offsets = layout.header_offsets();
        let header = image.slice(address, offsets + 5 * 8)?;
        let [0, 0, quantum, 8] = header[4..8] else {
            return None;
        };
        if !matches!(quantum, 1 | 2 | 4) {
            return None;
        }
        let number = |at: usize| -> Option<u64> {
            Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?))
        };
        let count = number(8)?;
        if count == 0 || count > FUNCTIONS_MAX {
            return None;
        }
        let mut at = [0u64; 5];
        let mut previous = 0;
        for (i, place) in at.iter_mut().enumerate() {
            let offset = number(offsets + i * 8)?;
            if offset <= previous || offset > u64::from(u32::MAX) {
                return None;
            }
            previous = offset;
            *place = address.checked_add(offset)?;
        }
        let [names, units, files, values, functions] = at;
        Some(FunctionTable {
            address,
            layout,
            names,
            functions,
            quantum: u64::from(quantum),
            count,
            units,
            files,
            values,
            text: 0,
            inline_base: 0,
        })
    }

    /// Number of functions.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count
    }

    /// `true` when there is none; such a table is never returned by [`FunctionTable::find`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The function with this index, in address order.
    #[must_use]
    pub fn function(&self, image: &Loaded, index: u64) -> Option<Function> {
        if index >= self.count {
            return None;
        }
        let (entry, record) = self.index_entry(image, index)?;
        Some(Function {
            entry,
            end: self.index_entry(image, index + 1)?.0.max(entry),
            record: self.functions.checked_add(record)?,
        })
    }

    /// The function that contains an address.
    #[must_use]
    pub fn function_at(&self, image: &Loaded, address: u64) -> Option<Function> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.index_entry(image, middle)?.0 <= address {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.function(image, low.checked_sub(1)?)
            .filter(|f| address < f.end)
    }

    /// Finds functions by name, in one pass over the table. Where a name occurs twice (an
    /// assembly function and its wrapper) the larger one is meant.
    #[must_use]
    pub fn functions_named(&self, image: &Loaded, names: &[&str]) -> Vec<Option<Function>> {
        let mut found = vec![None::<Function>; names.len()];
        let longest = names.iter().map(|name| name.len() + 1).max().unwrap_or(0);
        for index in 0..self.count {
            let Some(function) = self.function(image, index) else {
                break;
            };
            let Some(bytes) = self.word(image, function, 4).and_then(|offset| {
                image.up_to(self.names.checked_add(u64::from(offset))?, longest)
            }) else {
                continue;
            };
            for (name, slot) in names.iter().zip(&mut found) {
                let same = bytes.starts_with(name.as_bytes()) && bytes.get(name.len()) == Some(&0);
                if same && slot.is_none_or(|f| f.end - f.entry < function.end - function.entry) {
                    *slot = Some(function);
                }
            }
        }
        found
    }

    /// The function's name.
    #[must_use]
    pub fn name(&self, image: &Loaded, function: Function) -> Option<String> {
        self.name_at(image, self.word(image, function, 4)?)
    }

    /// What an address stands for, innermost inlined call first and the function itself last;
    /// empty when no function contains it. For a return address, ask for the address before.
    #[must_use]
    pub fn positions(&self, image: &Loaded, address: u64) -> Vec<Position> {
        let mut positions = Vec::new();
        let Some(function) = self.function_at(image, address) else {
            return positions;
        };
        let tree = self.inline_tree(image, function);
        let mut at = address;
        for _ in 0..INLINE_MAX {
            let (file, line) = self.line(image, function, at);
            let call = tree.and_then(|(tree, index)| {
                let i = self.value(image, function, index, at)?;
                self.inlined_call(image, tree, u64::try_from(i).ok()?)
            });
            let Some((name, parent, start_line)) = call else {
                positions.push(Position {
                    function: self.name(image, function).unwrap_or_default(),
                    file,
                    line,
                    start_line: self.start_line(image, function),
                    inlined: false,
                });
                break;
            };
            positions.push(Position {
                function: name,
                file,
                line,
                start_line,
                inlined: true,
            });
            let Some(next) = function.entry.checked_add(u64::from(parent)) else {
                break;
            };
            at = next;
        }
        positions
    }

    /// Line the function starts on.
    #[must_use]
    pub fn start_line(&self, image: &Loaded, function: Function) -> Option<u32> {
        if self.layout == Layout::Go120 {
            self.word(image, function, 36).filter(|&line| line > 0)
        } else {
            self.line(image, function, function.entry).1
        }
    }

    /// Offsets (from the inline base) of the inline trees of a function; `None` without any.
    /// Go 1.16 and 1.17 hold an address in its place.
    pub(crate) fn inline_tree_place(&self, image: &Loaded, function: Function) -> Option<u64> {
        let pcdata_words = u64::from(self.word(image, function, 28)?);
        let last = function.record.checked_add(self.layout.pcdata() - 1)?;
        let funcdata = u64::from(*image.slice(last, 1)?.first()?);
        if funcdata <= FUNCDATA_INLINE_TREE || pcdata_words <= PCDATA_INLINE_INDEX {
            return None;
        }
        let after = function
            .record
            .checked_add(self.layout.pcdata())?
            .checked_add(pcdata_words.checked_mul(4)?)?;
        if self.layout == Layout::Go116 {
            let place = after.checked_add(after & 4)?;
            return image
                .word(place.checked_add(FUNCDATA_INLINE_TREE * 8)?)
                .filter(|&tree| tree != 0);
        }
        image
            .u32(after.checked_add(FUNCDATA_INLINE_TREE * 4)?)
            .filter(|&offset| offset != u32::MAX)
            .map(u64::from)
    }

    /// Name, parent pc (offset from the entry) and start line of an inlined call, if it makes
    /// sense: its name begins where a name begins.
    pub(crate) fn inlined_call(
        &self,
        image: &Loaded,
        tree: u64,
        index: u64,
    ) -> Option<(String, u32, Option<u32>)> {
        let (size, name_at, parent_at) = self.layout.inlined_call();
        let call = tree.checked_add(index.checked_mul(size)?)?;
        let name = image.u32(call.checked_add(name_at)?)?;
        let parent = image.u32(call.checked_add(parent_at)?)?;
        let start_line = (self.layout == Layout::Go120)
            .then(|| image.u32(call.checked_add(12)?))
            .flatten()
            .filter(|&line| line > 0);
        if name > 0 {
            let before = self.names.checked_add(u64::from(name))?.checked_sub(1)?;
            if image.slice(before, 1)?.as_ref() != [0] {
                return None;
            }
        }
        let name = self.name_at(image, name).filter(|n| !n.is_empty())?;
        Some((name, parent, start_line))
    }

    fn inline_tree(&self, image: &Loaded, function: Function) -> Option<(u64, u32)> {
        let place = self.inline_tree_place(image, function)?;
        let tree = match self.layout {
            Layout::Go116 => place,
            _ if self.inline_base == 0 => return None,
            _ => self.inline_base.checked_add(place)?,
        };
        let index = image.u32(
            function
                .record
                .checked_add(self.layout.pcdata() + PCDATA_INLINE_INDEX * 4)?,
        )?;
        Some((tree, index))
    }

    /// (address, offset of the record) of an index entry.
    fn index_entry(&self, image: &Loaded, index: u64) -> Option<(u64, u64)> {
        if self.layout == Layout::Go116 {
            let at = self.functions.checked_add(index.checked_mul(16)?)?;
            return Some((image.word(at)?, image.word(at.checked_add(8)?).unwrap_or(0)));
        }
        let at = self.functions.checked_add(index.checked_mul(8)?)?;
        let entry = self.text.checked_add(u64::from(image.u32(at)?))?;
        // The entry after the last function has no record.
        let record = image.u32(at.checked_add(4)?).unwrap_or(0);
        Some((entry, u64::from(record)))
    }

    /// A 32-bit member of `_func`, by its offset since Go 1.18.
    fn word(&self, image: &Loaded, function: Function, offset: u64) -> Option<u32> {
        let at = offset.checked_add(self.layout.function_shift())?;
        image.u32(function.record.checked_add(at)?)
    }

    fn name_at(&self, image: &Loaded, offset: u32) -> Option<String> {
        string(image, self.names.checked_add(u64::from(offset))?)
    }

    fn line(
        &self,
        image: &Loaded,
        function: Function,
        address: u64,
    ) -> (Option<String>, Option<u32>) {
        let line = self
            .word(image, function, 24)
            .and_then(|table| self.value(image, function, table, address))
            .and_then(|line| u32::try_from(line).ok())
            .filter(|&line| line > 0);
        (self.file(image, function, address), line)
    }

    fn file(&self, image: &Loaded, function: Function, address: u64) -> Option<String> {
        let table = self.word(image, function, 20)?;
        let number = self.value(image, function, table, address)?;
        let unit = u64::from(self.word(image, function, 32)?);
        let index = unit.checked_add(u64::try_from(number).ok()?)?;
        let offset = image.u32(self.units.checked_add(index.checked_mul(4)?)?)?;
        if offset == u32::MAX {
            return None;
        }
        string(image, self.files.checked_add(u64::from(offset))?)
    }

    /// The value that a pc-value table has at an address; -1 is a value.
    fn value(&self, image: &Loaded, function: Function, table: u32, address: u64) -> Option<i32> {
        if table == 0 {
            return None;
        }
        let mut bytes = Varints::new(image, self.values.checked_add(u64::from(table))?);
        let (mut pc, mut value, mut first) = (function.entry, -1i32, true);
        loop {
            let step = bytes.next()?;
            if step == 0 && !first {
                return None;
            }
            first = false;
            // Zigzag: the lowest bit is the sign.
            let change = if step & 1 != 0 {
                !(step >> 1)
            } else {
                step >> 1
            };
            value = value.wrapping_add(change as i32);
            pc = pc.checked_add(u64::from(bytes.next()?).checked_mul(self.quantum)?)?;
            if address < pc {
                return Some(value);
            }
        }
    }
}

/// Where in a block a header of a function table may begin.
fn headers(block: &[u8]) -> impl Iterator<Item = u64> + use<> {
    let found: Vec<u64> = (0..block.len())
        .step_by(8)
        .filter(|at| block.get(at + 1..at + 4) == Some(&[0xff; 3]))
        .map(|at| at as u64)
        .collect();
    found.into_iter()
}

/// Numbers of base 128 from an address on, read in steps.
struct Varints<'a> {
    image: &'a Loaded,
    next: u64,
    bytes: Bytes,
    at: usize,
    left: usize,
}

impl<'a> Varints<'a> {
    fn new(image: &'a Loaded, address: u64) -> Varints<'a> {
        Varints {
            image,
            next: address,
            bytes: Bytes::new(),
            at: 0,
            left: VALUES_MAX,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        if self.at >= self.bytes.len() {
            self.bytes = self.image.up_to(self.next, VALUES_STEP.min(self.left))?;
            self.at = 0;
            self.left -= self.bytes.len();
            self.next = self.next.checked_add(self.bytes.len() as u64)?;
        }
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }
}

impl Iterator for Varints<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

fn string(image: &Loaded, address: u64) -> Option<String> {
    [NAME_USUAL, NAME_MAX].into_iter().find_map(|most| {
        let bytes = image.up_to(address, most)?;
        let end = bytes.iter().position(|&b| b == 0)?;
        Some(String::from_utf8_lossy(bytes.get(..end)?).into_owned())
    })
}
