//! What is at an address of a process, as unwinding sees it.

use crate::elf::Image;

/// Number of a module: one file under one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(pub(super) u32);

/// What is at an address of a process.
#[derive(Debug, Clone, Copy)]
pub struct Address<'a> {
    /// The module, unless the code is in no file.
    pub module: Option<ModuleId>,
    /// Its contents, unless it could not be read.
    pub image: Option<&'a Image>,
    /// The address as linked in the module; the address itself without an image.
    pub linked: u64,
}

impl Address<'_> {
    /// `true` when the instruction before `address` may be a call. `self` must have been found
    /// for the byte before `address`.
    #[must_use]
    pub fn after_call(&self, _address: u64) -> bool {
        let Some(image) = self.image else { return true };
        let Some(code) = image.code_before(self.linked.wrapping_add(1), 7) else {
            return false;
        };
        // Intel SDM volume 2: E8 is a near call, FF /2 an indirect one of two to seven bytes
        // (prefixes aside), whose second byte has 010 in bits 5 to 3.
        code[2] == 0xe8 || (0..=5).any(|at| code[at] == 0xff && code[at + 1] & 0x38 == 0x10)
    }
}

/// What unwinding needs to know about the process: what is at an address.
pub trait Space {
    /// The module and the address as linked, or the fact that it is executable, or `None`.
    fn find(&self, address: u64) -> Option<Address<'_>>;
}
