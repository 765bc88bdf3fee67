//! Where CRuby keeps its frames, by version. Pure.
//!
//! The offsets of 3.1 and 3.3 were taken from the headers of 3.1.2 and 3.3.8 (x86-64), those of
//! 3.2 and 3.4 follow from the order of the members that came or went (`vm_core.h`, `iseq.h`,
//! `include/ruby/internal/core`). They do not change within a minor version; what follows from a
//! frame is checked each time.

/// In an instruction sequence: its body.
pub const SEQUENCE_BODY: u64 = 16;
/// In a body: the number of words of the instructions, and the instructions.
pub const BODY_WORDS: u64 = 4;
/// See [`BODY_WORDS`].
pub const BODY_INSTRUCTIONS: u64 = 8;
/// In a body: the path, the label and the first line.
pub const BODY_PATH: u64 = 64;
/// See [`BODY_PATH`].
pub const BODY_LABEL: u64 = 80;
/// See [`BODY_PATH`].
pub const BODY_FIRST_LINE: u64 = 88;
/// Size of an entry of the table of lines; the line is its first member.
pub const LINE_BYTES: u64 = 12;

/// In a method entry: its definition.
pub const METHOD_DEFINITION: u64 = 16;
/// In a definition: the number of the name that it was defined with.
pub const DEFINITION_NAME: u64 = 32;

/// Words of an object: flags, class, and its own from here on.
pub const OBJECT_BYTES: u64 = 16;
/// The type of an object, in its flags.
pub const TYPE_MASK: u64 = 0x1f;
/// Type of a string.
pub const TYPE_STRING: u64 = 0x05;
/// Type of an array.
pub const TYPE_ARRAY: u64 = 0x07;
/// Type of what the interpreter keeps in its heap for itself.
pub const TYPE_INTERNAL: u64 = 0x1a;
/// Which of those, in the flags.
pub const INTERNAL_SHIFT: u32 = 12;
/// See [`INTERNAL_SHIFT`].
pub const INTERNAL_MASK: u64 = 0xf;
/// An instruction sequence.
pub const INTERNAL_SEQUENCE: u64 = 7;
/// A method entry.
pub const INTERNAL_METHOD: u64 = 6;
/// In a string's flags: its characters are elsewhere. In an array's: its elements are in itself.
pub const FLAG_1: u64 = 1 << 13;

/// How a string says how long it is and where its characters are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strings {
    /// An embedded one has its length in its flags (3.1).
    LengthInFlags,
    /// The length comes first, then the characters or the pointer to them (3.2 on).
    LengthFirst,
}

/// What differs between versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Minor version of Ruby 3.
    pub minor: u32,
    /// Size of a frame.
    pub frame_bytes: u32,
    /// In a body: the table of lines (`insns_info.body`); then come the positions' array, the
    /// number of entries, and the positions' index.
    pub lines: u64,
    /// The first line is a tagged integer.
    pub tagged_line: bool,
    /// How strings are laid out.
    pub strings: Strings,
}

impl Layout {
    /// The layout of Ruby 3.`minor`; `None` for versions that are not known.
    #[must_use]
    pub fn of(minor: u32) -> Option<Layout> {
        let later = Layout {
            minor,
            frame_bytes: 56,
            lines: 112,
            tagged_line: false,
            strings: Strings::LengthFirst,
        };
        match minor {
            1 => Some(Layout {
                frame_bytes: 64,
                lines: 120,
                tagged_line: true,
                strings: Strings::LengthInFlags,
                ..later
            }),
            2 => Some(Layout {
                frame_bytes: 64,
                ..later
            }),
            3 | 4 => Some(later),
            _ => None,
        }
    }
}

/// Major and minor of a version as `ruby_version` has it: `3.1.2`.
#[must_use]
pub fn version(text: &[u8]) -> Option<(u32, u32)> {
    let text = text.split(|byte| *byte == 0).next()?;
    let mut parts = std::str::from_utf8(text).ok()?.split('.');
    let mut number = || parts.next()?.parse::<u32>().ok();
    Some((number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::{Layout, version};

    #[test]
    fn versions_are_read() {
        assert_eq!(version(b"3.1.2\0rest"), Some((3, 1)));
        assert_eq!(version(b"3.4.0dev\0"), Some((3, 4)));
        assert_eq!(version(b"three"), None);
        assert_eq!(version(b""), None);
    }

    #[test]
    fn versions_that_are_not_known_are_refused() {
        assert_eq!(Layout::of(0), None);
        assert_eq!(Layout::of(5), None);
        assert_eq!(Layout::of(3).map(|l| l.frame_bytes), Some(56));
    }
}
