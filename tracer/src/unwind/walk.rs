//! From registers and copied stack bytes to the list of frames, and for each return address the
//! stack slot it was read from.
//!
//! Frames are followed by the call-frame information of their module. Code without any (JIT
//! compilers, hand-written assembly) is followed by frame pointers where what they lead to is
//! plausible: a word in an executable mapping that has a call instruction before it. Code that a
//! language runtime made is followed by its own walker, where it has one.

use std::cell::Cell;

use serde::{Deserialize, Serialize};
use tracer_ebpf::{COPY_BYTES_MAX, FRAMES_MAX, StackCopy};

use super::{
    cfi::{BP, RA, REGISTERS, Registers, Rules, SP, Step},
    managed::{ManagedFrame, Place, Walkers},
    space::{Address, ModuleId, Space},
};
use crate::model::{Named, StackQuality};

/// One frame before it has names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RawFrame {
    /// Instruction pointer of the innermost frame, return address of the others.
    pub address: u64,
    /// The module it is in.
    pub module: Option<ModuleId>,
    /// Address to look up: as linked in the module, or as it is without one. For a return address
    /// it lies inside the call instruction, one byte back.
    pub lookup: u64,
}

/// Why unwinding ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stop {
    /// At the thread's first frame.
    Complete,
    /// The copy ended before the stack did; this many bytes from the stack pointer were needed.
    CopyEnded {
        /// Bytes.
        needed: usize,
    },
    /// The frame is in code that nothing tells how to unwind.
    NoRule,
    /// The return address found is in no executable mapping.
    BadReturnAddress,
    /// More than [`FRAMES_MAX`] frames.
    TooDeep,
    /// At the thread's first frame, but interpreted frames were read when the thread may have
    /// gone on already.
    Late,
}

impl Stop {
    /// As users read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Stop::Complete => "complete",
            Stop::CopyEnded { .. } => "the copy of the stack ended",
            Stop::NoRule => "no unwind information",
            Stop::BadReturnAddress => "implausible return address",
            Stop::TooDeep => "too many frames",
            Stop::Late => "interpreted frames were read late",
        }
    }

    /// How much of the stack is known when unwinding ended like this.
    #[must_use]
    pub const fn quality(self) -> StackQuality {
        match self {
            Stop::Complete => StackQuality::Complete,
            _ => StackQuality::Truncated,
        }
    }

    /// `true` when a larger copy would show more.
    #[must_use]
    pub const fn wants_more(self) -> Option<usize> {
        match self {
            Stop::CopyEnded { needed } if needed <= COPY_BYTES_MAX => Some(needed),
            _ => None,
        }
    }
}

/// What a runtime's walker made of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    /// Index of the frame.
    pub frame: usize,
    /// The functions that run there, innermost first; none in a stub of the runtime.
    pub functions: Vec<Named>,
    /// Words of the stack that tell this call from others at its return address: where they are
    /// and what they are, ascending.
    pub tells: Vec<(u64, u64)>,
    /// The frame pointer of the frame, where the word below its return address is that: what the
    /// kernel reads there leads to `tells` and to the caller in frames of any size.
    pub base: Option<u64>,
    /// Why functions are missing.
    pub doubt: Option<&'static str>,
}

/// An unwound stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwound {
    /// Innermost first; never empty.
    pub frames: Vec<RawFrame>,
    /// For each frame but the first, the stack address its return address was read from.
    pub slots: Vec<u64>,
    /// Frames of code that a runtime made, inwards to outwards.
    pub managed: Vec<Managed>,
    /// What tells managed frames apart could not all be read: the path must not be recognized by
    /// what there is.
    pub ambiguous: bool,
    /// Why it ended.
    pub stop: Stop,
}

impl Unwound {
    /// What a runtime said of a frame.
    #[must_use]
    pub fn managed_at(&self, frame: usize) -> Option<&Managed> {
        let at = self.managed.binary_search_by_key(&frame, |m| m.frame);
        self.managed.get(at.ok()?)
    }
}

/// Unwinds one copy. `stack` are the bytes from the stack pointer up.
pub(crate) fn unwind(
    space: &dyn Space,
    rules: &mut Rules,
    walkers: &mut Walkers<'_>,
    copy: &StackCopy,
    stack: &[u8],
) -> Unwound {
    // What a walker asked for beyond the end of the copy, bytes from its beginning.
    let beyond = Cell::new(None);
    let read = |address: u64| -> Option<u64> {
        let at = usize::try_from(address.checked_sub(copy.sp)?).ok()?;
        let end = at.checked_add(8)?;
        let Some(word) = stack.get(at..end) else {
            beyond.set(Some(end));
            return None;
        };
        Some(u64::from_le_bytes(word.try_into().ok()?))
    };
    let mut regs: Registers = [None; REGISTERS];
    regs[SP] = Some(copy.sp);
    regs[BP] = Some(copy.bp);
    for (number, value) in [3, 12, 13, 14, 15].into_iter().zip(copy.saved) {
        regs[number] = Some(value);
    }
    regs[RA] = Some(copy.ip);

    let mut frames = Vec::with_capacity(24);
    let mut slots = Vec::with_capacity(24);
    let mut managed = Vec::new();
    let mut ambiguous = false;
    let mut address = copy.ip;
    // The innermost frame and one interrupted by a signal are at their own next instruction,
    // every other one after a call.
    let mut calling = false;
    let mut end_of_stack = copy.sp;
    let stop = loop {
        let lookup = address.wrapping_sub(u64::from(calling));
        let found = space.find(lookup);
        frames.push(match found {
            Some(Address { module, linked, .. }) => RawFrame {
                address,
                module,
                lookup: linked,
            },
            None => RawFrame {
                address,
                module: None,
                lookup,
            },
        });
        beyond.set(None);
        let place = Place {
            pc: address,
            returning: calling,
            sp: regs[SP].unwrap_or_default(),
            fp: regs[BP],
        };
        let step = match walkers.explain(place, &read) {
            Some(explained) => {
                let caller = explained.caller;
                let (frame, all_told) = tell(frames.len() - 1, place, explained, &read);
                ambiguous |= !all_told;
                managed.push(frame);
                match (caller, beyond.get()) {
                    (Some(caller), _) => {
                        regs = [None; REGISTERS];
                        regs[SP] = Some(caller.sp);
                        regs[BP] = caller.fp;
                        regs[RA] = Some(caller.pc);
                        Step::Caller {
                            slot: caller.slot,
                            interrupted: false,
                        }
                    }
                    (None, Some(needed)) => break Stop::CopyEnded { needed },
                    (None, None) => Step::NoRule,
                }
            }
            None => {
                let step = match found {
                    Some(Address {
                        image: Some(image),
                        linked,
                        ..
                    }) => rules.step(image, linked, &mut regs, &read),
                    _ => Step::NoRule,
                };
                match step {
                    Step::NoRule => by_frame_pointer(space, &mut regs, !calling, &read),
                    step => step,
                }
            }
        };
        match step {
            Step::End => break Stop::Complete,
            Step::NoRule => break Stop::NoRule,
            Step::NeedStack(slot) => {
                break match slot.checked_sub(copy.sp) {
                    Some(above) if above >= stack.len() as u64 => Stop::CopyEnded {
                        needed: usize::try_from(above).map_or(usize::MAX, |n| n.saturating_add(8)),
                    },
                    _ => Stop::NoRule,
                };
            }
            Step::Caller { slot, interrupted } => {
                let next = regs[RA].unwrap_or_default();
                if next == 0 {
                    break Stop::Complete;
                }
                if space
                    .find(next.wrapping_sub(u64::from(!interrupted)))
                    .is_none()
                {
                    break Stop::BadReturnAddress;
                }
                // Each slot is above the one before; anything else would loop. A signal handler
                // on its own stack is the exception, and ends it.
                if slot < end_of_stack {
                    break Stop::BadReturnAddress;
                }
                if frames.len() == FRAMES_MAX {
                    break Stop::TooDeep;
                }
                end_of_stack = slot.saturating_add(8);
                slots.push(slot);
                address = next;
                calling = !interrupted;
            }
        }
    };
    Unwound {
        frames,
        slots,
        managed,
        ambiguous,
        stop,
    }
}

/// A walker's frame as it is kept; second, whether all that tells it from others is known.
fn tell(
    frame: usize,
    place: Place,
    explained: ManagedFrame,
    read: &dyn Fn(u64) -> Option<u64>,
) -> (Managed, bool) {
    let slots = explained.tells.iter().copied();
    let tells: Vec<(u64, u64)> = slots.map_while(|slot| Some((slot, read(slot)?))).collect();
    let all_told = tells.len() == explained.tells.len();
    let below = place.sp.wrapping_sub(16);
    let base = place
        .fp
        .filter(|fp| place.returning && read(below) == Some(*fp));
    let managed = Managed {
        frame,
        functions: explained.functions,
        tells,
        base,
        doubt: explained.doubt,
    };
    (managed, all_told)
}

/// The caller of code that has no frame description.
fn by_frame_pointer(
    space: &dyn Space,
    regs: &mut Registers,
    innermost: bool,
    read: &dyn Fn(u64) -> Option<u64>,
) -> Step {
    let plausible = |address: u64| {
        space
            .find(address.wrapping_sub(1))
            .is_some_and(|a| a.after_call(address))
    };
    let (Some(sp), Some(bp)) = (regs[SP], regs[BP]) else {
        return Step::NoRule;
    };
    // A leaf without a frame of its own, such as a system call stub, has its return address on
    // top of the stack.
    if innermost
        && let Some(address) = read(sp)
        && plausible(address)
    {
        regs[SP] = Some(sp.wrapping_add(8));
        regs[RA] = Some(address);
        return Step::Caller {
            slot: sp,
            interrupted: false,
        };
    }
    if bp == 0 {
        return Step::End;
    }
    if bp < sp || bp % 8 != 0 {
        return Step::NoRule;
    }
    let slot = bp.wrapping_add(8);
    let (Some(outer), Some(address)) = (read(bp), read(slot)) else {
        return Step::NeedStack(slot);
    };
    if address != 0 && !plausible(address) {
        return Step::NoRule;
    }
    let mut caller: Registers = [None; REGISTERS];
    caller[SP] = Some(bp.wrapping_add(16));
    caller[BP] = Some(outer);
    caller[RA] = Some(address);
    *regs = caller;
    Step::Caller {
        slot,
        interrupted: false,
    }
}
