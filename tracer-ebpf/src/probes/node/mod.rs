//! Node.js.

/// A register of the probed function, by its name.
macro_rules! argument {
    ($ctx:expr, $name:ident) => {
        // SAFETY: the context of a uprobe is `struct pt_regs`; volatile, so that each register is
        // loaded by itself, as the verifier wants it.
        unsafe { core::ptr::read_volatile(&raw const (*($ctx.as_ptr() as *const UserRegs)).$name) }
    };
}

pub mod libuv;
pub mod pipes;
pub mod reuse;
pub mod streams;
pub mod urls;
