//! Where a function of x86-64 returns, by the lengths of its instructions (Intel's manual, volume 2,
//! chapter 2 and appendix A). What compilers don't make for such functions is not guessed: then
//! nothing is said, because a probe in the middle of an instruction would change what it does.

/// Longest function that is looked through, bytes.
pub const FUNCTION_BYTES_MAX: u64 = 4_096;

/// What an instruction is, beside its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It goes on behind it, or calls.
    Plain,
    /// It returns.
    Return,
    /// It may jump as far as this behind its end.
    Jump(i64),
}

/// Offsets in `code`, a whole function, of the instructions by which it returns. `None` where one of
/// its instructions is not known, or one jumps into another, or it never returns.
#[must_use]
pub fn returns(code: &[u8]) -> Option<Vec<u64>> {
    let (mut starts, mut targets, mut found) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = 0;
    while at < code.len() {
        let (len, kind) = instruction(&code[at..])?;
        starts.push(at);
        match kind {
            Kind::Return => found.push(at as u64),
            Kind::Jump(by) => targets.push((at + len) as i64 + by),
            Kind::Plain => {}
        }
        at += len;
    }
    // others lie outside: what a compiler keeps apart because it is seldom run
    let inside = targets.iter().filter_map(|&to| usize::try_from(to).ok());
    let aligned = inside
        .filter(|&to| to < code.len())
        .all(|to| starts.binary_search(&to).is_ok());
    (at == code.len() && aligned && !found.is_empty()).then_some(found)
}

/// Bytes that are read one after the other.
struct Reader<'a> {
    code: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.code.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.at += bytes;
        (self.at <= self.code.len()).then_some(())
    }

    /// A displacement of one or four bytes at the end of an instruction.
    fn displacement(&mut self, bytes: usize) -> Option<i64> {
        let from = self.at;
        self.skip(bytes)?;
        let of = &self.code[from..self.at];
        match *of {
            [byte] => Some(i64::from(byte as i8)),
            [a, b, c, d] => Some(i64::from(i32::from_le_bytes([a, b, c, d]))),
            _ => None,
        }
    }

    /// A ModR/M byte with what belongs to it; its middle field.
    fn operand(&mut self) -> Option<u8> {
        let operand = self.byte()?;
        let (place, register) = (operand >> 6, operand & 7);
        if place != 3 {
            let base = match register {
                4 => self.byte()? & 7,
                other => other,
            };
            self.skip(match place {
                0 if base == 5 => 4,
                0 => 0,
                1 => 1,
                _ => 4,
            })?;
        }
        Some(operand >> 3 & 7)
    }
}

/// The first instruction's length, and what it is.
fn instruction(code: &[u8]) -> Option<(usize, Kind)> {
    /// Longest instruction there is.
    const BYTES_MAX: usize = 15;
    let mut reader = Reader { code, at: 0 };
    let (mut short, mut wide, mut repeat) = (false, false, false);
    let mut opcode = reader.byte()?;
    loop {
        match opcode {
            0x66 => short = true,
            0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 => {}
            0xf2 | 0xf3 => repeat = true,
            _ => break,
        }
        opcode = reader.byte()?;
    }
    if opcode & 0xf0 == 0x40 {
        wide = opcode & 8 != 0;
        opcode = reader.byte()?;
    }
    let immediate = if short { 2 } else { 4 };
    let kind = match opcode {
        0x0f => return two_bytes(&mut reader, short),
        0x00..=0x3f => {
            match opcode & 7 {
                0..=3 => drop(reader.operand()?),
                4 => reader.skip(1)?,
                5 => reader.skip(immediate)?,
                _ => return None,
            }
            Kind::Plain
        }
        0x50..=0x5f | 0x90..=0x99 | 0x9b..=0x9f | 0xa4..=0xa7 | 0xaa..=0xaf | 0xc9 | 0xcc => {
            Kind::Plain
        }
        0xf4 | 0xf5 | 0xf8 | 0xf9 | 0xfc | 0xfd => Kind::Plain,
        0x63 | 0x84..=0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe | 0xff => {
            let field = reader.operand()?;
            // jumps by a table may go anywhere in the function, and out of it
            if opcode == 0xff && matches!(field, 3 | 5 | 7) {
                return None;
            }
            Kind::Plain
        }
        0x68 | 0xa9 => {
            reader.skip(immediate)?;
            Kind::Plain
        }
        0x6a | 0xa8 | 0xb0..=0xb7 => {
            reader.skip(1)?;
            Kind::Plain
        }
        0x69 | 0x81 | 0xc7 => {
            reader.operand()?;
            reader.skip(immediate)?;
            Kind::Plain
        }
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => {
            reader.operand()?;
            reader.skip(1)?;
            Kind::Plain
        }
        0xb8..=0xbf => {
            reader.skip(if wide { 8 } else { immediate })?;
            Kind::Plain
        }
        0xf6 | 0xf7 => {
            let field = reader.operand()?;
            if field < 2 {
                reader.skip(if opcode == 0xf6 { 1 } else { immediate })?;
            }
            Kind::Plain
        }
        0x70..=0x7f | 0xeb if !short => Kind::Jump(reader.displacement(1)?),
        0xe9 if !short => Kind::Jump(reader.displacement(4)?),
        0xe8 if !short => {
            reader.skip(4)?;
            Kind::Plain
        }
        // `rep ret` and `bnd ret` are left alone: a probe wants the plain one
        0xc3 if !repeat && !short && reader.at == 1 => Kind::Return,
        _ => return None,
    };
    (reader.at <= BYTES_MAX).then_some((reader.at, kind))
}

/// The rest of an instruction that begins with 0f.
fn two_bytes(reader: &mut Reader<'_>, short: bool) -> Option<(usize, Kind)> {
    let opcode = reader.byte()?;
    match opcode {
        0x05 | 0x0b | 0x31 | 0x77 | 0xa2 | 0xc8..=0xcf => {}
        0x0d | 0x10..=0x1f | 0x28..=0x2f | 0x40..=0x6f | 0x74..=0x76 | 0x7c..=0x7f => {
            reader.operand()?;
        }
        0x90..=0x9f | 0xa3 | 0xa5 | 0xab | 0xad..=0xb1 | 0xb3 | 0xb6..=0xb8 | 0xbb..=0xc1 => {
            reader.operand()?;
        }
        0xc3 | 0xc7 | 0xd0..=0xfe => drop(reader.operand()?),
        0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => {
            reader.operand()?;
            reader.skip(1)?;
        }
        0x38 => {
            reader.skip(1)?;
            reader.operand()?;
        }
        0x3a => {
            reader.skip(1)?;
            reader.operand()?;
            reader.skip(1)?;
        }
        0x80..=0x8f if !short => {
            let by = reader.displacement(4)?;
            return Some((reader.at, Kind::Jump(by)));
        }
        _ => return None,
    }
    Some((reader.at, Kind::Plain))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As compilers make them: OpenSSL's `SSL_read_ex` of Debian 12, and a function with branches, a
    /// stack protector, an index, constants and padding.
    #[test]
    fn the_ends_of_functions_are_found() {
        let code = [
            0x48, 0x83, 0xec, 0x08, 0xe8, 0xc7, 0xfd, 0xff, 0xff, 0x31, 0xd2, 0x85, 0xc0, 0x0f,
            0x48, 0xc2, 0x48, 0x83, 0xc4, 0x08, 0x31, 0xd2, 0x31, 0xc9, 0x31, 0xf6, 0x31, 0xff,
            0xc3,
        ];
        assert_eq!(returns(&code), Some(vec![28]));
        let code = [
            &[0xf3, 0x0f, 0x1e, 0xfa][..],                  // endbr64
            &[0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0], // mov %fs:0x28,%rax
            &[0x85, 0xd2],                                  // test %edx,%edx
            &[0x78, 0x0b],                                  // js +11
            &[0x42, 0x8b, 0x44, 0xa7, 0x08],                // mov 8(%rdi,%r12,4),%eax
            &[0x48, 0x8b, 0x0d, 0xc3, 0xc3, 0xc3, 0xc3],    // mov -0x3c3c3c3d(%rip),%rcx
            &[0xc3],
            &[0x66, 0x0f, 0x1f, 0x44, 0, 0],             // nopw
            &[0x48, 0xb8, 0xc3, 0, 0, 0, 0, 0, 0, 0xc3], // movabs
            &[0xf6, 0x87, 0xf1, 9, 0, 0, 0xc3],          // testb $0xc3,0x9f1(%rdi)
            &[0x66, 0xc7, 0x07, 0xc3, 0xc3],             // movw $0xc3c3,(%rdi)
            &[0x0f, 0x85, 0xe0, 0xff, 0xff, 0xff],       // jne -32
            &[0xc3],
        ];
        let jumps = code.concat();
        // the first jump goes into an instruction
        assert_eq!(returns(&jumps), None);
        let mut right = jumps.clone();
        right[16] = 12;
        let back = right.len() - 5;
        right[back] = (-34i8) as u8;
        assert_eq!(returns(&right), Some(vec![29, 64]));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        // cut off, an instruction of AVX, no return, `rep ret`
        for code in [
            &[0x48, 0x83][..],
            &[0xc5, 0xf8, 0x77, 0xc3],
            &[0x90],
            &[0xf3, 0xc3],
        ] {
            assert_eq!(returns(code), None, "{code:x?}");
        }
        assert_eq!(returns(&[]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(code in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(found) = returns(&code) {
                for at in found {
                    prop_assert_eq!(code[at as usize], 0xc3);
                }
            }
        }
    }
}
