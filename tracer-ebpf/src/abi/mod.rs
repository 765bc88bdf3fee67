//! The records, one file for each side of the programs' work. Everything here is what maps hold or
//! what globals say: a change of it makes pinned maps of another build useless (`tracer/build.rs`).

pub mod answers;
pub mod config;
pub mod counters;
pub mod frames;
pub mod go;
pub mod greetings;
pub mod socket;
pub mod stack;
pub mod streams;
pub mod tasks;
pub mod tls;
pub mod urls;
