//! What only benchmarks ask of the stacks.

use tracer_ebpf::StackCopy;

use super::{StackId, Stacks};
use crate::unwind::{managed::Walkers, walk::unwind};

impl Stacks {
    /// Unwinds a copy with the mappings known already and keeps nothing; the number of frames. For
    /// measurements.
    pub fn unwind_again(&mut self, copy: &StackCopy, bytes: &[u8]) -> usize {
        let stack = &bytes[..bytes.len().min(copy.len as usize)];
        self.modules.process(copy.tgid).map_or(0, |process| {
            unwind(
                &**process,
                &mut self.rules,
                &mut Walkers::none(),
                copy,
                stack,
            )
            .frames
            .len()
        })
    }

    /// Names the frames of a stack again and keeps nothing; their number. For measurements.
    pub fn name_again(&mut self, id: StackId) -> usize {
        self.records.get(&id).map_or(0, |record| {
            let site = self.naming.site(
                record.tgid,
                &record.frames,
                record.stop.quality(),
                record.executable.as_deref(),
                &mut self.modules,
            );
            site.map_or(0, |site| site.frames.len())
        })
    }
}
