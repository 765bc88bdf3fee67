//! Where PHP keeps its frames, by version. Pure.
//!
//! The offsets of 8.2 and 8.4 were taken from the headers of 8.2.36 and 8.4.27 (x86-64, with and
//! without threads), those of 8.3 and 8.5 follow from the order of the members that came or went
//! (`Zend/zend_compile.h`, `Zend/zend_globals.h`). What follows from a frame is checked each time,
//! so an offset that does not hold gives no name rather than a wrong one.

/// In a function of any kind: its kind, its name and its class.
pub const FUNCTION_KIND: u64 = 0;
/// See [`FUNCTION_KIND`].
pub const FUNCTION_NAME: u64 = 8;
/// See [`FUNCTION_KIND`].
pub const FUNCTION_CLASS: u64 = 16;
/// Kind of a function that is written in C.
pub const KIND_INTERNAL: u8 = 1;
/// Kind of a function of a script.
pub const KIND_SCRIPT: u8 = 2;
/// Kind of a piece of code given to `eval`.
pub const KIND_EVAL: u8 = 4;

/// In a class: its kind (1 or 2) and its name.
pub const CLASS_KIND: u64 = 0;
/// See [`CLASS_KIND`].
pub const CLASS_NAME: u64 = 8;

/// Size of an instruction.
pub const INSTRUCTION_BYTES: u64 = 32;

/// In a string: type and flags, hash, length and the characters.
pub const STRING_TYPE: u64 = 4;
/// See [`STRING_TYPE`].
pub const STRING_HASH: u64 = 8;
/// See [`STRING_TYPE`].
pub const STRING_LENGTH: u64 = 16;
/// See [`STRING_TYPE`].
pub const STRING_TEXT: u64 = 24;
/// The low bits of a string's type (`IS_STRING`).
pub const TYPE_STRING: u32 = 6;

/// What differs between versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Minor version of PHP 8.
    pub minor: u32,
    /// `executor_globals.current_execute_data`
    pub current: u64,
    /// `zend_op_array.last`: how many instructions there are.
    pub count: u64,
    /// `zend_op_array.opcodes`: the instructions.
    pub instructions: u64,
    /// `zend_op_array.filename`
    pub file: u64,
    /// `zend_op_array.line_start`
    pub first_line: u64,
}

impl Layout {
    /// The layout of PHP 8.`minor`; `None` for versions that are not known.
    #[must_use]
    pub fn of(minor: u32) -> Option<Layout> {
        let (current, count, instructions, file) = match minor {
            2 => (488, 80, 88, 152),
            3 => (488, 76, 80, 144),
            4 => (488, 96, 104, 168),
            5 => (512, 96, 104, 168),
            _ => return None,
        };
        Some(Layout {
            minor,
            current,
            count,
            instructions,
            file,
            first_line: file + 8,
        })
    }
}

/// The version that a PHP executable or library states in the header it answers requests with:
/// major and minor.
#[must_use]
pub fn version(read_only_data: &[u8]) -> Option<(u32, u32)> {
    const HEADER: &[u8] = b"X-Powered-By: PHP/";
    let mut from = 0;
    loop {
        let rest = read_only_data.get(from..)?;
        let at = memchr::memmem::find(rest, HEADER)?;
        let text = rest.get(at + HEADER.len()..)?;
        if let Some(version) = numbers(text) {
            return Some(version);
        }
        from = from.checked_add(at + HEADER.len())?;
    }
}

/// `8.2.` at the beginning of a text.
fn numbers(text: &[u8]) -> Option<(u32, u32)> {
    let text = text.get(..text.len().min(16))?;
    let mut parts = text.split(|byte| *byte == b'.');
    let mut number = || {
        let digits = std::str::from_utf8(parts.next()?).ok()?;
        digits.parse::<u32>().ok()
    };
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::{Layout, version};

    #[test]
    fn versions_are_stated_in_a_header() {
        assert_eq!(version(b"..X-Powered-By: PHP/8.2.36\0.."), Some((8, 2)));
        assert_eq!(
            version(b"X-Powered-By: PHP/\0X-Powered-By: PHP/8.4.0-dev"),
            Some((8, 4))
        );
        assert_eq!(version(b"X-Powered-By: PHP/8"), None);
        assert_eq!(version(b""), None);
    }

    #[test]
    fn versions_that_are_not_known_are_refused() {
        assert_eq!(Layout::of(1), None);
        assert_eq!(Layout::of(6), None);
        assert_eq!(Layout::of(3).map(|l| l.first_line), Some(152));
    }
}
