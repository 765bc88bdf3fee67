//! Recordings: what the engine was told, and what findings were named by, in a file. A replay needs
//! no kernel and no privileges, and judges anew.
//!
//! ```text
//! tracer recording 1\n                       then, compressed (RFC 1950):
//! HEADER  length, JSON                       who recorded what
//! SWEEP   time, flags, gone slots, changed connections, other things the engine was told
//! LOOSE   other things the engine was told, outside of sweeps
//! JUDGE
//! ANSWER  length, JSON                       what the report of the last JUDGE was made from
//! END
//! ```
//!
//! Numbers are LEB128 ([`wire`]), connections what changed of them ([`connection`]). A connection is
//! known by its slot, never by an address of the kernel. Of requests, a recording has the routes that
//! findings have: no exact URL, no query value, no example.
//!
//! Files come from strangers: everything read has a limit ([`reader`]).

mod answer;
mod connection;
mod reader;
mod recorder;
#[cfg(test)]
mod tests;
mod wire;

use std::io;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use answer::{Answer, Named, Shown};
#[cfg(any(test, fuzzing))]
pub use reader::read_hostile;
pub use reader::{Replayed, replay};
pub use recorder::Tape;

/// Version of the format.
pub const FORMAT: u32 = 1;
/// How every recording begins, before its version and a line's end.
const MAGIC: &[u8] = b"tracer recording ";
/// Most bytes of a recording before compression, both ways.
const INFLATED_MAX: u64 = 512 << 20;
/// Most connections at one time.
const SLOTS_MAX: u32 = 1 << 20;

/// Kinds of records.
mod tag {
    pub(super) const SWEEP: u8 = 1;
    pub(super) const LOOSE: u8 = 2;
    pub(super) const JUDGE: u8 = 3;
    pub(super) const ANSWER: u8 = 4;
    pub(super) const END: u8 = 5;
}

/// Flags of a sweep.
mod flag {
    pub(super) const RECONCILED: u64 = 1;
    pub(super) const COMPLETE: u64 = 2;
}

/// Kinds of what else the engine is told.
mod other {
    pub(super) const ENROLL: u8 = 1;
    pub(super) const ENDED: u8 = 2;
    pub(super) const COLLECTED: u8 = 3;
}

/// Who recorded what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of tracer.
    pub tracer: String,
    /// What was watched, in words.
    pub target: String,
}

/// Why a recording can't be read, in words that follow the file's name.
#[derive(Debug, Error)]
pub enum Fault {
    /// Something else altogether.
    #[error("is no recording of tracer; make one with `tracer check --record FILE`")]
    Foreign,
    /// Another version of the format.
    #[error(
        "has format {0}, and this version of tracer reads format {FORMAT}; replay it with the \
         version that made it, or a newer one"
    )]
    Version(u64),
    /// It ends too early.
    #[error("is cut off: the recording was not finished, or only a part of it was copied")]
    CutOff,
    /// Bytes that no recorder writes; what they should have been.
    #[error("is damaged: {0} is out of bounds; copy it again")]
    Malformed(&'static str),
    /// The JSON in it.
    #[error("is damaged: {0}; copy it again")]
    Json(#[from] serde_json::Error),
    /// More than is ever read.
    #[error("is too large: {0}")]
    TooLarge(&'static str),
    /// It has no answer: the recording ended before there was one.
    #[error("has no report: it was recorded without getting as far as one")]
    NoAnswer,
    /// The system's.
    #[error("can't be read: {0}")]
    Io(io::Error),
}
