//! Executable files of watched programs: the one reader of ELF, for every runtime and for
//! unwinding.
//!
//! Whoever owns the file may change, shorten or forge it while it is read. So nothing of it is
//! mapped (a page that is gone ends the process that touches it): bytes are read into buffers of
//! our own ([`Contents`]), counts and lengths have bounds ([`ElfError::TooMuch`] names the one that
//! was passed), and a fact that does not hold together costs that fact and not the file.

mod cheapest;
mod contents;
mod debug_info;
mod frame_index;
mod image;
mod loaded;
mod refusals;
mod returns;
mod symbols;
#[cfg(test)]
mod tests;

use std::io;

pub use cheapest::cheapest;
pub use contents::Contents;
pub use debug_info::DebugInfo;
pub use frame_index::FrameIndex;
pub use image::{Image, ImageKey, Part, Segment};
pub use loaded::Loaded;
pub use refusals::Refusals;
pub use returns::{FUNCTION_BYTES_MAX, returns};
use thiserror::Error;

/// Why a file is not read as an executable.
#[derive(Debug, Error)]
pub enum ElfError {
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
    /// Not an ELF file.
    #[error("it is no ELF file")]
    NotElf,
    /// Not 64-bit and little-endian.
    #[error("only 64-bit little-endian files are read")]
    Width,
    /// A part that is named by another is beyond the end of the file.
    #[error("its {0} is beyond its end")]
    CutOff(&'static str),
    /// More than a program has.
    #[error("its {what} are {found}, more than {most}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// The bound.
        most: u64,
    },
}
