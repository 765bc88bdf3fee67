//! Setting up the kernel side, and errors that name what is missing.

use rustix::{
    process::{Resource, getrlimit},
    system::uname,
};
use tracer_ebpf::Config;

use super::{
    Options, StartError, greetings::Greetings, resolved::Resolved, stack_ring::StackRing,
    streams::Streams,
};
use crate::{
    kernel::probes::{ProbeError, Probes, Setup},
    procs::capabilities::{self, kernel_version},
};

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
    let mut missing = capabilities::lacking(&["CAP_BPF", "CAP_PERFMON"]);
    let release = uname().release().to_string_lossy().into_owned();
    let kernel = kernel_version(&release).unwrap_or((0, 0));
    let limited = getrlimit(Resource::Memlock).current.is_some();
    if capabilities::counts_locked_memory(kernel) && limited {
        missing.extend(capabilities::lacking(&["CAP_SYS_RESOURCE"]));
    }
    missing
}
