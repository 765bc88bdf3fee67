//! Finds connection leaks in running programs from outside: the library behind the `tracer`
//! binary.

mod cli;
mod cluster;
mod config;
mod daemon;
mod elf;
mod engine;
mod findings;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod kernel;
mod memory;
mod model;
mod procs;
mod protocols;
mod reader;
mod recording;
mod refused;
mod report;
mod runtimes;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod schema;
mod session;
mod symbols;
pub mod testing;
mod unwind;
mod wiping;

pub use cli::run;
pub use reader::run_if_asked as run_reader_if_asked;
pub use wiping::Wiping;
