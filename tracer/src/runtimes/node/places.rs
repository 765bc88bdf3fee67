//! Where V8's code is in a process.

use std::ops::Range;

use crate::{elf::Image, procs::maps::Mapping};

/// Addresses of V8's code in one process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// The functions built into the executable, at each address that it is mapped at: V8 maps them
    /// a second time, near the code that it compiles.
    pub builtins: Vec<Range<u64>>,
    /// Executable memory that is in no file.
    pub compiled: Vec<Range<u64>>,
}

impl Places {
    /// Finds them by the process's mappings; `of_file` tells the path of the file that V8 is in,
    /// `builtins` is as linked.
    pub fn find(
        mappings: &[Mapping],
        of_file: impl Fn(&str) -> bool,
        image: &Image,
        builtins: &Range<u64>,
    ) -> Places {
        let mut found = Places::default();
        for mapping in mappings.iter().filter(|m| m.executable) {
            let range = mapping.range.clone();
            if mapping.inode != 0 {
                let bias = image.bias(range.start, mapping.offset);
                if let Some(bias) = bias.filter(|_| of_file(&mapping.path)) {
                    let start = builtins.start.wrapping_add(bias).max(range.start);
                    let end = builtins.end.wrapping_add(bias).min(range.end);
                    if start < end {
                        found.builtins.push(start..end);
                    }
                }
            } else if !mapping.path.starts_with("[v") {
                // neither the vdso nor its old form
                found.compiled.push(range);
            }
        }
        found
    }

    /// Whether an address is in V8's code.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        let all = self.builtins.iter().chain(&self.compiled);
        all.into_iter().any(|range| range.contains(&address))
    }

    /// Where the executable memory in no file begins that an address is in.
    #[must_use]
    pub fn compiled_from(&self, address: u64) -> Option<u64> {
        let found = self.compiled.iter().find(|range| range.contains(&address));
        found.map(|range| range.start)
    }
}
