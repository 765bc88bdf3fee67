//! Language runtimes: one folder each, with everything about it.

pub mod go;
pub mod java;
pub mod managed;
pub mod node;
pub mod perf_map;
pub mod python;
