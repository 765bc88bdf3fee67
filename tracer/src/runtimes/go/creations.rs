//! Who began the goroutines in which libraries ask on their own: which `go` statements are probed for
//! that, and what the stacks that were taken before have in common with those taken since.

use std::collections::{HashMap, HashSet};

use tracer_ebpf::{GO_FRAMES, GoStack, go_stack_hash};

use super::{GoBinary, callsite, removal::FileId};
use crate::{
    model::{Frame, Site},
    symbols::blame::Origin,
};

/// Statements and stacks remembered.
const REMEMBERED_MAX: usize = 4_096;

/// Of stacks that are alike up to their goroutine's beginning, the one whose creator is known.
#[derive(Debug)]
struct Begun {
    id: u32,
    /// Its call site; `None` when others were seen that have another.
    call_site: Option<Frame>,
}

/// What was found out so far.
#[derive(Debug, Default)]
pub(super) struct Creations {
    /// File addresses behind `go` statements that are to be probed.
    wanted: Vec<(FileId, u64)>,
    known: HashSet<(FileId, u64)>,
    /// By what a goroutine's own stack is.
    begun: HashMap<u64, Begun>,
    /// What the stacks are whose creators were not seen.
    unseen: HashMap<u32, u64>,
}

impl Creations {
    /// A stack without a frame of the application's and without a creator. `begun_at`: file address
    /// behind the `go` statement.
    pub(super) fn ask(
        &mut self,
        binary: &GoBinary,
        file: FileId,
        begun_at: u64,
        id: u32,
        stack: &GoStack,
    ) {
        let positions = binary.positions(begun_at.wrapping_sub(1));
        let Some(statement) = positions.first() else {
            return;
        };
        // The standard library's wait for work, or serve; the application's own are on the stack.
        if callsite::origin(&binary.info, &statement.function) != Origin::Dependency {
            return;
        }
        if self.known.len() >= REMEMBERED_MAX || self.unseen.len() >= REMEMBERED_MAX {
            return;
        }
        self.unseen.insert(id, own_hash(stack));
        if self.known.insert((file, begun_at)) {
            self.wanted.push((file, begun_at));
        }
    }

    /// A stack that goes on with its creator's.
    pub(super) fn add(&mut self, stack: &GoStack, id: u32, site: &Site) {
        let call_site = site.call_site.filter(|_| site.own);
        let call_site = call_site.and_then(|at| site.frames.get(at)).cloned();
        let same = |begun: &Begun| match (&begun.call_site, &call_site) {
            (Some(a), Some(b)) => (&a.function, &a.file, a.line) == (&b.function, &b.file, b.line),
            _ => false,
        };
        if let Some(begun) = self.begun.get_mut(&own_hash(stack)) {
            if !same(begun) {
                begun.call_site = None;
            }
        } else if self.begun.len() < REMEMBERED_MAX {
            self.begun.insert(own_hash(stack), Begun { id, call_site });
        }
    }

    /// The stack that goes on from this one, where only one call site was seen to.
    pub(super) fn like(&self, id: u32) -> Option<u32> {
        let begun = self.begun.get(self.unseen.get(&id)?)?;
        begun.call_site.as_ref().map(|_| begun.id)
    }

    /// What is to be probed since the last time.
    pub(super) fn wanted(&mut self) -> Vec<(FileId, u64)> {
        std::mem::take(&mut self.wanted)
    }

    /// A program is gone, or its process: ids and addresses are not what they were.
    pub(super) fn forget(&mut self, file: Option<FileId>, stacks: &[u32]) {
        if let Some(file) = file {
            self.known.retain(|(of, _)| *of != file);
        }
        let gone: HashSet<u32> = stacks.iter().copied().collect();
        self.unseen.retain(|id, _| !gone.contains(id));
        self.begun.retain(|_, begun| !gone.contains(&begun.id));
    }
}

/// What a goroutine's own stack is, by whoever it was begun.
fn own_hash(stack: &GoStack) -> u64 {
    let used = (stack.frames as usize).min(GO_FRAMES);
    let ips = stack.ips.iter().take(used);
    ips.fold(u64::from(stack.tgid), |hash, &ip| go_stack_hash(hash, ip))
}
