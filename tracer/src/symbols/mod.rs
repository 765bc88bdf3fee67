//! Names of frames, and which of them is to blame.

pub mod blame;
pub mod helpers;
mod local;
pub(crate) mod lookup;
pub mod naming;
pub mod perf_map;
pub mod symbolize;
