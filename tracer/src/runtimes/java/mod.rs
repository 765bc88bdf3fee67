//! Java programs: HotSpot, and what it can be asked for.

pub mod perf_map_request;
pub mod session;
