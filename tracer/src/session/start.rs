//! Setting up the kernel side, and errors that name what is missing.

use tracer_ebpf::Config;

use super::{
    Options, StartError, greetings::Greetings, resolved::Resolved, stack_ring::StackRing,
    streams::Streams,
};
use crate::kernel::probes::{ProbeError, Probes, Setup};

/// Loads and attaches the probes.
///
/// # Errors
/// [`StartError::Unsupported`] for everything that this kernel or these privileges refuse.
pub fn load(options: &Options, config: Config) -> Result<Probes, StartError> {
    let target = format!("{:?}", options.target);
    if !cfg!(target_arch = "x86_64") {
        return Err(StartError::Unsupported(format!(
            "tracer reads user registers of x86-64 only; this machine is {}",
            std::env::consts::ARCH
        )));
    }
    Probes::load(Setup {
        config,
        max_sockets: options.max_sockets,
        btf: options.btf.as_deref(),
        backend: options.backend.as_deref(),
        without: &options.without,
        trace_syscalls: options.trace_syscalls,
        pin: options
            .pin
            .as_deref()
            .map(|directory| (directory, &*target)),
    })
    .inspect(|probes| {
        if let Some(overhead) = probes.syscall_overhead() {
            tracing::warn!("{overhead}");
        }
    })
    .map_err(|error| {
        let missing = missing_capabilities();
        let advice = match &error {
            ProbeError::Load(_) | ProbeError::Refused { .. } if !missing.is_empty() => format!(
                "; this process lacks {}: run it as root, or grant them",
                missing.join(" and ")
            ),
            _ => String::new(),
        };
        match error {
            ProbeError::Pin(error) => StartError::Target(error.to_string()),
            error => StartError::Unsupported(format!("{error}{advice}")),
        }
    })
}

/// What the programs pass on, each with its only reader.
pub struct Rings {
    /// Copies of stacks.
    pub stacks: StackRing,
    /// Header blocks of HTTP/2.
    pub streams: Streams,
    /// First messages.
    pub greetings: Greetings,
    /// Answers to DNS queries.
    pub resolved: Resolved,
}

/// Those of the programs that were loaded.
///
/// # Errors
/// When one is not there, or can't be used.
pub fn rings(probes: &mut Probes) -> Result<Rings, StartError> {
    let unsupported = |error: ProbeError| StartError::Unsupported(error.to_string());
    let copies = probes.stack_copies().map_err(unsupported)?;
    Ok(Rings {
        stacks: StackRing::start(copies)
            .map_err(|e| StartError::Failed(format!("stacks can't be received: {e}")))?,
        streams: Streams::new(probes).map_err(unsupported)?,
        greetings: Greetings::new(probes).map_err(unsupported)?,
        resolved: Resolved::new(probes).map_err(unsupported)?,
    })
}

/// Of the capabilities that loading needs, those that this process has not.
fn missing_capabilities() -> Vec<&'static str> {
    // include/uapi/linux/capability.h
    const SYS_ADMIN: u32 = 21;
    const PERFMON: u32 = 38;
    const BPF: u32 = 39;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let holds = |bit: u32| effective >> bit & 1 == 1;
    if holds(SYS_ADMIN) {
        return Vec::new();
    }
    [(BPF, "CAP_BPF"), (PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter(|&(bit, _)| !holds(bit))
        .map(|(_, name)| name)
        .collect()
}
