//! From a frame as the kernel side found it to function, file and line. Pure but for the memory it
//! is given.

use tracer_ebpf::RuntimeFrame;

use super::{
    layout::{
        BODY_FIRST_LINE, BODY_INSTRUCTIONS, BODY_LABEL, BODY_PATH, BODY_WORDS, DEFINITION_NAME,
        INTERNAL_METHOD, INTERNAL_SEQUENCE, Layout, METHOD_DEFINITION, SEQUENCE_BODY,
    },
    lines,
    object::{element, is_internal, text},
    symbols::Symbols,
};
use crate::{memory::Memory, model::Named, runtimes::script::Found};

/// Where methods written in C are, in the form in which Ruby says it of its own.
const INTERNAL: &str = "<internal:C>";

/// What is at a frame, read now.
#[must_use]
pub fn describe(
    layout: &Layout,
    symbols: Option<&Symbols>,
    memory: &dyn Memory,
    frame: &RuntimeFrame,
) -> Found {
    if frame.instruction == 0 {
        // Written in C, a block given by C, or one that has not begun.
        if !is_internal(memory, frame.code, INTERNAL_METHOD) {
            return Found::Nothing;
        }
        let named = symbols.and_then(|symbols| internal(layout, symbols, memory, frame.code));
        return named.map_or(Found::Nothing, Found::Function);
    }
    sequence(layout, memory, frame.code, frame.instruction).unwrap_or(Found::Doubtful)
}

/// The method of this entry.
fn internal(layout: &Layout, symbols: &Symbols, memory: &dyn Memory, entry: u64) -> Option<Named> {
    let definition = memory.word(entry.wrapping_add(METHOD_DEFINITION))?;
    let id = memory.word(definition.wrapping_add(DEFINITION_NAME))?;
    Some(Named {
        function: symbols.name(layout, memory, id)?,
        file: Some(INTERNAL.to_owned()),
        ..Named::default()
    })
}

/// The function whose instructions these are.
fn sequence(layout: &Layout, memory: &dyn Memory, sequence: u64, next: u64) -> Option<Found> {
    if !is_internal(memory, sequence, INTERNAL_SEQUENCE) {
        return None;
    }
    let body = memory.word(sequence.wrapping_add(SEQUENCE_BODY))?;
    let words = u64::from(memory.half(body.wrapping_add(BODY_WORDS))?);
    let start = memory.word(body.wrapping_add(BODY_INSTRUCTIONS))?;
    let position = next.checked_sub(start)?;
    if position % 8 != 0 || position / 8 > words {
        return None;
    }
    let line = lines::line(layout, memory, body, position / 8);
    if line == Some(0) {
        return Some(Found::Nothing);
    }
    let function = text(layout, memory, memory.word(body.wrapping_add(BODY_LABEL))?)?;
    let file = path(layout, memory, memory.word(body.wrapping_add(BODY_PATH))?)?;
    let first = memory.word(body.wrapping_add(BODY_FIRST_LINE))?;
    let first = if layout.tagged_line {
        first >> 1
    } else {
        first & u64::from(u32::MAX)
    };
    Some(Found::Function(Named {
        function,
        file: Some(file),
        line,
        inlined: false,
        function_line: u32::try_from(first).ok().filter(|line| *line != 0),
    }))
}

/// A path, or a path and what it is without links, which is preferred: it says from which package
/// a file is.
fn path(layout: &Layout, memory: &dyn Memory, object: u64) -> Option<String> {
    let of_pair = |index| text(layout, memory, element(memory, object, index)?);
    of_pair(1)
        .or_else(|| of_pair(0))
        .or_else(|| text(layout, memory, object))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use proptest::prelude::{any, proptest};
    use tracer_ebpf::RuntimeFrame;

    use super::describe;
    use crate::{
        memory::{Memory, Repeated},
        runtimes::{ruby::layout::Layout, script::Found},
    };

    /// Memory from 0x1000 on.
    struct Image(Vec<u8>);

    impl Memory for Image {
        fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
            let at = address.checked_sub(0x1000).map(|at| at as usize);
            let bytes = at.and_then(|at| self.0.get(at..at.checked_add(buffer.len())?));
            bytes.map(|bytes| buffer.copy_from_slice(bytes)).is_some()
        }
    }

    impl Image {
        fn words(&mut self, address: u64, values: &[u64]) {
            let at = address as usize - 0x1000;
            for (place, value) in self.0[at..].chunks_exact_mut(8).zip(values) {
                place.copy_from_slice(&value.to_le_bytes());
            }
        }

        fn text(&mut self, address: u64, text: &str) {
            let at = address as usize - 0x1000;
            self.0[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
    }

    const SEQUENCE: u64 = 0x1100;
    const BODY: u64 = 0x1200;

    /// A method at line 30 with one entry in its table of lines, 33.
    fn method(layout: &Layout) -> Image {
        let mut image = Image(vec![0; 0x1000]);
        image.words(SEQUENCE, &[0x701a, 0, BODY]);
        image.words(BODY, &[20 << 32, 0x1800]);
        image.words(BODY + 64, &[0x1500, 0, 0x1600]);
        let tagged = u64::from(layout.tagged_line);
        image.words(BODY + 88, &[30 << tagged | tagged]);
        image.words(BODY + layout.lines, &[0x1900, 0, 1, 0]);
        image.words(0x1900, &[33]);
        image.words(0x1500, &[0x2007 | 2 << 15, 0, 8, 0x1700]);
        if layout.tagged_line {
            image.words(0x1600, &[0x05 | 5 << 14, 0]);
            image.text(0x1610, "check");
            image.words(0x1700, &[0x2005, 0, 12, 0x1a00]);
        } else {
            image.words(0x1600, &[0x05, 0, 5]);
            image.text(0x1618, "check");
            image.words(0x1700, &[0x2005, 0, 12, 0x1a00]);
        }
        image.text(0x1a00, "/srv/lamp.rb");
        image
    }

    #[test]
    fn a_method_is_named_with_its_place() {
        for minor in 1..5 {
            let layout = Layout::of(minor).unwrap();
            let frame = RuntimeFrame {
                code: SEQUENCE,
                instruction: 0x1828,
                extra: 0,
            };
            let Found::Function(named) = describe(&layout, None, &method(&layout), &frame) else {
                panic!("3.{minor} was not named");
            };
            assert_eq!(named.function, "check");
            assert_eq!(named.file.as_deref(), Some("/srv/lamp.rb"));
            assert_eq!((named.line, named.function_line), (Some(33), Some(30)));
        }
    }

    #[test]
    fn what_is_no_method_is_not_named() {
        let layout = Layout::of(3).unwrap();
        let mut image = method(&layout);
        let mut frame = RuntimeFrame {
            code: SEQUENCE,
            instruction: 0x1800 + 21 * 8,
            extra: 0,
        };
        assert_eq!(describe(&layout, None, &image, &frame), Found::Doubtful);
        frame.instruction = 0x1828;
        image.words(SEQUENCE, &[0x601a]);
        assert_eq!(describe(&layout, None, &image, &frame), Found::Doubtful);
        frame.instruction = 0;
        assert_eq!(describe(&layout, None, &image, &frame), Found::Nothing);
    }

    proptest! {
        #[test]
        fn any_memory_is_survived(memory in any::<Vec<u8>>(), code in any::<u64>(), instruction in any::<u64>(), minor in 1u32..5) {
            if let Some(layout) = Layout::of(minor) {
                let frame = RuntimeFrame { code, instruction, extra: 0 };
                let _ = describe(&layout, None, &Repeated(&memory), &frame);
            }
        }
    }
}
