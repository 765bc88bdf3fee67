//! Where a thread keeps a variable of its own, from the code of a small function that returns or
//! uses it (x86-64). Pure.
//!
//! The ways are those of "ELF Handling For Thread-Local Storage" (Drepper), section 4.4: a
//! variable of the executable lies at a fixed distance from the thread pointer; that of a library
//! that was there at the start, too, but the distance is known only to the dynamic linker, which
//! writes it into the library's table; else the table tells a module and an offset, and each
//! thread has a vector of its modules' blocks (or a descriptor tells the distance).

use crate::memory::Memory;

/// Bytes of a function that are looked at.
pub const CODE_BYTES: usize = 64;

/// How a function gets at the variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// At this distance from the thread pointer.
    Fixed(i32),
    /// At the distance that this address (as linked) holds.
    Distance(u64),
    /// In the module whose number this address (as linked) holds, at the offset that follows
    /// there, and this many bytes further.
    Module(u64, u32),
}

/// Which C library keeps the vector of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// Two words for each module.
    Glibc,
    /// One word for each module.
    Musl,
}

impl Library {
    /// Which one a process has, by a file that it has mapped.
    #[must_use]
    pub fn of<'a>(mut files: impl Iterator<Item = &'a str>) -> Library {
        if files.any(|name| name.starts_with("ld-musl") || name.starts_with("libc.musl")) {
            Library::Musl
        } else {
            Library::Glibc
        }
    }

    const fn entry_bytes(self) -> u64 {
        match self {
            Library::Glibc => 16,
            Library::Musl => 8,
        }
    }
}

/// From the thread pointer to its vector, in both C libraries.
const VECTOR: i32 = 8;
/// Most modules that have blocks.
const MODULES_MAX: u64 = 4096;
/// Largest block.
const BLOCK_MAX: u64 = 1 << 20;

/// Reads the first access of a thread-local variable in a function. `address` is that of the code,
/// as linked.
#[must_use]
pub fn access(code: &[u8], address: u64) -> Option<Access> {
    (0..code.len()).find_map(|at| {
        let rest = code.get(at..)?;
        let target = |from: usize, len: usize| {
            let distance = displacement(rest.get(from..)?)?;
            let next = address.wrapping_add(at as u64).wrapping_add(len as u64);
            Some(next.wrapping_add_signed(i64::from(distance)))
        };
        match rest {
            // data16 lea x(%rip),%rdi; data16 data16 rex.W call __tls_get_addr
            [0x66, 0x48, 0x8d, 0x3d, ..] => {
                Some(Access::Module(target(4, 8)?, used(rest.get(8..)?)))
            }
            // lea x(%rip),%rdi; call __tls_get_addr (all variables of the module)
            [0x48, 0x8d, 0x3d, _, _, _, _, 0xe8, ..] => {
                Some(Access::Module(target(3, 7)?, used(rest.get(7..)?)))
            }
            // mov %fs:x,%reg
            [0x64, 0x48, 0x8b, register, 0x25, ..] if register & 0xc7 == 0x04 => {
                match displacement(rest.get(5..)?)? {
                    // the thread pointer itself, or a stack protector's canary
                    0.. => None,
                    distance => Some(Access::Fixed(distance)),
                }
            }
            // mov x(%rip),%reg; mov %fs:(%reg),%reg
            [0x48, 0x8b, register, _, _, _, _, 0x64, 0x48, 0x8b, ..] if register & 0xc7 == 0x05 => {
                Some(Access::Distance(target(3, 7)?))
            }
            _ => None,
        }
    })
}

/// What is added to the address that a call returned: the offset in the first load through RAX.
fn used(code: &[u8]) -> u32 {
    let call = code.iter().position(|byte| *byte == 0xe8);
    let load = call.and_then(|call| code.get(call + 5..));
    match load {
        Some([0x48, 0x8b, register, offset, ..]) if register & 0xc7 == 0x40 => u32::from(*offset),
        Some([0x48, 0x8b, register, rest @ ..]) if register & 0xc7 == 0x80 => displacement(rest)
            .and_then(|offset| u32::try_from(offset).ok())
            .unwrap_or_default(),
        _ => 0,
    }
}

fn displacement(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_le_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// The distances from the thread pointer to the variable, for [`tracer_ebpf::RuntimePlan::way`].
/// `bias` is what is added to addresses as linked.
#[must_use]
pub fn way(access: Access, library: Library, bias: u64, memory: &dyn Memory) -> Option<Vec<i32>> {
    match access {
        Access::Fixed(distance) => Some(vec![distance]),
        Access::Distance(at) => {
            let distance = memory.word(bias.wrapping_add(at))?.cast_signed();
            Some(vec![i32::try_from(distance).ok()?])
        }
        Access::Module(at, further) => {
            let module = memory.word(bias.wrapping_add(at))?;
            let offset = memory.word(bias.wrapping_add(at).wrapping_add(8))?;
            if module == 0 || module > MODULES_MAX || offset > BLOCK_MAX {
                return None;
            }
            let block = i32::try_from(module * library.entry_bytes()).ok()?;
            let variable = i32::try_from(offset + u64::from(further)).ok()?;
            Some(vec![VECTOR, block, variable])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Access, Library, access, way};
    use crate::memory::Memory;
    use proptest::prelude::{any, proptest};

    struct Table;

    impl Memory for Table {
        fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
            let word: u64 = match address {
                0x7000_2000 => 3,
                0x7000_2008 => 24,
                _ => return false,
            };
            buffer.copy_from_slice(&word.to_le_bytes());
            true
        }
    }

    #[test]
    fn a_library_s_variable_is_found_by_its_module() {
        let code = [
            0x48, 0x83, 0xec, 0x08, 0x66, 0x48, 0x8d, 0x3d, 0xf4, 0x0f, 0, 0, 0x66, 0x66, 0x48,
            0xe8, 1, 2, 3, 4, 0x48, 0x8b, 0x40, 0x10, 0xc3,
        ];
        let found = access(&code, 0x1000);
        assert_eq!(found, Some(Access::Module(0x2000, 16)));
        let steps = |library| way(Access::Module(0x2000, 16), library, 0x7000_0000, &Table);
        assert_eq!(steps(Library::Glibc), Some(vec![8, 48, 40]));
        assert_eq!(steps(Library::Musl), Some(vec![8, 24, 40]));
    }

    #[test]
    fn an_executable_s_variable_is_at_a_fixed_distance() {
        let code = [0x64, 0x48, 0x8b, 0x04, 0x25, 0xf8, 0xff, 0xff, 0xff, 0xc3];
        assert_eq!(access(&code, 0x1000), Some(Access::Fixed(-8)));
        let canary = [0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0, 0xc3];
        assert_eq!(access(&canary, 0x1000), None);
    }

    #[test]
    fn a_distance_may_be_in_the_table() {
        let code = [0x48, 0x8b, 0x05, 0xf9, 0x0f, 0, 0, 0x64, 0x48, 0x8b, 0];
        assert_eq!(access(&code, 0x1000), Some(Access::Distance(0x2000)));
    }

    #[test]
    fn the_c_library_is_told_by_its_name() {
        let of = |names: &[&str]| Library::of(names.iter().copied());
        assert_eq!(of(&["libc.so.6", "ruby"]), Library::Glibc);
        assert_eq!(of(&["ld-musl-x86_64.so.1"]), Library::Musl);
    }

    proptest! {
        #[test]
        fn any_code_is_survived(code in any::<Vec<u8>>(), address in any::<u64>()) {
            if let Some(found) = access(&code, address) {
                let _ = way(found, Library::Glibc, address, &Table);
            }
        }
    }
}
