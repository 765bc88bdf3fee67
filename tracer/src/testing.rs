//! What the tests on a real kernel and the benchmarks beside this library drive. Everything else is
//! private, so that the compiler sees what nobody uses.

pub use crate::{
    elf::Image,
    kernel::{
        btf::Btf,
        plan::BACKENDS,
        probes::{ProbeError, Probes, Setup},
    },
    model::{Frame, Named, PoolState},
    procs::maps,
    runtimes::{
        Runtimes, blame,
        go::{GoBinary, GoConnection, GoKind, GoProgram, GoTracer, dwarf, offsets},
    },
    session::stacks::{Limits, Stacks},
    symbols::symbolize::Names,
};

/// The judgements.
pub mod engine {
    pub use crate::{
        engine::{Engine, Lineage, Settings},
        model::{CohortId, Connection, Role},
    };
}

/// The process that reads foreign files in our place.
pub mod reader {
    pub use crate::reader::start_from;
}
