//! Frames of V8's read from any memory, for the fuzzer and property tests.

use std::sync::Arc;

use tracer_ebpf::RuntimeFrame;

use super::{places::Places, samples, walker::V8};
use crate::{
    memory::Repeated,
    unwind::managed::{Place, Walker},
};

/// Walks a stack that lies in memory of these bytes over and over; the first one chooses the
/// version of V8.
pub fn walk_hostile(data: &[u8]) {
    let Some((version, bytes)) = data.split_first() else {
        return;
    };
    let Some(layout) = samples::layout(usize::from(*version)) else {
        return;
    };
    let memory = Repeated(bytes);
    let compiled = 0x8000..0x1_0000;
    let places = Places {
        builtins: std::iter::once(0..0x8000).collect(),
        compiled: std::iter::once(compiled).collect(),
    };
    let mut walker = V8::new(Arc::new(layout), places);
    let word = |address: u64| crate::memory::Memory::word(&memory, address);
    let waiting = [8u64, 16, 24].map(|at| RuntimeFrame {
        code: word(at).unwrap_or_default(),
        instruction: word(at + 64).unwrap_or_default(),
        extra: 0,
    });
    let _ = walker.waiting(&waiting, &memory);
    let (mut pc, mut sp, mut fp) = (word(0).unwrap_or_default() & 0xffff, 0x1000, Some(0x1040));
    for _ in 0..16 {
        let at = Place {
            pc,
            returning: true,
            sp,
            fp,
        };
        let Some(caller) = walker
            .explain(at, &word, &memory)
            .and_then(|explained| explained.caller)
        else {
            return;
        };
        (pc, sp, fp) = (caller.pc & 0xffff, caller.sp, caller.fp);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_memory_is_survived(data in prop::collection::vec(any::<u8>(), 0..2048)) {
            super::walk_hostile(&data);
        }

        /// Words with the tags of V8's, so that one leads to the next.
        #[test]
        fn memory_full_of_pointers_is_survived(
            version: u8,
            words in prop::collection::vec((0u64..0x1000, 0u64..4), 1..256),
        ) {
            let mut data = vec![version];
            for (word, tag) in words {
                let word = match tag {
                    0 => word << 32,
                    tag => 0x1_0000 + word * 8 + tag,
                };
                data.extend(word.to_le_bytes());
            }
            super::walk_hostile(&data);
        }
    }
}
