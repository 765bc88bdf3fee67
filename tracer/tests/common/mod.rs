//! What the tests on a real kernel begin with.

use anyhow::Result;
use tracer::testing::{Probes, Setup};
use tracer_ebpf::{Config, FILTER_PROCESS};

/// The programs, for the processes that are put into `targets`.
pub fn load(config: Config) -> Result<Probes> {
    tracer_tests::host::require_root()?;
    Ok(Probes::load(Setup {
        config: Config {
            filter: FILTER_PROCESS,
            ..config
        },
        max_sockets: 4096,
        btf: None,
        pin: None,
        backend: None,
        without: &[],
        trace_syscalls: false,
    })?)
}

/// The programs, for this process.
#[allow(dead_code, reason = "not every test watches itself")]
pub fn load_for_us() -> Result<Probes> {
    let probes = load(Config {
        want_heads: 1,
        ..Config::default()
    })?;
    probes.targets.set(&std::process::id(), &1)?;
    Ok(probes)
}
