//! Where at the beginning of a function a probe costs least.
//!
//! A breakpoint takes the place of an instruction, which the kernel must then run: some it emulates, all
//! others it steps over by a second trap (arch/x86/kernel/uprobes.c), which is dear where the machine is
//! a virtual one. What can't be told for sure is not guessed: then it is the first instruction.

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};

/// Longest beginning that is looked through, bytes.
const BEGINNING_BYTES_MAX: u64 = 64;
/// What a probe reads: arguments, and what callees preserve.
const READ: [Register; 10] = [
    Register::RDI,
    Register::RSI,
    Register::RDX,
    Register::RCX,
    Register::RBX,
    Register::RBP,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// Offset in `code`, a whole function, of the first instruction that the kernel emulates, where each call
/// passes it once and with the registers that it began with; else 0.
#[must_use]
pub fn cheapest(code: &[u8]) -> u64 {
    let instructions: Vec<Instruction> = Decoder::with_ip(64, code, 0, DecoderOptions::NONE)
        .iter()
        .collect();
    let mut facts = InstructionInfoFactory::new();
    let mut found = None;
    for instruction in &instructions {
        if instruction.is_invalid() || instruction.ip() > BEGINNING_BYTES_MAX {
            return 0;
        }
        if is_emulated(instruction) {
            found = Some(instruction.ip());
            break;
        }
        let changed = facts.info(instruction).used_registers().iter().any(|used| {
            let reads = matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
            !reads && READ.contains(&used.register().full_register())
        });
        if changed || instruction.flow_control() != FlowControl::Next {
            return 0;
        }
    }
    let Some(at) = found else { return 0 };
    // nothing of the function comes back to it, and nothing in it can't be followed
    let passed_once = instructions.iter().all(|instruction| {
        !instruction.is_invalid()
            && match instruction.flow_control() {
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    instruction.op0_kind() == OpKind::NearBranch64
                        && !(1..=at).contains(&instruction.near_branch_target())
                }
                FlowControl::IndirectBranch => false,
                _ => true,
            }
    });
    if passed_once { at } else { 0 }
}

/// Of those that the kernel emulates, the ones that it has since 4.18 at least: a push of a register, a
/// jump, a call of an address that stands in it.
fn is_emulated(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Push => {
            instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_gpr64()
        }
        _ => {
            matches!(
            instruction.flow_control(),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call
        ) && instruction.op0_kind() == OpKind::NearBranch64
            // loops and `jrcxz` are none of these
            && (instruction.is_jcc_short_or_near()
                || instruction.is_jmp_short_or_near()
                || instruction.is_call_near())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::cheapest;

    /// The beginning of OpenSSL's `SSL_write` of Debian 12, and two ways to its end.
    const SSL_WRITE: &[&[u8]] = &[
        &[0x48, 0x83, 0xec, 0x18],                      // sub $0x18,%rsp
        &[0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0], // mov %fs:0x28,%rax
        &[0x48, 0x89, 0x44, 0x24, 0x08],                // mov %rax,8(%rsp)
        &[0x31, 0xc0],                                  // xor %eax,%eax
        &[0x85, 0xd2],                                  // test %edx,%edx
        &[0x78, 0x06],                                  // js +6
        &[0x48, 0x89, 0xe1],                            // mov %rsp,%rcx
        &[0x48, 0x63, 0xd2],                            // movslq %edx,%rdx
        &[0xc3],
    ];

    #[test]
    fn a_jump_with_all_arguments_in_place_is_taken() {
        assert_eq!(cheapest(&SSL_WRITE.concat()), 22);
        // `SSL_write_ex`: sub $8,%rsp; call; ret
        let call = [0x48, 0x83, 0xec, 8, 0xe8, 0xc7, 0xfd, 0xff, 0xff, 0xc3];
        assert_eq!(cheapest(&call), 4);
        // endbr64; push %rbp
        assert_eq!(cheapest(&[0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0xc3]), 4);
        assert_eq!(
            cheapest(&[0x41, 0x54, 0x55, 0xc3]),
            0,
            "push %r12 stands first"
        );
    }

    #[test]
    fn what_is_not_sure_is_the_beginning() {
        let moved = [0x48, 0x89, 0xfb, 0x55, 0xc3]; // mov %rdi,%rbx; push %rbp
        assert_eq!(cheapest(&moved), 0);
        let argument = [0x31, 0xf6, 0x55, 0xc3]; // xor %esi,%esi; push %rbp
        assert_eq!(cheapest(&argument), 0);
        // something jumps back to it
        let mut again = SSL_WRITE.concat();
        let end = again.len() - 1;
        again.splice(end.., [0xeb, (22i64 - (end as i64 + 2)) as u8, 0xc3]);
        assert_eq!(cheapest(&again), 0);
        // a jump through a register may go anywhere
        let mut anywhere = SSL_WRITE.concat();
        anywhere.extend([0xff, 0xe0]);
        assert_eq!(cheapest(&anywhere), 0);
        assert_eq!(cheapest(&[0xc3]), 0);
        assert_eq!(cheapest(&[]), 0);
        assert_eq!(cheapest(&[0x48, 0x83]), 0, "cut off");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(code in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(cheapest(&code) <= 64);
        }
    }
}
