//! From registers and stack bytes to return addresses, and the paths that the kernel learns of them.

pub mod cfi;
#[cfg(any(test, fuzzing))]
mod fuzz;
pub mod managed;
pub mod modules;
mod opened;
pub mod space;
pub mod trie;
pub mod walk;

#[cfg(any(test, fuzzing))]
pub(crate) use fuzz::unwind_hostile;
