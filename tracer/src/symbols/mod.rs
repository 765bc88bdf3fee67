//! Names of frames, and which of them is to blame.

pub mod blame;
pub mod helpers;
mod local;
pub(crate) mod lookup;
pub mod naming;
mod patience;
pub mod perf_map;
pub mod symbolize;
