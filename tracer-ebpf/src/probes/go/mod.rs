//! Go: what its own connection pools say. Where the probes sit and what they find there: [`hit`].

pub mod creations;
pub mod grpc;
pub mod hit;
pub mod http1;
pub mod stacks;
pub mod streams;
