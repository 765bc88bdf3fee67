//! Where a probe may sit in a Go function: on the `push %rbp` that follows the stack check.
//!
//! There the stack will not grow any more (so that nothing runs twice), the arguments are still in
//! their registers, and a one-byte `push` is an instruction that the kernel emulates instead of
//! single-stepping. Compilers from Go 1.21 on emit it
//! (`cmd/internal/obj/x86/obj6.go`, `preprocess` and `stacksplit`).

const PUSH_RBP: u8 = 0x55;

/// Offset of the `push %rbp` in a function's code; `None` when it does not begin the way Go's
/// functions do.
#[must_use]
pub fn attach_offset(code: &[u8]) -> Option<usize> {
    let mut at = Cursor { code, at: 0 };
    if at.take(&[PUSH_RBP]) {
        // No stack check: the function never grows the stack.
        return Some(0);
    }
    // The stack pointer is compared as it is, or less the frame (in R12).
    let lowered = if at.take(&[0x4c, 0x8d, 0x64, 0x24]) {
        at.skip(1); // lea -disp8(%rsp),%r12
        true
    } else if at.take(&[0x4c, 0x8d, 0xa4, 0x24]) {
        at.skip(4); // lea -disp32(%rsp),%r12
        true
    } else if at.take(&[0x49, 0x89, 0xe4]) {
        // Huge frames: mov %rsp,%r12; sub $size,%r12; jb morestack
        if !at.take(&[0x49, 0x81, 0xec]) {
            return None;
        }
        at.skip(4);
        if !at.jump(0x72, 0x82) {
            return None;
        }
        true
    } else {
        false
    };
    // cmp 0x10(%r14), with g.stackguard0 at 0x10
    let compare = if lowered {
        [0x4d, 0x3b, 0x66, 0x10]
    } else {
        [0x49, 0x3b, 0x66, 0x10]
    };
    // jbe morestack
    if !at.take(&compare) || !at.jump(0x76, 0x86) {
        return None;
    }
    at.take(&[PUSH_RBP]).then(|| at.at - 1)
}

struct Cursor<'a> {
    code: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn take(&mut self, bytes: &[u8]) -> bool {
        let found = self
            .code
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(bytes));
        if found {
            self.at += bytes.len();
        }
        found
    }

    fn skip(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// A conditional jump, in its short or its long form.
    fn jump(&mut self, short: u8, long: u8) -> bool {
        if self.take(&[short]) {
            self.skip(1);
            true
        } else if self.take(&[0x0f, long]) {
            self.skip(4);
            true
        } else {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::attach_offset;
    use proptest::prelude::*;

    #[test]
    fn push_is_found_behind_every_form_of_stack_check() {
        let cases: [(&[u8], Option<usize>); 7] = [
            (&[0x55, 0x48, 0x89, 0xe5], Some(0)),
            (&[0x49, 0x3b, 0x66, 0x10, 0x76, 0x20, 0x55], Some(6)),
            (
                &[0x49, 0x3b, 0x66, 0x10, 0x0f, 0x86, 1, 2, 3, 4, 0x55],
                Some(10),
            ),
            (
                &[
                    0x4c, 0x8d, 0x64, 0x24, 0xc0, 0x4d, 0x3b, 0x66, 0x10, 0x76, 1, 0x55,
                ],
                Some(11),
            ),
            (
                &[
                    0x49, 0x89, 0xe4, 0x49, 0x81, 0xec, 0, 0, 1, 0, 0x0f, 0x82, 0, 0, 0, 0, 0x4d,
                    0x3b, 0x66, 0x10, 0x0f, 0x86, 0, 0, 0, 0, 0x55,
                ],
                Some(26),
            ),
            // Go 1.20 and older: sub $0x18,%rsp in its place.
            (
                &[0x49, 0x3b, 0x66, 0x10, 0x76, 0x20, 0x48, 0x83, 0xec, 0x18],
                None,
            ),
            // The lowered form compares R12.
            (
                &[
                    0x4c, 0x8d, 0x64, 0x24, 0xc0, 0x49, 0x3b, 0x66, 0x10, 0x76, 1, 0x55,
                ],
                None,
            ),
        ];
        for (code, expected) in cases {
            assert_eq!(attach_offset(code), expected, "{code:02x?}");
        }
    }

    proptest! {
        #[test]
        fn any_code_gives_a_push_or_nothing(code in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(at) = attach_offset(&code) {
                prop_assert_eq!(code[at], 0x55);
            }
        }
    }
}
