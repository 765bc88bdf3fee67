//! Takes out of a request line what a query says: only the names of its parameters stay.

use core::hint::black_box;

use tracer_ebpf::{LINE_BYTES, MASKED};

use super::{
    lines::bytes_that_are,
    maps::{SCRATCH, Scratch},
};

/// Before the query.
const BEFORE: u8 = 0;
/// In a parameter's name; on the way back, in what may be one that is set to nothing.
const NAME: u8 = 1;
/// In what it is set to; on the way back, as [`NAME`].
const VALUE: u8 = 2;
/// Behind the target.
const AFTER: u8 = 3;
/// On the way back: in the name of a parameter that is set to something.
const NAMED: u8 = 4;
/// States, rounded up to a power of two.
const STATES: usize = 8;
/// Bit of a step that masks its byte.
const MASK: u8 = 1 << 7;

/// For each state and byte the next state, with [`MASK`].
type Steps = [u8; STATES * 256];

// Tables, because each branch at each byte would double what the verifier follows.
static FORWARD: Steps = steps(false);
static BACK: Steps = steps(true);

const fn steps(back: bool) -> Steps {
    let mut steps = [0; STATES * 256];
    let mut at = 0;
    while at < steps.len() {
        let (state, byte) = ((at >> 8) as u8, at as u8);
        steps[at] = if back {
            step_back(state, byte)
        } else {
            step_forward(state, byte)
        };
        at += 1;
    }
    steps
}

/// Masks what comes behind the first `=` of each parameter.
const fn step_forward(state: u8, byte: u8) -> u8 {
    match (state, byte) {
        (BEFORE, b'?') => NAME,
        (NAME | VALUE, b' ') => AFTER,
        (NAME, b'=') => VALUE,
        (VALUE, b'&') => NAME,
        (VALUE, 1..) => VALUE | MASK,
        _ => state,
    }
}

/// Masks names that are set to nothing, from the end: they may be anything.
const fn step_back(state: u8, byte: u8) -> u8 {
    match (state, byte) {
        (AFTER, b' ') => VALUE,
        (NAME | VALUE | NAMED, b'?') => BEFORE,
        (NAME | VALUE, b'=') => NAMED,
        (NAMED, b'&') => VALUE,
        (NAME | VALUE, 0 | b'&') => state,
        (NAME | VALUE, _) => VALUE | MASK,
        _ => state,
    }
}

/// Whether the lane's line has these bytes.
pub struct Marks {
    /// A question mark.
    pub query: bool,
    /// An at sign.
    pub at_sign: bool,
}

/// Looks for them.
#[inline(always)]
pub fn marks(scratch: *const Scratch) -> Marks {
    let (mut query, mut at_sign) = (0, 0);
    let mut i = 0;
    while i < LINE_BYTES / 8 {
        // SAFETY: this program's room on this CPU; the line has the alignment of words.
        let word = unsafe {
            (&raw const (*scratch).head.line)
                .cast::<u64>()
                .add(i)
                .read()
        };
        query |= bytes_that_are(word, b'?');
        at_sign |= bytes_that_are(word, b'@');
        i += 1;
    }
    Marks {
        query: query != 0,
        at_sign: at_sign != 0,
    }
}

/// Masks the query in the lane's line. A global function, so that it is verified once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn mask_query(lane: u32) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(lane) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    let line = unsafe { (&raw mut (*scratch).head.line).cast::<u8>() };
    let mut state = BEFORE;
    let mut i = 0;
    while i < LINE_BYTES {
        // SAFETY: less than the line has bytes.
        state = unsafe { step(&FORWARD, state, line.add(i)) };
        i += 1;
    }
    while i > 0 {
        i -= 1;
        // SAFETY: as above.
        state = unsafe { step(&BACK, state, line.add(i)) };
    }
    u32::from(state)
}

/// One step of a walk.
///
/// # Safety
/// `byte` can be read and written.
#[inline(always)]
unsafe fn step(steps: &'static Steps, state: u8, byte: *mut u8) -> u8 {
    // SAFETY: the caller's promise.
    let found = unsafe { byte.read() };
    let at = (usize::from(state) & (STATES - 1)) << 8 | usize::from(found);
    // SAFETY: the index has as many bits as the table's has.
    let step = unsafe { steps.as_ptr().add(at).read_volatile() };
    // all bits or none; not by a branch
    let mask = black_box((step as i8 >> 7) as u8);
    // SAFETY: the caller's promise.
    unsafe { byte.write((found & !mask) | (MASKED & mask)) };
    step
}
