//! The kernel side: type information, the attach plan, maps and iterators.

pub mod attach;
mod bpf;
pub mod btf;
pub mod maps;
#[cfg(feature = "ebpf-log")]
mod notes;
pub mod observed;
pub mod offsets;
pub mod overhead;
pub mod pins;
pub mod plan;
pub mod probes;
mod state_map;
pub mod stats;
pub mod uprobes;
