//! Walks the frames of one HotSpot virtual machine.
//!
//! The interpreter's frames have their method and position in slots below RBP; those of compiled
//! code have a fixed size, with the caller's RBP and the return address on top (`frame_x86.hpp`).

use super::{
    callers::{Callers, Trail},
    code_cache::{Blob, CodeCache, Kind},
    layout::Layout,
    method::{self, Method},
    scopes,
    tables::{Refused, Symbols, Tables},
};
use crate::{
    memory::Memory,
    model::Named,
    unwind::managed::{Caller, ManagedFrame, Place, Walker},
};

/// In an interpreted frame, bytes below RBP: the caller's stack pointer before it was moved for
/// the call.
const SENDER_SP: u64 = 8;
/// The method.
const METHOD: u64 = 24;
/// The position in the bytecode (an address) as of the call that runs.
const POSITION: u64 = 64;
/// An interpreted frame is no larger: 64 Ki locals and operands.
const FRAME_MAX: u64 = 1 << 20;
/// Classes by whose names a layout is checked.
const KNOWN: &[(&str, &str)] = &[
    ("Object_klass", "java/lang/Object"),
    ("String_klass", "java/lang/String"),
    ("Thread_klass", "java/lang/Thread"),
];

/// The virtual machine of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotSpot {
    layout: Layout,
    cache: CodeCache,
    /// What the stack that is walked says of who asked.
    trail: Trail,
    callers: Callers,
}

impl HotSpot {
    /// Reads the machine's tables and checks that they lead to what must be there.
    ///
    /// # Errors
    /// [`Refused::Starting`] for a machine that has not set itself up so far; any other is final.
    pub fn open(symbols: Symbols<'_>, memory: &dyn Memory) -> Result<HotSpot, Refused> {
        let (layout, tables) = Layout::read(symbols, memory)?;
        let cache = CodeCache::read(&layout.heaps, memory)?;
        check(&layout, &tables, memory)?;
        Ok(HotSpot::of(layout, cache))
    }

    /// A machine with code at any address, for the fuzzer.
    #[cfg(any(test, fuzzing))]
    pub(super) fn anywhere(layout: Layout) -> HotSpot {
        HotSpot::of(layout, CodeCache::anywhere())
    }

    fn of(layout: Layout, cache: CodeCache) -> HotSpot {
        HotSpot {
            layout,
            cache,
            trail: Trail::default(),
            callers: Callers::default(),
        }
    }

    /// Follows a method of the stack. Where it begins a thread of a client's that nothing of the
    /// application's runs on, the application's only call of that client is its caller in fact.
    fn pass(&mut self, method: &Method, memory: &dyn Memory) -> Option<Named> {
        self.trail.pass(method);
        let client = self.trail.handed_over(method)?;
        let callers = self.layout.callers.as_ref()?;
        let only = self
            .callers
            .of(client, &self.layout.method, callers, memory)?;
        let method = Method::read(&self.layout.method, only.method, memory)?;
        Some(self.named(&method, only.position, false, memory))
    }

    /// The machine's version as it prints it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.layout.version
    }

    /// An interpreted frame.
    fn interpreted(
        &mut self,
        at: Place,
        stack: &dyn Fn(u64) -> Option<u64>,
        memory: &dyn Memory,
    ) -> Option<ManagedFrame> {
        let fp = at.fp.filter(|fp| plausible_fp(at.sp, *fp))?;
        let mut frame = ManagedFrame {
            tells: vec![fp - POSITION, fp - METHOD],
            ..ManagedFrame::default()
        };
        frame.caller = self.caller_of_interpreted(fp, stack, memory);
        let (Some(address), Some(position)) = (stack(fp - METHOD), stack(fp - POSITION)) else {
            return Some(frame);
        };
        let Some(method) = Method::read(&self.layout.method, address, memory) else {
            frame.doubt = Some("a method of interpreted code did not pass its check");
            return Some(frame);
        };
        let position = position
            .checked_sub(method.code)
            .and_then(|position| u32::try_from(position).ok())
            .filter(|position| *position < method.code_bytes);
        if position.is_none() && method.code_bytes != 0 {
            frame.doubt = Some("the position in interpreted code did not pass its check");
            return Some(frame);
        }
        if !method.is_hidden() {
            frame
                .functions
                .push(self.named(&method, position, false, memory));
        }
        frame.functions.extend(self.pass(&method, memory));
        Some(frame)
    }

    /// The caller of an interpreted frame: interpreted, compiled, or the VM.
    fn caller_of_interpreted(
        &self,
        fp: u64,
        stack: &dyn Fn(u64) -> Option<u64>,
        memory: &dyn Memory,
    ) -> Option<Caller> {
        let mut caller = above(fp, stack)?;
        let inside = caller.pc.wrapping_sub(1);
        let blob = self.cache.blob(&self.layout, inside, memory)?;
        if blob.kind == Kind::Method {
            // An adapter put the arguments below the compiled caller's frame.
            let sp = stack(fp - SENDER_SP)?;
            if !(16..=16 + FRAME_MAX).contains(&sp.wrapping_sub(fp)) || !sp.is_multiple_of(8) {
                return None;
            }
            caller.sp = sp;
        }
        Some(caller)
    }

    /// A frame of a compiled method.
    fn compiled(
        &mut self,
        blob: &Blob,
        at: Place,
        stack: &dyn Fn(u64) -> Option<u64>,
        memory: &dyn Memory,
    ) -> ManagedFrame {
        let mut frame = ManagedFrame {
            caller: sized(blob, at, stack)
                .filter(|caller| self.cache.contains(caller.pc.wrapping_sub(1))),
            ..ManagedFrame::default()
        };
        let mut pc = at.pc;
        if scopes::is_deoptimized(&self.layout.compiled, blob, pc, memory) {
            // What it would have returned to is kept in the frame.
            let kept = memory.half(blob.address.wrapping_add(self.layout.compiled.original_pc));
            let kept = kept.and_then(|offset| stack(at.sp.checked_add(u64::from(offset))?));
            if let Some(original) = kept.filter(|pc| blob.code.contains(pc)) {
                pc = original;
            }
        }
        let Some(found) = scopes::at(&self.layout, blob, pc, memory) else {
            frame.doubt = Some("a compiled method could not be read");
            return frame;
        };
        let last = found.scopes.len().saturating_sub(1);
        for (number, scope) in found.scopes.iter().enumerate() {
            let method = Method::read(&self.layout.method, scope.method, memory);
            match method {
                Some(method) if method.is_hidden() => {}
                Some(method) => {
                    if !found.exact && method.code_bytes != 0 {
                        frame.doubt = Some("the place in compiled code is not described");
                    }
                    let inlined = number != last;
                    let named = self.named(&method, scope.position, inlined, memory);
                    frame.functions.push(named);
                    frame.functions.extend(self.pass(&method, memory));
                }
                None => frame.doubt = Some("a method of compiled code did not pass its check"),
            }
        }
        frame
    }

    fn named(
        &self,
        method: &Method,
        position: Option<u32>,
        inlined: bool,
        memory: &dyn Memory,
    ) -> Named {
        method.named(
            position,
            inlined,
            self.layout.compiled.without_zeros,
            memory,
        )
    }
}

impl Walker for HotSpot {
    fn begin(&mut self) {
        self.trail = Trail::default();
    }

    fn claims(&self, pc: u64) -> bool {
        self.cache.contains(pc)
    }

    fn explain(
        &mut self,
        at: Place,
        stack: &dyn Fn(u64) -> Option<u64>,
        memory: &dyn Memory,
    ) -> Option<ManagedFrame> {
        let inside = at.pc.wrapping_sub(u64::from(at.returning));
        let blob = self.cache.blob(&self.layout, inside, memory)?;
        if !at.returning {
            // Native code runs when sockets are made: nothing is known of a frame that is not
            // complete.
            return None;
        }
        match blob.kind {
            Kind::Interpreter => self.interpreted(at, stack, memory),
            Kind::Method => Some(self.compiled(&blob, at, stack, memory)),
            Kind::Stub => {
                let caller = if blob.frame_words > 0 {
                    sized(&blob, at, stack)
                } else {
                    at.fp
                        .filter(|fp| plausible_fp(at.sp, *fp))
                        .and_then(|fp| above(fp, stack))
                };
                Some(ManagedFrame {
                    caller,
                    ..ManagedFrame::default()
                })
            }
        }
    }
}

/// The caller of a frame that begins with RBP and the return address above it.
fn above(fp: u64, stack: &dyn Fn(u64) -> Option<u64>) -> Option<Caller> {
    let slot = fp.checked_add(8)?;
    Some(Caller {
        slot,
        pc: stack(slot).filter(|pc| *pc != 0)?,
        sp: slot.checked_add(8)?,
        fp: stack(fp),
    })
}

/// The caller of a frame whose size is fixed.
fn sized(blob: &Blob, at: Place, stack: &dyn Fn(u64) -> Option<u64>) -> Option<Caller> {
    let size = u64::from(blob.frame_words).checked_mul(8)?;
    let sp = at.sp.checked_add(size)?;
    if size < 16 {
        return None;
    }
    let slot = sp.checked_sub(8)?;
    Some(Caller {
        slot,
        pc: stack(slot).filter(|pc| *pc != 0)?,
        sp,
        fp: stack(slot.checked_sub(8)?),
    })
}

/// A frame pointer belongs to the frame that begins at the stack pointer.
fn plausible_fp(sp: u64, fp: u64) -> bool {
    fp.is_multiple_of(8) && fp >= sp.max(POSITION) && fp - sp <= FRAME_MAX
}

/// Known classes have their names, and one method of each its own.
fn check(layout: &Layout, tables: &Tables, memory: &dyn Memory) -> Result<(), Refused> {
    let unlike = |what| Refused::Unlike {
        version: layout.version.clone(),
        what,
    };
    for (field, expected) in KNOWN {
        let until_16 =
            format!("SystemDictionary._well_known_klasses[SystemDictionary::{field}_knum]");
        let since = format!("vmClasses._klasses[static_cast<int>(vmClassID::{field}_knum)]");
        let field = tables.field(&since).or_else(|| tables.field(&until_16));
        let address = field
            .map(|field| field.address)
            .ok_or_else(|| unlike("classes"))?;
        let class = memory.word(address).ok_or_else(|| unlike("classes"))?;
        if class == 0 {
            return Err(Refused::Starting);
        }
        let methods = method::first_of(&layout.method, class, memory);
        let Some(method) = methods else {
            return Err(unlike("methods"));
        };
        if method.class != *expected || !method.boot {
            return Err(unlike("classes"));
        }
    }
    Ok(())
}
