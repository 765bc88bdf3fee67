//! Frame rules: how the caller's registers are found, for one address of one file, from its
//! call-frame information (DWARF 5, section 6.4; System V ABI AMD64, section 3.7).
//!
//! Nearly every rule is "the frame begins at a register plus a constant, and saved registers are
//! at constant places below": those become a [`Rule`], small enough to be cached by the
//! ten-thousand. The rest (expressions, as in PLT entries and signal trampolines) is evaluated
//! each time.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    ops::Range,
};

use gimli::{
    BaseAddresses, CfaRule, DebugFrame, EhFrame, EhFrameHdr, EndianSlice, EvaluationResult,
    LittleEndian, Location, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindOffset,
    UnwindSection, UnwindTableRow, Value, X86_64,
};

use crate::elf::{FrameIndex, Image, Part};

type Reader<'a> = EndianSlice<'a, LittleEndian>;

/// DWARF numbers of the x86-64 registers run from 0 to 15; 16 is the return address.
pub(crate) const REGISTERS: usize = 17;
/// Index of RSP.
pub(crate) const SP: usize = 7;
/// Index of RBP.
pub(crate) const BP: usize = 6;
/// Index of the return address.
pub(crate) const RA: usize = 16;
/// The registers that a callee preserves, beside RSP: RBX, RBP, R12 to R15.
const PRESERVED: [usize; 6] = [3, 6, 12, 13, 14, 15];

/// Register values as far as they are known.
pub(crate) type Registers = [Option<u64>; REGISTERS];

/// Where a register was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saved {
    Same,
    /// At this distance from the frame's base address.
    At(i32),
    Lost,
}

/// How to go from a frame to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// This is the first frame of the thread.
    End,
    Plain {
        /// Register the frame's base is computed from, and distance.
        base: (u8, i32),
        /// The return address, from the base.
        return_at: i32,
        saved: [Saved; PRESERVED.len()],
    },
    /// An expression: evaluate it.
    Complex,
    /// Nothing is known about this address.
    None,
}

/// Where the function around `address` (as linked) begins, by the frame descriptions.
pub(crate) fn function_start(image: &Image, address: u64) -> Option<u64> {
    Frames::of(image)?.start(address)
}

/// The part of the function that begins at `start` which GCC has put elsewhere (its symbol has
/// `.cold` added, where there is one): described straight after the function, and with the frame
/// set up already where it begins, as no function has.
pub(crate) fn cold_part(image: &Image, start: u64) -> Option<Range<u64>> {
    let frames = Frames::of(image)?;
    let Frames::Eh {
        frames: section,
        bases,
        ..
    } = &frames
    else {
        return None;
    };
    let function = frames.description(start)?;
    let mut entries = section.entries(bases);
    let mut before = None;
    while let Ok(Some(entry)) = entries.next() {
        let gimli::CieOrFde::Fde(partial) = entry else {
            continue;
        };
        let fde = partial.parse(EhFrame::cie_from_offset).ok()?;
        if before == Some(function) {
            let part = fde.initial_address()..fde.end_address();
            let set_up = |row: &UnwindTableRow<usize>| {
                !matches!(
                    row.cfa(),
                    CfaRule::RegisterAndOffset { register, offset: 8 } if *register == X86_64::RSP
                )
            };
            return frames
                .with_row(part.start, &mut UnwindContext::new(), |row, _, _, _| {
                    set_up(row)
                })?
                .then_some(part);
        }
        before = Some(fde.offset());
    }
    None
}

/// What following one rule led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The registers were replaced by the caller's; the return address was read from this slot.
    Caller {
        /// Stack address of the return address.
        slot: u64,
        /// The frame left was a signal handler's trampoline: the caller was interrupted, not
        /// calling.
        interrupted: bool,
    },
    /// The thread's first frame.
    End,
    /// The stack ended before the word at this address.
    NeedStack(u64),
    /// No rule, or one that can't be followed.
    NoRule,
}

/// Rules met so far, of all files.
#[derive(Debug)]
pub(crate) struct Rules {
    known: HashMap<(u64, u64), Rule, BuildHasherDefault<Mix>>,
    context: UnwindContext<usize>,
}

/// Mixes the two words of a key; a lookup is made for every frame, and the default hash would be
/// most of its cost. Collisions can't grow: the table is bounded.
#[derive(Debug, Default)]
pub(crate) struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // 2^64 divided by the golden ratio (Knuth, volume 3, section 6.4).
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Rules kept; about 5 MiB when full.
const RULES_MAX: usize = 32 << 10;
/// Frame descriptions indexed of one file without a search table.
const INDEX_MAX: usize = 1 << 20;

impl Rules {
    pub(crate) fn new() -> Rules {
        Rules {
            known: HashMap::default(),
            context: UnwindContext::new(),
        }
    }

    /// Goes from the frame at `address` (as linked in `image`) to its caller.
    pub(crate) fn step(
        &mut self,
        image: &Image,
        address: u64,
        regs: &mut Registers,
        read: &dyn Fn(u64) -> Option<u64>,
    ) -> Step {
        let key = (image.serial(), address);
        let rule = match self.known.get(&key) {
            Some(rule) => *rule,
            None => {
                let rule = Frames::of(image)
                    .and_then(|f| {
                        f.with_row(address, &mut self.context, |row, _, _, signal| {
                            rule(row, signal)
                        })
                    })
                    .unwrap_or(Rule::None);
                if self.known.len() >= RULES_MAX {
                    self.known.clear();
                }
                self.known.insert(key, rule);
                rule
            }
        };
        match rule {
            Rule::End => Step::End,
            Rule::None => Step::NoRule,
            Rule::Plain {
                base,
                return_at,
                saved,
            } => plain(base, return_at, saved, regs, read),
            Rule::Complex => Frames::of(image)
                .and_then(|f| {
                    f.with_row(
                        address,
                        &mut self.context,
                        |row, frames, encoding, signal| {
                            complex(row, frames, encoding, signal, regs, read)
                        },
                    )
                })
                .unwrap_or(Step::NoRule),
        }
    }
}

fn rule(row: &UnwindTableRow<usize>, signal: bool) -> Rule {
    if matches!(
        row.register(Register(RA as u16)),
        Some(RegisterRule::Undefined)
    ) {
        return Rule::End;
    }
    let (CfaRule::RegisterAndOffset { register, offset }, false) = (row.cfa(), signal) else {
        return Rule::Complex;
    };
    let (Ok(offset), Some(RegisterRule::Offset(return_at))) =
        (i32::try_from(*offset), row.register(Register(RA as u16)))
    else {
        return Rule::Complex;
    };
    let (Ok(return_at), Ok(base)) = (i32::try_from(return_at), u8::try_from(register.0)) else {
        return Rule::Complex;
    };
    let mut saved = [Saved::Same; PRESERVED.len()];
    for (place, number) in saved.iter_mut().zip(PRESERVED) {
        *place = match row.register(Register(number as u16)) {
            None | Some(RegisterRule::SameValue) => Saved::Same,
            Some(RegisterRule::Undefined) => Saved::Lost,
            Some(RegisterRule::Offset(at)) => match i32::try_from(at) {
                Ok(at) => Saved::At(at),
                Err(_) => return Rule::Complex,
            },
            Some(_) => return Rule::Complex,
        };
    }
    if row.register(X86_64::RSP).is_some() || usize::from(base) >= RA {
        return Rule::Complex;
    }
    Rule::Plain {
        base: (base, offset),
        return_at,
        saved,
    }
}

fn plain(
    (register, offset): (u8, i32),
    return_at: i32,
    saved: [Saved; PRESERVED.len()],
    regs: &mut Registers,
    read: &dyn Fn(u64) -> Option<u64>,
) -> Step {
    let Some(base) = regs.get(usize::from(register)).copied().flatten() else {
        return Step::NoRule;
    };
    let base = base.wrapping_add_signed(i64::from(offset));
    let slot = base.wrapping_add_signed(i64::from(return_at));
    let Some(address) = read(slot) else {
        return Step::NeedStack(slot);
    };
    let mut caller: Registers = [None; REGISTERS];
    for (number, place) in PRESERVED.into_iter().zip(saved) {
        caller[number] = match place {
            Saved::Same => regs[number],
            Saved::At(at) => read(base.wrapping_add_signed(i64::from(at))),
            Saved::Lost => None,
        };
    }
    caller[SP] = Some(base);
    caller[RA] = Some(address);
    *regs = caller;
    Step::Caller {
        slot,
        interrupted: false,
    }
}

fn complex(
    row: &UnwindTableRow<usize>,
    frames: &Frames<'_>,
    encoding: gimli::Encoding,
    signal: bool,
    regs: &mut Registers,
    read: &dyn Fn(u64) -> Option<u64>,
) -> Step {
    let evaluate = |e: UnwindExpression<usize>, initial: Option<u64>| {
        frames.evaluate(e, encoding, initial, regs, read)
    };
    let base = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => regs
            .get(usize::from(register.0))
            .copied()
            .flatten()
            .map(|value| value.wrapping_add_signed(*offset)),
        CfaRule::Expression(e) => evaluate(*e, None),
    };
    let Some(base) = base else {
        return Step::NoRule;
    };
    let mut caller: Registers = [None; REGISTERS];
    let mut slot = None;
    for number in 0..REGISTERS {
        let place = match row.register(Register(number as u16)) {
            None if number == SP => {
                caller[SP] = Some(base);
                continue;
            }
            // Registers that a callee need not preserve are unknown unless a rule says otherwise.
            None if !PRESERVED.contains(&number) => continue,
            None | Some(RegisterRule::SameValue) => {
                caller[number] = regs[number];
                continue;
            }
            Some(RegisterRule::Offset(at)) => base.wrapping_add_signed(at),
            Some(RegisterRule::Expression(e)) => match evaluate(e, Some(base)) {
                Some(place) => place,
                None => continue,
            },
            Some(RegisterRule::ValOffset(at)) => {
                caller[number] = Some(base.wrapping_add_signed(at));
                continue;
            }
            Some(RegisterRule::ValExpression(e)) => {
                caller[number] = evaluate(e, Some(base));
                continue;
            }
            Some(RegisterRule::Register(other)) => {
                caller[number] = regs.get(usize::from(other.0)).copied().flatten();
                continue;
            }
            Some(_) => continue,
        };
        caller[number] = read(place);
        if number == RA {
            if caller[RA].is_none() {
                return Step::NeedStack(place);
            }
            slot = Some(place);
        }
    }
    let Some(slot) = slot else {
        return Step::NoRule;
    };
    *regs = caller;
    Step::Caller {
        slot,
        interrupted: signal,
    }
}

/// The frame descriptions of one file.
enum Frames<'a> {
    Eh {
        table: Option<EhFrameHdr<Reader<'a>>>,
        frames: EhFrame<Reader<'a>>,
        bases: BaseAddresses,
        image: &'a Image,
    },
    Debug {
        frames: DebugFrame<Reader<'a>>,
        image: &'a Image,
    },
}

impl<'a> Frames<'a> {
    fn of(image: &'a Image) -> Option<Frames<'a>> {
        let header = image.eh_frame_hdr();
        let named = image
            .section(".eh_frame")
            .filter(|part| !part.bytes.is_empty())
            .cloned();
        let frames = named.or_else(|| frames_from_header(image, header?));
        if let Some(part) = frames {
            let address = |name| image.section(name).map_or(0, |p| p.address);
            let mut bases = BaseAddresses::default()
                .set_eh_frame(part.address)
                .set_text(address(".text"))
                .set_got(address(".got"));
            if let Some(header) = header {
                bases = bases.set_eh_frame_hdr(header.address);
            }
            // A slice must not be cut where the section was found through the segment: its end
            // is then marked by a zero-length entry.
            let frames = EhFrame::new(slice(image, &part)?, LittleEndian);
            let table = header.and_then(|h| Some(EhFrameHdr::new(slice(image, h)?, LittleEndian)));
            return Some(Frames::Eh {
                table,
                frames,
                bases,
                image,
            });
        }
        let part = image.section(".debug_frame")?;
        let mut frames = DebugFrame::new(slice(image, part)?, LittleEndian);
        frames.set_address_size(8);
        Some(Frames::Debug { frames, image })
    }

    /// Where the description of the code at `address` is in its section.
    fn description(&self, address: u64) -> Option<usize> {
        match self {
            Frames::Eh {
                table: Some(table),
                frames,
                bases,
                ..
            } => {
                let table = table.parse(bases, 8).ok()?;
                let section = table.eh_frame_ptr().direct().ok()?;
                let found = table.table()?.lookup(address, bases).ok()?;
                // gimli's own subtraction overflows where a damaged table points before the section
                let at = found.direct().ok()?.checked_sub(section)?;
                let at = usize::try_from(at).ok()?;
                let fde = frames
                    .fde_from_offset(bases, at.into(), EhFrame::cie_from_offset)
                    .ok()?;
                fde.contains(address).then_some(at)
            }
            Frames::Eh {
                table: None,
                frames,
                bases,
                image,
            } => image
                .index
                .get_or_init(|| index(frames, bases))
                .find(address),
            Frames::Debug { frames, image } => {
                let bases = BaseAddresses::default();
                image
                    .index
                    .get_or_init(|| index(frames, &bases))
                    .find(address)
            }
        }
    }

    /// Calls `use_row` with the row for `address`.
    fn with_row<T>(
        &self,
        address: u64,
        context: &mut UnwindContext<usize>,
        use_row: impl FnOnce(&UnwindTableRow<usize>, &Frames<'a>, gimli::Encoding, bool) -> T,
    ) -> Option<T> {
        let at = self.description(address)?;
        match self {
            Frames::Eh { frames, bases, .. } => {
                let fde = frames
                    .fde_from_offset(bases, at.into(), EhFrame::cie_from_offset)
                    .ok()?;
                let row = fde
                    .unwind_info_for_address(frames, bases, context, address)
                    .ok()?;
                Some(use_row(
                    row,
                    self,
                    fde.cie().encoding(),
                    fde.is_signal_trampoline(),
                ))
            }
            Frames::Debug { frames, .. } => {
                let bases = BaseAddresses::default();
                let fde = frames
                    .fde_from_offset(&bases, at.into(), DebugFrame::cie_from_offset)
                    .ok()?;
                let row = fde
                    .unwind_info_for_address(frames, &bases, context, address)
                    .ok()?;
                Some(use_row(
                    row,
                    self,
                    fde.cie().encoding(),
                    fde.is_signal_trampoline(),
                ))
            }
        }
    }

    /// Where the function around `address` begins.
    fn start(&self, address: u64) -> Option<u64> {
        let at = self.description(address)?;
        let bases = BaseAddresses::default();
        match self {
            Frames::Eh { frames, bases, .. } => frames
                .fde_from_offset(bases, at.into(), EhFrame::cie_from_offset)
                .ok()
                .filter(|fde| fde.contains(address))
                .map(|fde| fde.initial_address()),
            Frames::Debug { frames, .. } => frames
                .fde_from_offset(&bases, at.into(), DebugFrame::cie_from_offset)
                .ok()
                .filter(|fde| fde.contains(address))
                .map(|fde| fde.initial_address()),
        }
    }

    fn evaluate(
        &self,
        expression: UnwindExpression<usize>,
        encoding: gimli::Encoding,
        initial: Option<u64>,
        regs: &Registers,
        read: &dyn Fn(u64) -> Option<u64>,
    ) -> Option<u64> {
        let expression = match self {
            Frames::Eh { frames, .. } => expression.get(frames).ok()?,
            Frames::Debug { frames, .. } => expression.get(frames).ok()?,
        };
        let mut evaluation = expression.evaluation(encoding);
        evaluation.set_max_iterations(1_000);
        if let Some(value) = initial {
            evaluation.set_initial_value(value);
        }
        let mut result = evaluation.evaluate().ok()?;
        loop {
            result = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = regs.get(usize::from(register.0)).copied().flatten()?;
                    evaluation
                        .resume_with_register(Value::Generic(value))
                        .ok()?
                }
                EvaluationResult::RequiresMemory {
                    address, size: 8, ..
                } => evaluation
                    .resume_with_memory(Value::Generic(read(address)?))
                    .ok()?,
                _ => return None,
            };
        }
        match evaluation.as_result().last()?.location {
            Location::Address { address } => Some(address),
            Location::Value { value } => value.to_u64(u64::MAX).ok(),
            _ => None,
        }
    }
}

/// A part's bytes, held as long as the image.
fn slice<'a>(image: &'a Image, part: &Part) -> Option<&'a [u8]> {
    image.held(part)
}

/// `.eh_frame` of a file without section table: its address is in the search table's header.
fn frames_from_header(image: &Image, header: &Part) -> Option<Part> {
    let bases = BaseAddresses::default().set_eh_frame_hdr(header.address);
    let parsed = EhFrameHdr::new(slice(image, header)?, LittleEndian)
        .parse(&bases, 8)
        .ok()?;
    image.part_at(parsed.eh_frame_ptr().direct().ok()?)
}

/// The search table of a file that has none itself.
fn index<'a, S>(section: &S, bases: &BaseAddresses) -> FrameIndex
where
    S: UnwindSection<Reader<'a>>,
    S::Offset: UnwindOffset<usize>,
{
    let mut found = Vec::new();
    let mut entries = section.entries(bases);
    while let Ok(Some(entry)) = entries.next() {
        if let gimli::CieOrFde::Fde(partial) = entry
            && let Ok(fde) = partial.parse(S::cie_from_offset)
            && found.len() < INDEX_MAX
        {
            found.push((fde.initial_address(), fde.offset()));
        }
    }
    FrameIndex::new(found)
}
