//! Requesters' stacks of Go programs: each distinct one is kept once, under an id.

use aya_ebpf::{macros::map, maps::HashMap};
use tracer_ebpf::{Counter, GoStack, STACK_GO, STACK_NONE};

use crate::core::maps::count;

/// Requesters' stacks by id.
#[map]
pub static GO_STACKS: HashMap<u32, GoStack> = HashMap::with_max_entries(1_408, 0);

const BPF_NOEXIST: u64 = 1;
/// Ids tried for a stack whose own id another stack has.
const ID_TRIES: u32 = 4;

/// The id of a stack, which is stored if it is new; [`STACK_NONE`] when there is no room.
#[inline(always)]
pub fn remember(stack: &GoStack) -> u32 {
    let mut number = (stack.hash >> 32) as u32;
    let mut tries = 0;
    while tries < ID_TRIES {
        let id = (number & (STACK_GO - 1)) | STACK_GO;
        // SAFETY: a map lookup; the value is not kept.
        match unsafe { GO_STACKS.get(&id) } {
            Some(known) if known.hash == stack.hash => return id,
            Some(_) => {}
            None => {
                if GO_STACKS.insert(&id, stack, BPF_NOEXIST).is_ok() {
                    return id;
                }
                // SAFETY: as above. Another CPU may have been first; else the map is full.
                if unsafe { GO_STACKS.get(&id) }.is_none() {
                    break;
                }
                continue_with(&mut number);
                tries += 1;
                continue;
            }
        }
        continue_with(&mut number);
        tries += 1;
    }
    count(Counter::GoStackMapFull);
    STACK_NONE
}

#[inline(always)]
fn continue_with(number: &mut u32) {
    *number = number.wrapping_add(1);
}
