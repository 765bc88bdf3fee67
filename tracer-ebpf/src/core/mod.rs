//! What the programs do, whichever way they are attached.

pub mod accepts;
pub mod asked;
pub mod calls;
pub mod capture;
pub mod descriptors;
pub mod ends;
pub mod frames;
pub mod heads;
pub mod hello;
pub mod helpers;
pub mod kernel;
pub mod known_paths;
pub mod lines;
pub mod maps;
pub mod mptcp;
pub mod notes;
pub mod plaintext;
pub mod processes;
pub mod query;
pub mod responses;
pub mod sockets;
pub mod syscalls;
pub mod task;
pub mod transfers;
pub mod unix;
pub mod user_buffer;
