//! From a position in an instruction sequence to its line. Pure but for the memory it is given.
//!
//! A body has a table of lines, one entry for each run of instructions that has something in
//! common, and an index from positions to entries, a bit vector with ranks: for the first 54
//! positions the number of runs that began so far, seven bits each, nine to a word; beyond, blocks
//! of 512 bits with their rank, and that of each 64 (`struct succ_index_table` in `iseq.c`).

use super::layout::{LINE_BYTES, Layout};
use crate::memory::Memory;

/// In what a body says of its lines: the table, how many entries it has, and the index.
const TABLE: u64 = 0;
/// See [`TABLE`].
const ENTRIES: u64 = 16;
/// See [`TABLE`].
const INDEX: u64 = 24;
/// Positions that have their rank at the beginning.
const AT_ONCE: u64 = 54;
/// Of those, in one word.
const IN_A_WORD: u64 = 9;
/// Bits of such a rank.
const RANK_BITS: u64 = 7;
/// Where the blocks begin.
const BLOCKS: u64 = AT_ONCE / IN_A_WORD * 8;
/// Positions of a block.
const BLOCK_POSITIONS: u64 = 512;
/// Bytes of a block: its rank, the ranks of its words, its words.
const BLOCK_BYTES: u64 = 80;

/// The line of the instruction that ends before word `next` of a body's instructions; 0 where Ruby
/// says none, as of what stands below the script's first frame and is not shown in its backtraces.
#[must_use]
pub fn line(layout: &Layout, memory: &dyn Memory, body: u64, next: u64) -> Option<u32> {
    let position = next.saturating_sub(1);
    let at = |offset: u64| body.wrapping_add(layout.lines).wrapping_add(offset);
    let table = memory.word(at(TABLE))?;
    let entries = u64::from(memory.half(at(ENTRIES))?);
    let entry = match entries {
        0 => return Some(0),
        1 => 0,
        _ => rank(memory, memory.word(at(INDEX))?, position)?.checked_sub(1)?,
    };
    if entry >= entries {
        return None;
    }
    let line = memory.int(table.wrapping_add(entry.wrapping_mul(LINE_BYTES)))?;
    u32::try_from(line).ok()
}

/// How many entries begin at or before a position.
fn rank(memory: &dyn Memory, index: u64, position: u64) -> Option<u64> {
    let Some(beyond) = position.checked_sub(AT_ONCE) else {
        let word = memory.word(index.wrapping_add(position / IN_A_WORD * 8))?;
        return Some(word >> (position % IN_A_WORD * RANK_BITS) & 0x7f);
    };
    let block = index
        .wrapping_add(BLOCKS)
        .wrapping_add((beyond / BLOCK_POSITIONS).wrapping_mul(BLOCK_BYTES));
    let within = beyond % BLOCK_POSITIONS;
    let word = within / 64;
    let of_block = u64::from(memory.half(block)?);
    let of_word = match word.checked_sub(1) {
        Some(before) => memory.word(block.wrapping_add(8))? >> (9 * before) & 0x1ff,
        None => 0,
    };
    let bits = memory.word(block.wrapping_add(16 + word * 8))?;
    let up_to = bits << (63 - within % 64);
    Some(of_block + of_word + u64::from(up_to.count_ones()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::{
        collection::btree_set,
        prelude::{any, prop_assert_eq, proptest},
    };

    use super::{AT_ONCE, BLOCKS, Layout, line};
    use crate::memory::{Memory, Repeated};

    /// Words by their address.
    #[derive(Default)]
    struct Words(HashMap<u64, u64>);

    impl Memory for Words {
        fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
            for (at, byte) in (address..).zip(buffer.iter_mut()) {
                let Some(word) = self.0.get(&(at & !7)) else {
                    return false;
                };
                *byte = word.to_le_bytes()[(at & 7) as usize];
            }
            true
        }
    }

    const BODY: u64 = 0x1000;
    const LINES: u64 = 0x2000;
    const RANKS: u64 = 0x9000;

    /// The tables of a body whose runs begin at these positions, where the line of a run is ten
    /// more than its number.
    fn body(layout: &Layout, starts: &[u64]) -> Words {
        let mut words = Words::default();
        let mut lines = vec![0u8; starts.len() * 12 + 8];
        for (entry, _) in starts.iter().enumerate() {
            lines[entry * 12..entry * 12 + 4].copy_from_slice(&(entry as u32 + 10).to_le_bytes());
        }
        for (at, bytes) in (LINES..).step_by(8).zip(lines.chunks_exact(8)) {
            let word = bytes.try_into().map(u64::from_le_bytes);
            words.0.insert(at, word.unwrap_or_default());
        }
        let info = BODY + layout.lines;
        words.0.insert(info, LINES);
        words.0.insert(info + 16, starts.len() as u64);
        words.0.insert(info + 24, RANKS);
        let begun = |until: u64| starts.iter().filter(|start| **start <= until).count() as u64;
        for position in 0..AT_ONCE {
            let word = words.0.entry(RANKS + position / 9 * 8).or_default();
            *word |= begun(position) << (7 * (position % 9));
        }
        for block in 0..2 {
            let (first, at) = (AT_ONCE + block * 512, RANKS + BLOCKS + block * 80);
            words.0.insert(at, begun(first - 1));
            let mut ranks = 0;
            for word in 0..8 {
                let from = first + word * 64;
                if word > 0 {
                    ranks |= (begun(from - 1) - begun(first - 1)) << (9 * (word - 1));
                }
                let starts = starts.iter().filter(|s| (from..from + 64).contains(*s));
                let bits = starts.fold(0, |bits, start| bits | 1u64 << (start - from));
                words.0.insert(at + 16 + word * 8, bits);
            }
            words.0.insert(at + 8, ranks);
        }
        words
    }

    proptest! {
        #[test]
        fn every_position_has_the_line_of_its_run(starts in btree_set(1u64..1000, 1..90), minor in 1u32..5) {
            if let Some(layout) = Layout::of(minor) {
                let starts: Vec<u64> = std::iter::once(0).chain(starts).collect();
                let words = body(&layout, &starts);
                for position in 0..1000u64 {
                    let runs = starts.iter().filter(|start| **start <= position).count() as u32;
                    prop_assert_eq!(line(&layout, &words, BODY, position + 1), Some(runs + 9));
                }
            }
        }

        #[test]
        fn any_memory_is_survived(memory in any::<Vec<u8>>(), body in any::<u64>(), next in any::<u64>(), minor in 1u32..5) {
            if let Some(layout) = Layout::of(minor) {
                let _ = line(&layout, &Repeated(&memory), body, next);
            }
        }
    }
}
