//! Go programs: build information, pclntab, net/http connection states.
//!
//! The parsers ([`buildinfo`], [`pclntab`], [`moduledata`], [`callsite`], [`dwarf`],
//! [`prologue`], [`state`]) are pure: bytes in, values out. [`GoBinary`] joins them for one executable;
//! [`GoTracer`] attaches probes to the programs in view and reads what these keep in the kernel.

mod binary;
pub mod buildinfo;
pub mod callsite;
mod creations;
pub mod dwarf;
pub mod live;
pub mod moduledata;
mod notes;
pub mod offsets;
pub mod pclntab;
pub mod preexisting;
mod programs;
pub mod prologue;
mod removal;
mod repeats;
pub mod settings;
pub mod state;
pub mod table;
mod tracer;
pub mod view;

pub use binary::GoBinary;
pub use programs::GoProgram;
pub use state::{GoConnection, GoKind, GoRequest};
pub use tracer::{GoTracer, is_go_stack};

use thiserror::Error;

/// Whose frames of Go are, where the build does not tell.
pub const RULES: &str = include_str!("blame.toml");

use crate::elf::ElfError;

/// Why an executable can't be read as a Go program.
#[derive(Debug, Error)]
pub enum GoError {
    /// Not an ELF file that can be parsed.
    #[error("not a usable ELF file: {0}")]
    Elf(#[from] ElfError),
    /// There is neither build information nor a function table of the Go linker.
    #[error("not a Go program")]
    NotGo,
    /// No function table with a known header.
    #[error("no Go function table (pclntab) of a known layout: Go 1.16 or older, or damaged")]
    NoFunctionTable,
    /// The runtime's description of the module was not found.
    #[error("no Go module data that matches the function table")]
    NoModuleData,
}

#[cfg(test)]
mod tests;
