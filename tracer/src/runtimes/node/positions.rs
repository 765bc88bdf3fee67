//! V8's tables of source positions: pure.

/// A place in a source text, in a function that may have been inlined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Characters from the beginning of the script; `None` where the table has none.
    pub offset: Option<u32>,
    /// Which of the inlined calls this is in, from 0; `None` in the function itself.
    pub inlining: Option<u64>,
}

impl Position {
    /// From the number by which tables hold it.
    ///
    /// src/codegen/source-position.h: a bit that tells positions in other languages, thirty for
    /// the place and sixteen for the call, both counted from 1.
    #[must_use]
    pub fn new(raw: u64) -> Option<Position> {
        if raw & 1 == 1 {
            return None;
        }
        let offset = (raw >> 1 & 0x3fff_ffff) as u32;
        let inlining = raw >> 31 & 0xffff;
        Some(Position {
            offset: offset.checked_sub(1),
            inlining: inlining.checked_sub(1),
        })
    }
}

/// A number in groups of seven bits, lowest first.
fn unsigned(table: &[u8], at: &mut usize) -> Option<u64> {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let byte = *table.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
        if shift > 63 {
            return None;
        }
    }
}

/// The same with the sign in the lowest bit.
fn signed(table: &[u8], at: &mut usize) -> Option<i64> {
    let value = unsigned(table, at)?;
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}

/// The position of the code at `offset`: that of the last entry at or before it.
///
/// src/codegen/source-position-table.cc: each entry is how much code it is after the one before
/// (its complement where no statement begins), and how much text.
#[must_use]
pub fn at(table: &[u8], offset: u64) -> Option<Position> {
    let offset = i64::try_from(offset).ok()?;
    // the first is counted from before the first instruction
    let (mut at, mut code, mut text) = (0, -1i64, 0i64);
    let mut found = None;
    while at < table.len() {
        let delta = signed(table, &mut at)?;
        let delta = if delta < 0 { !delta } else { delta };
        code = code.checked_add(delta)?;
        if code > offset {
            break;
        }
        text = text.checked_add(signed(table, &mut at)?)?;
        found = Some(text);
    }
    Position::new(u64::try_from(found?).ok()?)
}

/// Which bytecode the baseline code belongs to that returns to `offset`.
///
/// src/baseline/bytecode-offset-iterator.h: how much code the prologue took, then each bytecode.
/// `sizes` are the bytes of each bytecode for operands of single, double and quadruple width.
#[must_use]
pub fn baseline_bytecode(table: &[u8], offset: u64, bytecodes: &[u8], sizes: &[u8]) -> Option<u64> {
    let mut at = 0;
    let mut end = unsigned(table, &mut at)?;
    if end >= offset {
        return None;
    }
    let mut bytecode = 0;
    loop {
        end = end.checked_add(unsigned(table, &mut at)?)?;
        if end >= offset {
            return Some(bytecode as u64);
        }
        bytecode += bytecode_length(bytecodes.get(bytecode..)?, sizes)?;
    }
}

/// Bytes of the first bytecode, with what widens its operands.
fn bytecode_length(bytecodes: &[u8], sizes: &[u8]) -> Option<usize> {
    let count = sizes.len() / 3;
    let first = usize::from(*bytecodes.first()?);
    // src/interpreter/bytecodes.h begins with Wide, ExtraWide and their forms with a breakpoint.
    let (prefix, scale) = match first {
        0 | 2 => (1, 1),
        1 | 3 => (1, 2),
        _ => (0, 0),
    };
    let code = usize::from(*bytecodes.get(prefix)?);
    if code >= count {
        return None;
    }
    let length = usize::from(*sizes.get(scale * count + code)?);
    (length > 0).then_some(prefix + length)
}

/// The line of a position, from 1.
#[must_use]
pub fn line(ends: &[u32], offset: u32) -> u32 {
    let before = ends.partition_point(|end| *end < offset);
    u32::try_from(before).map_or(u32::MAX, |n| n.saturating_add(1))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Writes what [`unsigned`] reads.
    fn write(out: &mut Vec<u8>, mut value: u64) {
        loop {
            let byte = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                return out.push(byte);
            }
            out.push(byte | 0x80);
        }
    }

    fn write_signed(out: &mut Vec<u8>, value: i64) {
        write(out, (value << 1 ^ value >> 63) as u64);
    }

    fn table(entries: &[(i64, bool, i64)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut before = (-1, 0);
        for (code, statement, text) in entries {
            let delta = code - before.0;
            write_signed(&mut out, if *statement { delta } else { !delta });
            write_signed(&mut out, text - before.1);
            before = (*code, *text);
        }
        out
    }

    #[test]
    fn the_entry_before_counts() {
        let table = table(&[(0, true, 2 * 11), (5, false, 2 * 31), (9, true, 2 * 8)]);
        let offset = |at| super::at(&table, at).and_then(|p| p.offset);
        assert_eq!(offset(0), Some(10));
        assert_eq!(offset(4), Some(10));
        assert_eq!(offset(5), Some(30));
        assert_eq!(offset(100), Some(7));
    }

    #[test]
    fn inlined_calls_are_counted_from_one() {
        let raw = 3 << 31 | 5 << 1;
        let position = Position::new(raw).unwrap();
        assert_eq!((position.offset, position.inlining), (Some(4), Some(2)));
        assert_eq!(Position::new(raw | 1), None);
    }

    #[test]
    fn baseline_code_is_counted_by_bytecode() {
        // three bytecodes of one, three (wide) and two bytes; the prologue takes ten
        let sizes = [1, 1, 1, 1, 1, 2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 4];
        let bytecodes = [4, 0, 5, 9, 5, 7];
        let mut table = Vec::new();
        for taken in [10, 4, 200, 3] {
            write(&mut table, taken);
        }
        let at = |offset| baseline_bytecode(&table, offset, &bytecodes, &sizes);
        assert_eq!(at(10), None);
        assert_eq!(at(11), Some(0));
        assert_eq!(at(14), Some(0));
        assert_eq!(at(15), Some(1));
        assert_eq!(at(214), Some(1));
        assert_eq!(at(215), Some(4));
        assert_eq!(at(218), None, "behind the end of the code");
    }

    #[test]
    fn lines_are_counted_from_one() {
        let ends = [3, 7];
        assert_eq!(line(&ends, 0), 1);
        assert_eq!(line(&ends, 3), 1);
        assert_eq!(line(&ends, 4), 2);
        assert_eq!(line(&ends, 8), 3);
    }

    proptest! {
        #[test]
        fn any_table_ends(table: Vec<u8>, offset: u64, bytecodes: Vec<u8>, sizes: Vec<u8>) {
            let _ = at(&table, offset);
            let _ = baseline_bytecode(&table, offset, &bytecodes, &sizes);
        }

        #[test]
        fn numbers_come_back(value: u64, sign: i64) {
            let mut out = Vec::new();
            write(&mut out, value);
            write_signed(&mut out, sign >> 1);
            let mut at = 0;
            prop_assert_eq!(unsigned(&out, &mut at), Some(value));
            prop_assert_eq!(signed(&out, &mut at), Some(sign >> 1));
        }
    }
}
