//! Frames of V8: each tells by its frame pointer what it is.
//!
//! src/execution/frame-constants.h: all code of V8's, compiled or built in, keeps RBP. Below it is
//! either a small number, the kind of a frame of the runtime's own, or the context of a function of
//! the language; then comes the function, and in interpreted frames the bytecode and the place in
//! it. So a frame can always be left by RBP, and what it says of itself can be checked.

use std::sync::Arc;

use tracer_ebpf::RuntimeFrame;

use super::{
    awaits::{self, Waiting},
    code::{self, Kind, Pieces},
    functions::{Functions, position},
    heap::{Heap, Object, object, small},
    layout::Layout,
    places::Places,
};
use crate::{
    memory::Memory,
    model::Named,
    unwind::managed::{Caller, ManagedFrame, Place, Walker},
};

/// Walks V8's frames in one process.
#[derive(Debug)]
pub struct V8 {
    layout: Arc<Layout>,
    places: Places,
    functions: Functions,
    pieces: Pieces,
}

/// Why a frame has no names.
const NO_FUNCTION: &str = "the function has moved, or is not understood";
const NO_CODE: &str = "the code has moved, or is not understood";

impl V8 {
    /// A walker that knows nothing yet.
    #[must_use]
    pub fn new(layout: Arc<Layout>, places: Places) -> V8 {
        V8 {
            layout,
            places,
            functions: Functions::default(),
            pieces: Pieces::default(),
        }
    }

    /// The process has other mappings now.
    pub fn remap(&mut self, places: Places) {
        self.places = places;
    }

    /// Names what the kernel side found of functions that wait for what runs.
    pub fn waiting(&mut self, found: &[RuntimeFrame], memory: &dyn Memory) -> Waiting {
        let layout = Arc::clone(&self.layout);
        let heap = Heap {
            layout: &layout,
            memory,
        };
        awaits::named(heap, &mut self.functions, found)
    }

    /// The frames of a function: what runs there, and the words that tell this call from others
    /// at the same return address.
    fn function(
        &mut self,
        at: Place,
        fp: u64,
        stack: &dyn Fn(u64) -> Option<u64>,
        memory: &dyn Memory,
    ) -> Explained {
        let layout = Arc::clone(&self.layout);
        let heap = Heap {
            layout: &layout,
            memory,
        };
        let slot = |offset: i64| fp.checked_add_signed(offset);
        let word = |offset: i64| stack(slot(offset)?);
        let bytecodes = word(layout.fp_bytecodes)
            .and_then(|word| heap.typed(word, |t| t == layout.types.bytecodes));
        let tells = |offsets: &[i64]| {
            let mut slots: Vec<u64> = offsets.iter().filter_map(|o| slot(*o)).collect();
            slots.sort_unstable();
            slots
        };
        let function = word(layout.fp_function);
        let lookup = at.pc.wrapping_sub(u64::from(at.returning));
        let compiled = self.places.compiled_from(lookup);
        let piece = compiled.and_then(|from| self.pieces.at(heap, lookup, from));
        match piece.map(|piece| (piece, piece.kind)) {
            Some((piece, Kind::Optimized)) => {
                let names = code::optimized(heap, &mut self.functions, piece, at.pc);
                return Explained::new(names, Vec::new(), NO_CODE);
            }
            Some((piece, Kind::Baseline)) => {
                let names = bytecodes.and_then(|bytecodes| {
                    let offset = code::baseline_offset(heap, piece, at.pc, bytecodes)?;
                    self.bytecode(heap, bytecodes, function, offset)
                });
                return Explained::new(names, tells(&[layout.fp_bytecodes]), NO_FUNCTION);
            }
            // the interpreter may be entered by code of its own for each function
            Some((_, Kind::Stub)) | None => {}
        }
        let Some(bytecodes) = bytecodes else {
            // A function of the language that is built in: it is not the program's, and is not
            // shown. In memory of its own, code that is not found is unknown.
            return match (compiled, piece) {
                (Some(_), None) => Explained::new(None, Vec::new(), NO_CODE),
                _ => Explained::default(),
            };
        };
        // The place is counted from the object's tagged address.
        let header = i64::try_from(layout.bytecode_data).unwrap_or(i64::MAX) - 1;
        let offset = word(layout.fp_offset).and_then(small);
        let offset = offset.and_then(|o| u64::try_from(i64::from(o) - header).ok());
        let inside = |o: &u64| heap.length(bytecodes).is_some_and(|length| *o < length);
        let names = offset
            .filter(inside)
            .and_then(|offset| self.bytecode(heap, bytecodes, function, offset));
        let tells = tells(&[layout.fp_bytecodes, layout.fp_offset]);
        Explained::new(names, tells, NO_FUNCTION)
    }

    /// The function whose bytecode this is, at a place in it.
    fn bytecode(
        &mut self,
        heap: Heap<'_>,
        bytecodes: Object,
        function: Option<u64>,
        offset: u64,
    ) -> Option<Vec<Named>> {
        let shared = self.functions.of_bytecodes(heap, bytecodes, function)?;
        let function = self.functions.get(heap, shared)?;
        let position = position(heap, bytecodes, offset);
        Some(vec![function.at(position, false)])
    }
}

/// What a frame of a function says.
#[derive(Debug, Default)]
struct Explained {
    functions: Vec<Named>,
    tells: Vec<u64>,
    doubt: Option<&'static str>,
}

impl Explained {
    fn new(names: Option<Vec<Named>>, tells: Vec<u64>, otherwise: &'static str) -> Explained {
        let doubt = names.is_none().then_some(otherwise);
        Explained {
            functions: names.unwrap_or_default(),
            tells,
            doubt,
        }
    }
}

impl Walker for V8 {
    fn claims(&self, pc: u64) -> bool {
        self.places.contains(pc)
    }

    fn explain(
        &mut self,
        at: Place,
        stack: &dyn Fn(u64) -> Option<u64>,
        memory: &dyn Memory,
    ) -> Option<ManagedFrame> {
        let fp = at.fp.filter(|fp| *fp >= at.sp && fp % 8 == 0)?;
        let caller = (|| {
            let slot = fp.checked_add(8)?;
            Some(Caller {
                slot,
                pc: stack(slot)?,
                sp: fp.checked_add(16)?,
                fp: stack(fp),
            })
        })();
        let context = stack(fp.checked_add_signed(self.layout.fp_context)?)?;
        // A frame of the runtime's own has its kind here, a small number, instead of a context.
        let explained = if object(context).is_some() && at.returning {
            self.function(at, fp, stack, memory)
        } else {
            Explained::default()
        };
        Some(ManagedFrame {
            functions: explained.functions,
            tells: explained.tells,
            caller,
            doubt: explained.doubt,
        })
    }
}
