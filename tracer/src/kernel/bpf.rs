//! bpf(2) itself, for what aya has no call for: batches, single elements as bytes, all that the
//! kernel counts of a program.

use std::io;

use aya_obj::generated::{bpf_attr, bpf_cmd};

/// Attributes with nothing set.
pub fn attributes() -> bpf_attr {
    // SAFETY: a union of plain integers, for which all-zero is a value.
    unsafe { std::mem::zeroed() }
}

/// One call; returns what the kernel returns, a descriptor for some commands.
///
/// # Errors
/// The kernel's.
pub fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: valid attributes of the size given, and every pointer in them was made from a live
    // buffer of the right length by the callers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(i32::try_from(result).unwrap_or(0))
    }
}
