//! Names of requesters' stacks, with who had their goroutines begun.

use std::sync::Arc;

use tracer_ebpf::{GoStack, STACK_NONE};

use super::{GoTracer, SITES_MAX};
use crate::{
    kernel::probes::Probes,
    model::{Site, StackQuality},
    runtimes::go::state,
};

/// Goroutines begun one by the other whose stacks are joined.
const CREATORS_MAX: usize = 4;

impl GoTracer {
    /// The requester's stack with names; `None` when the id is not known (any more). Where a
    /// goroutine's creator was seen, its stack goes on with the creator's.
    pub fn site(&mut self, id: u32) -> Option<Arc<Site>> {
        if let Some(site) = self.sites.get(&id) {
            return Some(Arc::clone(site));
        }
        let stack = self.whole_stack(id)?;
        let process = self.processes.get(&stack.tgid)?;
        let (file, bias) = (process.program, process.bias);
        let program = self.programs.get(file)?;
        let (mut addresses, mut cut) = state::addresses(&stack, bias, false);
        let mut creator = stack.creator;
        for _ in 0..CREATORS_MAX {
            let outer = (!cut && creator != STACK_NONE).then(|| self.whole_stack(creator));
            let Some(outer) = outer.flatten().filter(|outer| outer.tgid == stack.tgid) else {
                break;
            };
            // where every goroutine's stack ends
            addresses.pop();
            let (more, longer) = state::addresses(&outer, bias, true);
            addresses.extend(more);
            (cut, creator) = (longer, outer.creator);
        }
        let quality = if cut {
            StackQuality::Truncated
        } else {
            StackQuality::Complete
        };
        let path = Some(program.path.as_str());
        let binary = &program.binary;
        let site = Arc::new(binary.site(&addresses, path, quality, &self.blame));
        if stack.creator != STACK_NONE {
            self.creations.add(&stack, id, &site);
        } else if !site.own && !cut && stack.begun_at != 0 {
            let begun_at = stack.begun_at.wrapping_sub(bias);
            self.creations.ask(binary, file, begun_at, id, &stack);
        }
        if self.sites.len() >= SITES_MAX {
            self.sites.clear();
        }
        self.sites.insert(id, Arc::clone(&site));
        Some(site)
    }

    /// Names the first stacks that have no names yet, at most so many: what a library asks for by
    /// itself is found out at once that way.
    pub fn name_new(&mut self, stacks: impl Iterator<Item = u32>, at_most: usize) {
        let mut left = at_most;
        for stack in stacks {
            if left == 0 {
                return;
            }
            if !self.sites.contains_key(&stack) {
                left -= 1;
                let _ = self.site(stack);
            }
        }
    }

    /// A stack of the kernel's, if it is in one piece; else it is taken again with the next request
    /// from there.
    fn whole_stack(&self, id: u32) -> Option<GoStack> {
        let stack = self.in_kernel.stacks.get(&id).ok()??;
        if !state::is_whole(&stack) {
            let _ = self.in_kernel.stacks.remove(&id);
            return None;
        }
        Some(stack)
    }

    /// The stack with its creator's that goes on from this one, which was taken before anybody saw
    /// goroutines being begun there; `None` where there are several, and who asks is not known.
    pub fn begun_like(&self, id: u32) -> Option<u32> {
        self.creations.like(id)
    }

    /// Probes the `go` statements of libraries whose goroutines were seen to ask on their own.
    pub fn watch_creations(&mut self, probes: &mut Probes) {
        for (file, address) in self.creations.wanted() {
            if let Err(error) = self.programs.also_probe(probes.ebpf_mut(), file, address) {
                tracing::debug!(%error, "who begins a library's goroutines is not seen");
            }
        }
    }
}
