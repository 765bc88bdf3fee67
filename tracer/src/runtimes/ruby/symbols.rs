//! The names of methods that are written in C: the interpreter's table of symbols. Pure but for the
//! memory it is given.
//!
//! The table is a variable that no symbol of the library tells (`ruby_global_symbols` in
//! `symbol.c`). It is found among the library's variables by what it must hold, and each name is
//! confirmed by the symbol beside it, which says of which number it is.

use super::{
    layout::Layout,
    object::{element, text},
};
use crate::memory::Memory;

/// Variables that are looked through, bytes.
pub const VARIABLES_MAX: usize = 1 << 20;
/// Names in one array of the table.
const IN_AN_ARRAY: u64 = 512;
/// Numbers of operators are below this, those of other names above, with their kind in the lowest
/// bits.
const OPERATORS: u64 = 1000;
/// Bits of the kind.
const KIND_BITS: u32 = 4;
/// The number of `+`, that of its character.
const PLUS: u64 = 43;
/// Highest number of a name that is believed.
const NUMBER_MAX: u64 = 1 << 28;

/// Where the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbols {
    /// Address of the word that refers to the array of arrays of names.
    arrays: u64,
}

impl Symbols {
    /// Looks for the table among the variables of the library that begin at `start`.
    #[must_use]
    pub fn find(
        layout: &Layout,
        memory: &dyn Memory,
        start: u64,
        variables: &[u8],
    ) -> Option<Symbols> {
        // The highest number, a table of another kind, the arrays, and another table.
        const ARRAYS: usize = 2;
        let (words, _) = variables.as_chunks::<8>();
        let word = |at: usize| words.get(at).map(|word| u64::from_le_bytes(*word));
        (0..words.len()).find_map(|at| {
            let highest = word(at)?;
            if !(OPERATORS..NUMBER_MAX).contains(&highest) {
                return None;
            }
            if [1, 2, 3]
                .iter()
                .any(|next| word(at + next).is_none_or(|w| w < 1 << 16))
            {
                return None;
            }
            let distance = u64::try_from((at + ARRAYS) * 8).ok()?;
            let found = Symbols {
                arrays: start.wrapping_add(distance),
            };
            let plus = found.name(layout, memory, PLUS)?;
            (plus == "+").then_some(found)
        })
    }

    /// The name with this number.
    #[must_use]
    pub fn name(&self, layout: &Layout, memory: &dyn Memory, id: u64) -> Option<String> {
        let number = if id < OPERATORS { id } else { id >> KIND_BITS };
        let arrays = memory.word(self.arrays)?;
        let array = element(memory, arrays, number / IN_AN_ARRAY)?;
        let at = number % IN_AN_ARRAY * 2;
        if element(memory, array, at + 1)? != symbol(id) {
            return None;
        }
        text(layout, memory, element(memory, array, at)?)
    }
}

/// The symbol with this number, as a value.
const fn symbol(id: u64) -> u64 {
    id << 8 | 0xc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{Layout, Symbols, symbol};
    use crate::memory::{Memory, Repeated};

    /// Memory from 0x10000 on.
    struct Image(Vec<u8>);

    impl Memory for Image {
        fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
            let at = address.checked_sub(0x10000).map(|at| at as usize);
            let bytes = at.and_then(|at| self.0.get(at..at.checked_add(buffer.len())?));
            bytes.map(|bytes| buffer.copy_from_slice(bytes)).is_some()
        }
    }

    impl Image {
        fn words(&mut self, address: u64, values: &[u64]) {
            let at = address as usize - 0x10000;
            for (place, value) in self.0[at..].chunks_exact_mut(8).zip(values) {
                place.copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    #[test]
    fn names_are_found_by_their_number_and_confirmed() {
        let Some(layout) = Layout::of(3) else {
            return;
        };
        let connect = 600 << 4 | 1;
        let mut image = Image(vec![0; 0x10000]);
        // Something that looks alike, and the table.
        image.words(0x10000, &[5000, 0x12000, 0x12000, 0x12000, 7]);
        image.words(0x10028, &[5001, 0x12000, 0x11000, 0x12000]);
        image.words(0x11000, &[0x2007 | 2 << 15, 0, 0x11100, 0x11200]);
        image.words(0x11100, &[0x07, 0, 1024, 0, 0x13000]);
        image.words(0x11200, &[0x07, 0, 1024, 0, 0x16000]);
        image.words(0x13000 + 86 * 8, &[0x14000, symbol(43)]);
        image.words(
            0x16000 + 88 * 2 * 8,
            &[0x14100, symbol(connect), 0x14100, symbol(7)],
        );
        image.words(0x14000, &[0x05, 0, 1, u64::from(b'+')]);
        image.words(0x14100, &[0x05, 0, 7, u64::from_le_bytes(*b"connect\0")]);
        let variables = image.0[..0x100].to_vec();
        let found = Symbols::find(&layout, &image, 0x10000, &variables);
        assert_eq!(found, Some(Symbols { arrays: 0x10038 }));
        let name = |id| found.and_then(|found| found.name(&layout, &image, id));
        assert_eq!(name(connect).as_deref(), Some("connect"));
        assert_eq!(name(43).as_deref(), Some("+"));
        assert_eq!(
            name(connect + 16),
            None,
            "the symbol beside it is another's"
        );
        assert_eq!(name(1 << 40), None);
    }

    proptest! {
        #[test]
        fn any_memory_is_survived(memory in any::<Vec<u8>>(), start in any::<u64>(), id in any::<u64>(), minor in 1u32..5) {
            if let Some(layout) = Layout::of(minor) {
                let _ = Symbols::find(&layout, &Repeated(&memory), start, &memory);
                let _ = Symbols { arrays: start }.name(&layout, &Repeated(&memory), id);
            }
        }
    }
}
