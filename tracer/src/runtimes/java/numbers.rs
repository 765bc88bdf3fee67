//! Numbers and line numbers as HotSpot packs them: bytes in, values out.

/// A number below this is in one byte, from which on another byte follows (`UNSIGNED5`,
/// `utilities/unsigned5.hpp`).
const HIGH: u8 = 192;
/// Bytes of a number at most.
const BYTES_MAX: u32 = 5;

/// Reads packed numbers one after another.
#[derive(Debug, Clone)]
pub struct Numbers<'a> {
    bytes: &'a [u8],
    without_zeros: bool,
}

impl<'a> Numbers<'a> {
    /// From the first of these bytes; `without_zeros` since 20, when the zero byte came to mean the
    /// end.
    #[must_use]
    pub const fn new(bytes: &'a [u8], without_zeros: bool) -> Numbers<'a> {
        Numbers {
            bytes,
            without_zeros,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    /// The next number.
    pub fn unsigned(&mut self) -> Option<u32> {
        let excluded = u8::from(self.without_zeros);
        let mut sum: u32 = 0;
        for place in 0..BYTES_MAX {
            let byte = self.byte()?;
            let digit = byte.checked_sub(excluded)?;
            sum = sum.wrapping_add(u32::from(digit).wrapping_shl(6 * place));
            if byte < HIGH {
                break;
            }
        }
        Some(sum)
    }

    /// The next number, of which the lowest bit is the sign.
    pub fn signed(&mut self) -> Option<i32> {
        let packed = self.unsigned()?;
        let magnitude = (packed >> 1).cast_signed();
        Some(if packed & 1 == 0 {
            magnitude
        } else {
            !magnitude
        })
    }
}

/// Steps of a line table.
struct Lines<'a> {
    numbers: Numbers<'a>,
    position: u32,
    line: u32,
}

impl Iterator for Lines<'_> {
    /// A position in the bytecode, and the line that begins there.
    type Item = (u32, u32);

    fn next(&mut self) -> Option<(u32, u32)> {
        match self.numbers.byte()? {
            0 => return None,
            0xff => {
                let position = self.numbers.signed()?;
                let line = self.numbers.signed()?;
                self.position = self.position.wrapping_add_signed(position);
                self.line = self.line.wrapping_add_signed(line);
            }
            both => {
                self.position = self.position.wrapping_add(u32::from(both >> 3));
                self.line = self.line.wrapping_add(u32::from(both & 7));
            }
        }
        Some((self.position, self.line))
    }
}

/// The line of a position in the bytecode, and the method's first line, out of its compressed line
/// table (`CompressedLineNumberReadStream`, `oops/method.cpp`).
#[must_use]
pub fn line_of(table: &[u8], without_zeros: bool, position: u32) -> (Option<u32>, Option<u32>) {
    let lines = Lines {
        numbers: Numbers::new(table, without_zeros),
        position: 0,
        line: 0,
    };
    // The entry nearest below counts; where several begin at one place, the VM takes the first.
    let mut best: Option<(u32, u32)> = None;
    let mut first: Option<u32> = None;
    let mut exact = None;
    for (at, line) in lines.take(1 << 16) {
        first = Some(first.map_or(line, |known: u32| known.min(line)));
        if at == position && exact.is_none() {
            exact = Some(line);
        }
        if at < position && best.is_none_or(|(known, _)| at >= known) {
            best = Some((at, line));
        }
    }
    let plausible = |line: &u32| (1..=u32::from(u16::MAX)).contains(line);
    let line = exact.or(best.map(|(_, line)| line));
    (line.filter(plausible), first.filter(plausible))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{Numbers, line_of};

    /// Packs a number as the VM does.
    fn pack(mut value: u32, without_zeros: bool, into: &mut Vec<u8>) {
        let excluded = u32::from(without_zeros);
        let low = 192 - excluded;
        for place in 0..5 {
            if value < low || place == 4 {
                into.push((value + excluded) as u8);
                return;
            }
            value -= low;
            into.push((192 + (value & 63)) as u8);
            value >>= 6;
        }
    }

    proptest! {
        #[test]
        fn packed_numbers_come_back(values in proptest::collection::vec(any::<u32>(), 0..20), without_zeros: bool) {
            let mut bytes = Vec::new();
            for value in &values {
                pack(*value, without_zeros, &mut bytes);
            }
            let mut numbers = Numbers::new(&bytes, without_zeros);
            for value in values {
                assert_eq!(numbers.unsigned(), Some(value));
            }
            assert_eq!(numbers.unsigned(), None);
        }

        #[test]
        fn any_line_table_is_survived(bytes: Vec<u8>, without_zeros: bool, at: u32) {
            let _ = line_of(&bytes, without_zeros, at);
        }
    }

    #[test]
    fn signs_are_in_the_lowest_bit() {
        let mut bytes = Vec::new();
        for packed in [0, 1, 2, 3, 200] {
            pack(packed, true, &mut bytes);
        }
        let mut numbers = Numbers::new(&bytes, true);
        let found: Vec<_> = std::iter::from_fn(|| numbers.signed()).collect();
        assert_eq!(found, [0, -1, 1, -2, 100]);
    }

    #[test]
    fn a_position_has_the_line_of_the_entry_below_it() {
        // 0: line 12; 3: line 14; 10: line 13 (a step back, which takes the long form).
        let mut table = vec![0xff];
        pack(0, true, &mut table);
        pack(12 << 1, true, &mut table);
        table.push((3 << 3) | 2);
        table.push(0xff);
        pack(7 << 1, true, &mut table);
        pack(1, true, &mut table);
        table.push(0);
        assert_eq!(line_of(&table, true, 0), (Some(12), Some(12)));
        assert_eq!(line_of(&table, true, 2), (Some(12), Some(12)));
        assert_eq!(line_of(&table, true, 3), (Some(14), Some(12)));
        assert_eq!(line_of(&table, true, 400), (Some(13), Some(12)));
        assert_eq!(line_of(&[0], true, 4), (None, None));
    }
}
