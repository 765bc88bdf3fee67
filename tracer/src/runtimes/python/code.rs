//! From a code object and an instruction to function, file and line. Pure but for the memory it
//! is given.

use super::layout::{Layout, Lines};
use crate::{memory::Memory, model::Named};

/// Longest text read, characters.
const TEXT_MAX: u64 = 4096;
/// Longest line table read, bytes.
const LINES_MAX: u64 = 1 << 20;

/// Function, file and line of the instruction `offset` bytes into a code object.
#[must_use]
pub fn describe(layout: &Layout, memory: &dyn Memory, code: u64, offset: i64) -> Option<Named> {
    let name = text(
        layout,
        memory,
        memory.word(code.wrapping_add(layout.code_name))?,
    )?;
    let file = text(
        layout,
        memory,
        memory.word(code.wrapping_add(layout.code_filename))?,
    )?;
    let first = memory.int(code.wrapping_add(layout.code_first_line))?;
    let table = bytes(memory, memory.word(code.wrapping_add(layout.code_lines))?)?;
    let line = line(layout.lines, &table, first, offset);
    Some(Named {
        function: name,
        file: Some(file),
        line: line.and_then(|l| u32::try_from(l).ok()).filter(|l| *l > 0),
        inlined: false,
        function_line: u32::try_from(first).ok().filter(|l| *l > 0),
    })
}

/// A `str`: compact, of one, two or four bytes for a character.
#[must_use]
pub fn text(layout: &Layout, memory: &dyn Memory, object: u64) -> Option<String> {
    let length = memory.word(object.wrapping_add(16))?;
    let state = memory.int(object.wrapping_add(32))?;
    // Include/cpython/unicodeobject.h: interned 2 bits (3.8 to 3.12; the same sum later), kind 3,
    // compact 1, ascii 1.
    let (kind, compact, ascii) = ((state >> 2) & 7, state >> 5 & 1, state >> 6 & 1);
    if compact == 0 || length > TEXT_MAX || length == 0 {
        return None;
    }
    let start = object.wrapping_add(if ascii == 1 {
        layout.ascii_size
    } else {
        layout.compact_size
    });
    let width = match kind {
        1 | 2 | 4 => kind as usize,
        _ => return None,
    };
    let mut raw = vec![0; usize::try_from(length).ok()?.checked_mul(width)?];
    if !memory.read(start, &mut raw) {
        return None;
    }
    raw.chunks_exact(width)
        .map(|c| {
            let mut wide = [0; 4];
            wide[..width].copy_from_slice(c);
            char::from_u32(u32::from_le_bytes(wide))
        })
        .collect()
}

/// A `bytes` object's contents.
fn bytes(memory: &dyn Memory, object: u64) -> Option<Vec<u8>> {
    let length = memory.word(object.wrapping_add(16))?;
    if length > LINES_MAX {
        return None;
    }
    let mut raw = vec![0; usize::try_from(length).ok()?];
    memory
        .read(object.wrapping_add(32), &mut raw)
        .then_some(raw)
}

/// The line of the instruction at `offset`; for a frame that has not begun (negative offset) the
/// first one.
#[must_use]
pub fn line(lines: Lines, table: &[u8], first: i32, offset: i64) -> Option<i32> {
    if offset < 0 {
        return Some(first);
    }
    match lines {
        Lines::Lnotab => Some(lnotab(table, first, offset)),
        Lines::Pep626 => pep626(table, first, offset),
        Lines::Pep657 => pep657(table, first, offset),
    }
}

/// Pairs of (bytes of code, signed lines) to add; a pair takes effect at its address.
fn lnotab(table: &[u8], first: i32, offset: i64) -> i32 {
    let (mut line, mut at) = (first, 0);
    for pair in table.chunks_exact(2) {
        at += i64::from(pair[0]);
        if at > offset {
            break;
        }
        line = line.wrapping_add(i32::from(pair[1] as i8));
    }
    line
}

/// Pairs of (bytes of code, signed lines): the lines are added, then the line covers the bytes;
/// -128 means no line.
fn pep626(table: &[u8], first: i32, offset: i64) -> Option<i32> {
    let (mut line, mut end) = (first, 0);
    for pair in table.chunks_exact(2) {
        end += i64::from(pair[0]);
        let delta = pair[1] as i8;
        if delta != -128 {
            line = line.wrapping_add(i32::from(delta));
        }
        if end > offset {
            return (delta != -128).then_some(line);
        }
    }
    None
}

/// Entries that begin with a byte that has its top bit set: four bits of kind, three of length in
/// code units less one; by kind, a signed variable-length difference of lines follows.
fn pep657(table: &[u8], first: i32, offset: i64) -> Option<i32> {
    let (mut line, mut end, mut at) = (first, 0, 0);
    while let Some(head) = table.get(at) {
        let kind = (head >> 3) & 15;
        end += (i64::from(head & 7) + 1) * 2;
        at += 1;
        let delta = match kind {
            13 | 14 => signed(table.get(at..).unwrap_or_default()),
            10..=12 => i32::from(kind) - 10,
            _ => 0,
        };
        line = line.wrapping_add(delta);
        if end > offset {
            return (kind != 15).then_some(line);
        }
        while table.get(at).is_some_and(|b| b & 0x80 == 0) {
            at += 1;
        }
    }
    None
}

/// Six bits a byte, least significant first, bit 6 says that more follow; the lowest bit of the
/// sum is the sign.
fn signed(bytes: &[u8]) -> i32 {
    let mut value = 0u32;
    for (i, byte) in bytes.iter().take(6).enumerate() {
        value |= u32::from(byte & 63).wrapping_shl(6 * i as u32);
        if byte & 64 == 0 {
            break;
        }
    }
    let size = (value >> 1) as i32;
    if value & 1 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::super::layout::Layout;
    use super::{Lines, describe, line};
    use crate::memory::Repeated;

    #[test]
    fn lnotab_counts_signed_lines() {
        // def f(): three lines, then back one.
        let table = [0, 1, 8, 1, 6, 255];
        let at = |offset| line(Lines::Lnotab, &table, 10, offset);
        assert_eq!(
            [at(0), at(7), at(8), at(13), at(14)],
            [Some(11), Some(11), Some(12), Some(12), Some(11)]
        );
        assert_eq!(at(-1), Some(10));
    }

    #[test]
    fn pep626_covers_ranges_and_knows_no_line() {
        let table = [4, 1, 6, 128, 2, 2];
        let at = |offset| line(Lines::Pep626, &table, 10, offset);
        assert_eq!(
            [at(0), at(4), at(10), at(12)],
            [Some(11), None, Some(13), None]
        );
    }

    #[test]
    fn pep657_reads_all_kinds() {
        // Short form, one-line form (+1), no columns (-2), long form (+70), none.
        let table = [
            0x80 | 1 << 3,
            0x12,
            0x80 | 11 << 3 | 1,
            1,
            2,
            0x80 | 13 << 3,
            0b101,
            0x80 | 14 << 3,
            0b1001100,
            0b10,
            0,
            1,
            2,
            0x80 | 15 << 3,
        ];
        let at = |offset| line(Lines::Pep657, &table, 10, offset);
        assert_eq!(
            [at(0), at(2), at(4), at(6), at(8), at(10)],
            [Some(10), Some(11), Some(11), Some(9), Some(9 + 70), None]
        );
    }

    proptest! {
        #[test]
        fn any_table_is_survived(table in any::<Vec<u8>>(), first in any::<i32>(), offset in any::<i64>()) {
            for lines in [Lines::Lnotab, Lines::Pep626, Lines::Pep657] {
                let _ = line(lines, &table, first, offset);
            }
        }

        #[test]
        fn any_memory_is_survived(memory in any::<Vec<u8>>(), code in any::<u64>(), offset in any::<i64>(), minor in 8u32..13) {
            if let Some(layout) = Layout::of(minor, &[]) {
                let _ = describe(&layout, &Repeated(&memory), code, offset);
            }
        }
    }
}
