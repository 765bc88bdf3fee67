//! The kernel side: type information, the attach plan, maps and iterators.

pub mod attach;
mod blob;
pub mod btf;
pub mod maps;
pub mod offsets;
pub mod pins;
pub mod plan;
pub mod probes;
pub mod stats;
pub mod tax;
pub mod uprobes;
