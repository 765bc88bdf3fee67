//! Finds connection leaks in running programs from outside: the library behind the `tracer`
//! binary.

pub mod cli;
pub mod collector;
pub mod daemon;
pub mod engine;
pub mod findings;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod go;
pub mod http;
pub mod kernel;
pub mod model;
pub mod procs;
pub mod report;
pub mod stack;
