//! From a frame as the kernel side found it to function, file and line. Pure but for the memory it
//! is given.
//!
//! Functions of a script do not outlive a request where no cache keeps them, and others may take
//! their place a moment later. So the kernel side notes the line, and a part of the hash of the
//! file's name, at the moment; what is read afterwards has to fit them.

use tracer_ebpf::{PHP_ADDRESS, PHP_OUTERMOST, RuntimeFrame};

use super::layout::{
    CLASS_KIND, CLASS_NAME, FUNCTION_CLASS, FUNCTION_KIND, FUNCTION_NAME, INSTRUCTION_BYTES,
    KIND_EVAL, KIND_INTERNAL, KIND_SCRIPT, Layout, STRING_HASH, STRING_LENGTH, STRING_TEXT,
    STRING_TYPE, TYPE_STRING,
};
use crate::{memory::Memory, model::Named, runtimes::script::Found};

/// Where functions written in C are, as PHP says it.
pub const INTERNAL: &str = "[internal function]";
/// The code of a file outside of functions, as PHP says it.
const MAIN: &str = "{main}";
/// Longest name or path read, bytes.
const TEXT_MAX: u64 = 4096;

/// Whether this is the outermost frame of one run of the virtual machine.
#[must_use]
pub fn is_outermost(frame: &RuntimeFrame) -> bool {
    frame.extra as u32 & PHP_OUTERMOST != 0
}

/// What is at a frame, read now.
#[must_use]
pub fn describe(layout: &Layout, memory: &dyn Memory, frame: &RuntimeFrame) -> Found {
    let function = frame.code;
    if function == 0 {
        return Found::Nothing;
    }
    let named = match memory.byte(function.wrapping_add(FUNCTION_KIND)) {
        Some(KIND_INTERNAL) if frame.instruction == 0 => internal(memory, function),
        Some(KIND_SCRIPT | KIND_EVAL) => script(layout, memory, function, frame),
        _ => None,
    };
    named.map_or(Found::Doubtful, |named| {
        if named.function.is_empty() {
            Found::Nothing
        } else {
            Found::Function(named)
        }
    })
}

/// A function written in C. One without a name stands at the bottom of a fiber.
fn internal(memory: &dyn Memory, function: u64) -> Option<Named> {
    Some(Named {
        function: qualified(memory, function)?.unwrap_or_default(),
        file: Some(INTERNAL.to_owned()),
        ..Named::default()
    })
}

/// A function of a script, a file's code outside of functions, or what `eval` was given.
fn script(
    layout: &Layout,
    memory: &dyn Memory,
    function: u64,
    frame: &RuntimeFrame,
) -> Option<Named> {
    let name = qualified(memory, function)?;
    let file = memory.word(function.wrapping_add(layout.file))?;
    let hash = memory.word(file.wrapping_add(STRING_HASH))?;
    if hash & 0xffff != frame.instruction >> 48 {
        return None;
    }
    let file = text(memory, file)?;
    let first = memory.half(function.wrapping_add(layout.first_line))?;
    let start = memory.word(function.wrapping_add(layout.instructions))?;
    let count = u64::from(memory.half(function.wrapping_add(layout.count))?);
    let at = (frame.instruction & PHP_ADDRESS).checked_sub(start);
    // While an exception is on its way, the instruction is not one of the function's.
    let line = at
        .filter(|at| at % INSTRUCTION_BYTES == 0 && at / INSTRUCTION_BYTES < count)
        .map(|_| (frame.extra >> 32) as u32)
        .filter(|line| *line != 0 && (name.is_none() || *line >= first));
    Some(Named {
        function: name.unwrap_or_else(|| MAIN.to_owned()),
        file: Some(file),
        line,
        inlined: false,
        function_line: Some(first).filter(|first| *first != 0),
    })
}

/// `Class::function`; `Some(None)` for code outside of functions.
fn qualified(memory: &dyn Memory, function: u64) -> Option<Option<String>> {
    let name = memory.word(function.wrapping_add(FUNCTION_NAME))?;
    if name == 0 {
        return Some(None);
    }
    let name = text(memory, name)?;
    let class = memory.word(function.wrapping_add(FUNCTION_CLASS))?;
    if class == 0 {
        return Some(Some(name));
    }
    if !matches!(memory.byte(class.wrapping_add(CLASS_KIND)), Some(1 | 2)) {
        return None;
    }
    let class = text(memory, memory.word(class.wrapping_add(CLASS_NAME))?)?;
    // The name of a class without one goes on with the place where it stands.
    let class = class.split('\0').next().unwrap_or_default();
    Some(Some(format!("{class}::{name}")))
}

/// A string that is one: its type says so, and it is text.
fn text(memory: &dyn Memory, string: u64) -> Option<String> {
    if memory.half(string.wrapping_add(STRING_TYPE))? & 0xf != TYPE_STRING {
        return None;
    }
    let length = memory.word(string.wrapping_add(STRING_LENGTH))?;
    if length == 0 || length > TEXT_MAX {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    if !memory.read(string.wrapping_add(STRING_TEXT), &mut bytes) {
        return None;
    }
    let text = String::from_utf8(bytes).ok()?;
    text.chars()
        .all(|c| c == '\0' || !c.is_control())
        .then_some(text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use proptest::prelude::{any, proptest};
    use tracer_ebpf::RuntimeFrame;

    use super::{describe, is_outermost};
    use crate::{
        memory::{Memory, Repeated},
        runtimes::{php::layout::Layout, script::Found},
    };

    /// Memory from 0x1000 on.
    struct Image(Vec<u8>);

    impl Memory for Image {
        fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
            let Some(at) = address.checked_sub(0x1000) else {
                return false;
            };
            match self.0.get(at as usize..at as usize + buffer.len()) {
                Some(bytes) => buffer.copy_from_slice(bytes),
                None => return false,
            }
            true
        }
    }

    impl Image {
        fn put(&mut self, address: u64, value: u64) {
            let at = address as usize - 0x1000;
            self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }

        fn string(&mut self, address: u64, text: &str) {
            self.put(address, 6 << 32 | 1);
            self.put(address + 8, 0x8000_0000_0000_beef);
            self.put(address + 16, text.len() as u64);
            let at = address as usize + 24 - 0x1000;
            self.0[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
    }

    const FUNCTION: u64 = 0x1000;

    fn method() -> (Image, RuntimeFrame) {
        let layout = Layout::of(2).unwrap();
        let mut image = Image(vec![0; 0x1000]);
        image.put(FUNCTION, 2);
        image.put(FUNCTION + 8, 0x1400);
        image.put(FUNCTION + 16, 0x1300);
        image.put(FUNCTION + layout.count, 4);
        image.put(FUNCTION + layout.instructions, 0x1200);
        image.put(FUNCTION + layout.file, 0x1500);
        image.put(FUNCTION + layout.first_line, 12);
        image.put(0x1300, 2);
        image.put(0x1308, 0x1600);
        image.string(0x1400, "price");
        image.string(0x1500, "/srv/postage.php");
        image.string(0x1600, "Shop\\Counter");
        let frame = RuntimeFrame {
            code: FUNCTION,
            instruction: 0x1240 | 0xbeef << 48,
            extra: 16 << 32 | 1 << 17,
        };
        (image, frame)
    }

    fn described(image: &Image, frame: &RuntimeFrame) -> Found {
        describe(&Layout::of(2).unwrap(), image, frame)
    }

    #[test]
    fn a_method_is_named_with_its_class_and_place() {
        let (image, frame) = method();
        let Found::Function(named) = described(&image, &frame) else {
            panic!("not named");
        };
        assert_eq!(named.function, "Shop\\Counter::price");
        assert_eq!(named.file.as_deref(), Some("/srv/postage.php"));
        assert_eq!((named.line, named.function_line), (Some(16), Some(12)));
        assert!(is_outermost(&frame));
    }

    #[test]
    fn what_has_changed_since_is_not_named() {
        let (mut image, frame) = method();
        image.put(0x1508, 0x8000_0000_0000_bee0);
        assert_eq!(described(&image, &frame), Found::Doubtful);
        let (mut image, frame) = method();
        image.put(0x1400, 7 << 32);
        assert_eq!(described(&image, &frame), Found::Doubtful);
        let (mut image, frame) = method();
        image.put(FUNCTION, 9);
        assert_eq!(described(&image, &frame), Found::Doubtful);
    }

    #[test]
    fn an_instruction_of_another_function_gives_no_line() {
        let (image, mut frame) = method();
        frame.instruction += 0x80;
        let Found::Function(named) = described(&image, &frame) else {
            panic!("not named");
        };
        assert_eq!(named.line, None);
    }

    #[test]
    fn functions_in_c_and_frames_without_function() {
        let (mut image, _) = method();
        image.put(FUNCTION, 1);
        image.put(FUNCTION + 16, 0);
        let mut frame = RuntimeFrame {
            code: FUNCTION,
            ..RuntimeFrame::default()
        };
        let Found::Function(named) = described(&image, &frame) else {
            panic!("not named");
        };
        assert_eq!((named.function.as_str(), named.line), ("price", None));
        frame.code = 0;
        assert_eq!(described(&image, &frame), Found::Nothing);
    }

    proptest! {
        #[test]
        fn any_memory_is_survived(memory in any::<Vec<u8>>(), code in any::<u64>(), instruction in any::<u64>(), extra in any::<u64>(), minor in 2u32..6) {
            if let Some(layout) = Layout::of(minor) {
                let frame = RuntimeFrame { code, instruction, extra };
                let _ = describe(&layout, &Repeated(&memory), &frame);
            }
        }
    }
}
