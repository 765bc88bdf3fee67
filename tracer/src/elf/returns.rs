//! Where a function of x86-64 returns. What can't be told for sure is not guessed: then nothing is said,
//! because a probe in the middle of an instruction would change what it does.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, OpKind};

/// Longest function that is looked through, bytes.
pub const FUNCTION_BYTES_MAX: u64 = 4_096;

/// Offsets in `code`, a whole function, of the instructions by which it returns. `None` where one of
/// its instructions is not known, or one jumps into another, or it never returns.
#[must_use]
pub fn returns(code: &[u8]) -> Option<Vec<u64>> {
    let (mut starts, mut targets, mut found) = (Vec::new(), Vec::new(), Vec::new());
    for instruction in Decoder::with_ip(64, code, 0, DecoderOptions::NONE).iter() {
        if instruction.is_invalid() {
            return None;
        }
        starts.push(instruction.ip());
        match instruction.flow_control() {
            // a probe wants the plain one, not `rep ret` or one that takes arguments off the stack
            FlowControl::Return if instruction.code() == Code::Retnq && instruction.len() == 1 => {
                found.push(instruction.ip());
            }
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
                if instruction.op0_kind() == OpKind::NearBranch64 =>
            {
                targets.push(instruction.near_branch_target());
            }
            FlowControl::Next
            | FlowControl::Call
            | FlowControl::IndirectCall
            | FlowControl::IndirectBranch
            | FlowControl::Interrupt
            | FlowControl::Exception => {}
            _ => return None,
        }
    }
    // others lie outside: what a compiler keeps apart because it is seldom run
    let end = code.len() as u64;
    let aligned = targets
        .iter()
        .filter(|&&to| to < end)
        .all(|to| starts.binary_search(to).is_ok());
    (aligned && !found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As compilers make them: OpenSSL's `SSL_read_ex` of Debian 12, and a function with branches, a
    /// stack protector, an index, constants and padding.
    #[test]
    fn the_ends_of_functions_are_found() {
        let code = [
            0x48, 0x83, 0xec, 0x08, 0xe8, 0xc7, 0xfd, 0xff, 0xff, 0x31, 0xd2, 0x85, 0xc0, 0x0f,
            0x48, 0xc2, 0x48, 0x83, 0xc4, 0x08, 0x31, 0xd2, 0x31, 0xc9, 0x31, 0xf6, 0x31, 0xff,
            0xc3,
        ];
        assert_eq!(returns(&code), Some(vec![28]));
        let code = [
            &[0xf3, 0x0f, 0x1e, 0xfa][..],                  // endbr64
            &[0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0], // mov %fs:0x28,%rax
            &[0x85, 0xd2],                                  // test %edx,%edx
            &[0x78, 0x0b],                                  // js +11
            &[0x42, 0x8b, 0x44, 0xa7, 0x08],                // mov 8(%rdi,%r12,4),%eax
            &[0x48, 0x8b, 0x0d, 0xc3, 0xc3, 0xc3, 0xc3],    // mov -0x3c3c3c3d(%rip),%rcx
            &[0xc3],
            &[0x66, 0x0f, 0x1f, 0x44, 0, 0],             // nopw
            &[0x48, 0xb8, 0xc3, 0, 0, 0, 0, 0, 0, 0xc3], // movabs
            &[0xf6, 0x87, 0xf1, 9, 0, 0, 0xc3],          // testb $0xc3,0x9f1(%rdi)
            &[0x66, 0xc7, 0x07, 0xc3, 0xc3],             // movw $0xc3c3,(%rdi)
            &[0x0f, 0x85, 0xe0, 0xff, 0xff, 0xff],       // jne -32
            &[0xc3],
        ];
        let jumps = code.concat();
        // the first jump goes into an instruction
        assert_eq!(returns(&jumps), None);
        let mut right = jumps.clone();
        right[16] = 12;
        let back = right.len() - 5;
        right[back] = (-34i8) as u8;
        assert_eq!(returns(&right), Some(vec![29, 64]));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        // cut off, none that there is, no return, `rep ret`, one that takes arguments off the stack
        for code in [
            &[0xc3, 0x48, 0x83][..],
            &[0x06, 0xc3],
            &[0x90],
            &[0xf3, 0xc3],
            &[0xc2, 0x08, 0x00],
        ] {
            assert_eq!(returns(code), None, "{code:x?}");
        }
        assert_eq!(returns(&[]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(code in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(found) = returns(&code) {
                for at in found {
                    prop_assert_eq!(code[at as usize], 0xc3);
                }
            }
        }
    }
}
