//! Call paths: stack copies as they come in, what is known of them, and what the kernel is taught.

use std::{
    collections::HashSet,
    io,
    os::fd::RawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use tracer_ebpf::{
    CopySizeKey, RUNTIME_FRAMES_MAX, RuntimeFrame, STACK_NONE, Shape, StackCopy, WHEN_EXEC,
};

use super::{
    pending_stacks::PendingStacks,
    stack_ring::StackRing,
    stacks::{Stacks, saved::SavedStack},
};
use crate::{
    kernel::probes::Probes,
    model::Site,
    procs::{
        Presence,
        budget::{Budgets, Rate},
        clock::thread_cpu_ns,
    },
    refused::Refusal,
    runtimes::Runtimes,
    unwind::trie::{Learned, shape_index},
};

/// Processes with a plan at one time: the capacity of the kernel's map.
const PLANS_MAX: usize = 2_048;
/// Processor time for the copies of one process: so much at once, and then one part in so many of the
/// time.
const TIME_OF_PROCESS: Rate = (Duration::from_secs(15), 2);

/// The stacks of a session, from the ring of copies to names.
#[derive(Debug)]
pub struct CallPaths {
    ring: StackRing,
    /// Stacks by number.
    pub stacks: Stacks,
    /// Stacks that were on their way when the kernel noted them.
    pub pending: PendingStacks,
    /// Processes whose interpreted frames the kernel can find.
    planned: HashSet<u32>,
    /// Processor time that the copies of each process may take.
    time: Budgets,
}

/// What a stack copy was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// Nothing that can be read.
    Nothing,
    /// A stack, which is known now.
    Stack,
    /// This process runs another program now.
    Executed(u32),
}

impl CallPaths {
    /// Copies from `ring`, kept in `stacks`.
    pub fn new(ring: StackRing, stacks: Stacks) -> CallPaths {
        CallPaths {
            ring,
            stacks,
            pending: PendingStacks::default(),
            planned: HashSet::new(),
            time: Budgets::new(TIME_OF_PROCESS),
        }
    }

    /// A descriptor that is readable while a copy waits.
    pub fn wake_fd(&self) -> RawFd {
        self.ring.wake_fd()
    }

    /// The oldest copy that waits.
    pub fn next(&self) -> Option<Vec<u8>> {
        self.ring.next()
    }

    /// Unwinds a copy, and teaches the kernel its call path.
    pub fn take(&mut self, record: &[u8], runtimes: &mut Runtimes, probes: &Probes) -> Came {
        let Some((head, rest)) = record.split_at_checked(size_of::<StackCopy>()) else {
            return Came::Nothing;
        };
        let Ok(copy) = tracer_ebpf::decode::<StackCopy>(head) else {
            return Came::Nothing;
        };
        if copy.when == u32::from(WHEN_EXEC) {
            return Came::Executed(copy.tgid);
        }
        let Some((found, bytes)) = runtime_frames(&copy, rest) else {
            return Came::Nothing;
        };
        if self.time.left(copy.tgid, Instant::now()).is_zero() {
            Refusal::StackTime.count();
            self.pending.redeem(copy.sk, copy.ticket, STACK_NONE);
            return Came::Nothing;
        }
        let began_ns = thread_cpu_ns();
        let taken = match self.plan(copy.tgid, runtimes, probes) {
            true => self.stacks.take_first(runtimes, &copy, bytes),
            false => self.stacks.take(runtimes, &copy, bytes, &found),
        };
        if runtimes.has_learned(copy.tgid) {
            self.planned.remove(&copy.tgid);
            self.plan(copy.tgid, runtimes, probes);
        }
        let took = Duration::from_nanos(thread_cpu_ns().saturating_sub(began_ns));
        self.time.spend(copy.tgid, took, Instant::now());
        self.pending.redeem(copy.sk, copy.ticket, taken.id);
        teach(probes, &taken.learned);
        if let Some(bytes) = taken.want_bytes {
            let key = CopySizeKey {
                ip: copy.ip,
                tgid: copy.tgid,
                pad: 0,
            };
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            let known = probes.copy_sizes.get(&key).ok().flatten();
            let bytes = bytes.max(known.unwrap_or_default());
            let _ = probes.copy_sizes.set(&key, &bytes);
        }
        Came::Stack
    }

    /// Opens the executables of a process while it is there, and tells the kernel how to find its
    /// interpreted frames.
    pub fn pin(&mut self, pid: u32, runtimes: &mut Runtimes, probes: &Probes) {
        self.stacks.pin(pid);
        self.plan(pid, runtimes, probes);
    }

    /// Tells the kernel how to find the interpreted frames of a process; `true` when it learns it
    /// now.
    fn plan(&mut self, pid: u32, runtimes: &mut Runtimes, probes: &Probes) -> bool {
        if self.planned.contains(&pid) {
            return false;
        }
        let Some(plan) = runtimes.plan(pid, self.stacks.modules()) else {
            return false;
        };
        if self.planned.len() >= PLANS_MAX {
            self.planned
                .retain(|&pid| Presence::of(pid) != Presence::Ended);
        }
        self.planned.insert(pid);
        if let Err(error) = probes.plans.set(&pid, &plan) {
            tracing::debug!(pid, %error, "interpreted frames can't be asked for");
        }
        true
    }

    /// The process has ended, or runs another program now: nothing known of its addresses holds any
    /// more.
    pub fn forget(&mut self, pid: u32, runtimes: &mut Runtimes, probes: &Probes) {
        self.planned.remove(&pid);
        self.time.forget(pid);
        let _ = probes.plans.remove(&pid);
        runtimes.forget(pid);
        let forgotten = self.stacks.forget_process(pid);
        for key in forgotten.keys {
            let _ = probes.trie.remove(&key);
        }
        for index in forgotten.shapes {
            let _ = probes.shapes.set(&index, &Shape::default());
        }
    }

    /// A stack with names; `None` for no stack.
    pub fn site(&mut self, number: u32, runtimes: &mut Runtimes) -> Option<Arc<Site>> {
        if let Some(site) = runtimes.site(number) {
            return site;
        }
        (number != STACK_NONE).then(|| self.stacks.site(number))
    }

    /// Takes over what the kernel was told by an earlier session.
    pub fn resume(&mut self, probes: &Probes) {
        self.planned = probes
            .plans
            .keys()
            .unwrap_or_default()
            .into_iter()
            .collect();
    }

    /// Takes over saved stacks, and the call paths that the kernel has kept. What nobody knows the
    /// meaning of any more is removed there.
    pub fn restore(
        &mut self,
        stacks: Vec<SavedStack>,
        pending: Vec<(u64, u32, u32)>,
        probes: &Probes,
    ) {
        let mut trie = Vec::new();
        if let Err(error) = (probes.trie).for_each(|key, value| trie.push((*key, *value))) {
            tracing::warn!(%error, "the known call paths can't be read");
        }
        for key in self.stacks.restore(stacks, trie.into_iter()) {
            let _ = probes.trie.remove(&key);
        }
        for shape in self.stacks.shapes() {
            let _ = probes.shapes.set(&shape_index(&shape), &shape);
        }
        self.pending.restore(pending);
    }
}

/// Tells the kernel how to recognize a call path.
fn teach(probes: &Probes, learned: &Learned) {
    let told = || -> io::Result<()> {
        for (key, value) in &learned.entries {
            probes.trie.set(key, value)?;
        }
        match &learned.shape {
            Some(shape) => probes.shapes.set(&shape_index(shape), shape),
            None => Ok(()),
        }
    };
    if let Err(error) = told() {
        tracing::debug!(%error, "a call path could not be taught to the kernel");
    }
}

/// The interpreted frames of a copy and the stack bytes behind them; `None` when the record is short.
fn runtime_frames<'a>(copy: &StackCopy, record: &'a [u8]) -> Option<(Vec<RuntimeFrame>, &'a [u8])> {
    const EACH: usize = size_of::<RuntimeFrame>();
    let (frames, bytes) = record.split_at_checked(RUNTIME_FRAMES_MAX * EACH)?;
    let frames = frames
        .chunks_exact(EACH)
        .take(copy.found_frames as usize)
        .filter_map(|frame| tracer_ebpf::decode(frame).ok())
        .collect();
    Some((frames, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_record_has_no_frames() {
        let mut copy: StackCopy = bytemuck::Zeroable::zeroed();
        copy.found_frames = 2;
        let record = vec![0; RUNTIME_FRAMES_MAX * size_of::<RuntimeFrame>() + 16];
        let split = runtime_frames(&copy, &record);
        assert_eq!(
            split.map(|(frames, bytes)| (frames.len(), bytes.len())),
            Some((2, 16))
        );
        assert!(runtime_frames(&copy, &record[..8]).is_none());
    }
}
