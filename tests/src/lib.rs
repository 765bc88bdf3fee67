//! Helpers of the behaviour tests: a runner that counts what it skips, real programs to watch, and
//! the `tracer` binary as a user has it.
//!
//! The tests know tracer by its commands, its JSON and its exit statuses only.

pub mod beginning;
pub mod cluster;
pub mod corpus;
pub mod daemon;
pub mod debian;
pub mod fixtures;
pub mod gdb;
pub mod go;
pub mod host;
pub mod hostile;
pub mod http;
pub mod java;
pub mod languages;
pub mod named;
pub mod node;
pub mod objects;
pub mod pace;
pub mod page;
pub mod picture;
pub mod pinned;
pub mod program;
pub mod prometheus;
pub mod receiver;
pub mod runc;
pub mod runner;
pub mod schema;
pub mod scripts;
pub mod shop;
pub mod stand_in;
pub mod tasks;
pub mod terminal;
pub mod tracer;
pub mod wait;
pub mod wheel;
