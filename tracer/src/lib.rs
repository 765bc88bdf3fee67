//! Finds connection leaks in running programs from outside: the library behind the `tracer`
//! binary.

pub mod cli;
pub mod config;
pub mod daemon;
pub mod elf;
pub mod engine;
pub mod findings;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod kernel;
pub mod memory;
pub mod model;
pub mod procs;
pub mod protocols;
pub mod reader;
pub mod report;
pub mod runtimes;
#[cfg(test)]
mod schema;
pub mod session;
pub mod symbols;
pub mod unwind;
