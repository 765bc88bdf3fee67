//! The functions that wait for what runs: of a connection that is made after an `await`, who asked is
//! not on the stack any more, but waits for the promise of who is.
//!
//! The kernel side follows the promises at the moment of the copy ([`tracer_ebpf::Awaits`]); what it
//! finds of a function, the part that all of its closures share, is named right afterwards.

use tracer_ebpf::{AWAIT_HANDLER, RuntimeFrame};

use super::{
    functions::{ANONYMOUS, Functions, bytecodes_of, position},
    heap::{Heap, Object, object, small},
};
use crate::model::Named;

/// Names of the functions that wait, innermost first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Their names.
    pub functions: Vec<Named>,
    /// None of them, or of those beyond, is missing.
    pub exact: bool,
}

/// Names what the kernel side found. Behind a function without a name others would be blamed, so the
/// rest is left out.
pub fn named(heap: Heap<'_>, functions: &mut Functions, found: &[RuntimeFrame]) -> Waiting {
    let mut waiting = Waiting::default();
    for frame in found {
        let Some(shared) = object(frame.code) else {
            waiting.exact = frame.code == 0;
            break;
        };
        if frame.instruction == AWAIT_HANDLER {
            match handler(heap, functions, shared) {
                Some(named) => waiting.functions.extend(named),
                None => break,
            }
        } else {
            match awaiting(heap, functions, shared, frame.instruction) {
                Some(named) => waiting.functions.push(named),
                None => break,
            }
        }
    }
    waiting
}

/// A function that waits in an `await`.
fn awaiting(
    heap: Heap<'_>,
    functions: &mut Functions,
    shared: Object,
    place: u64,
) -> Option<Named> {
    shared_part(heap, shared)?;
    let function = functions.get(heap, shared)?;
    let header = heap.layout.bytecode_data.checked_sub(1)?;
    let offset = small(place).and_then(|place| u64::try_from(place).ok());
    let offset = offset.and_then(|place| place.checked_sub(header));
    let position = offset.and_then(|offset| {
        let bytecodes = bytecodes_of(heap, shared)?;
        position(heap, bytecodes, offset)
    });
    Some(function.at(position, false))
}

/// A function that is called with the result. One without a name stands where it is passed on, which
/// is in the function around it that asked; one with a name may be from anywhere and is left out.
fn handler(heap: Heap<'_>, functions: &mut Functions, shared: Object) -> Option<Option<Named>> {
    shared_part(heap, shared)?;
    let function = functions.get(heap, shared)?;
    let named = function.begins();
    let nameless = named.function.ends_with(ANONYMOUS);
    Some(nameless.then_some(named))
}

/// The object, where it is what closures share.
fn shared_part(heap: Heap<'_>, shared: Object) -> Option<Object> {
    (heap.kind(shared) == Some(heap.layout.types.shared)).then_some(shared)
}
