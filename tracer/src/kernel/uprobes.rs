//! Programs at places in executables.

use std::{io, os::fd::RawFd, path::Path};

use aya::{
    Ebpf,
    programs::{
        Program, ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeLink, UProbeScope},
    },
};
use thiserror::Error;

use super::attach::chain;
use crate::procs::capabilities;

/// Where a program goes: its name, and an offset in the file, bytes.
pub type Place = (&'static str, u64);

/// Why programs could not be attached to a file.
#[derive(Debug, Error)]
pub enum UprobeError {
    /// The object was built without the program.
    #[error("the object has no program {0}")]
    NoProgram(&'static str),
    /// The kernel's answer.
    #[error("{program} could not be attached: {}{advice}", chain(&**.error))]
    Refused {
        /// The program.
        program: &'static str,
        /// Why.
        error: Box<ProgramError>,
        /// What to do about it, as a clause; may be empty.
        advice: &'static str,
    },
}

/// The kernels are those with "perf: Revert to requiring CAP_SYS_ADMIN for uprobes", of 6.16 and of
/// the stable series then.
const FOR_ADMIN: &str = "; this process lacks CAP_SYS_ADMIN, which kernels since 2025 ask for \
                         probes of programs' own functions";

/// Whether the kernel refused for want of privileges.
fn is_denied(error: &ProgramError) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Attaches a program to each place in an open file, or none; they run in every process that
/// executes it.
///
/// # Errors
/// What could not be attached, and why.
pub fn attach(
    ebpf: &mut Ebpf,
    file: RawFd,
    places: &[Place],
) -> Result<Vec<UProbeLink>, UprobeError> {
    let path = Path::new("/proc/self/fd").join(file.to_string());
    let attach = |program: &mut Program, offset| -> Result<UProbeLink, ProgramError> {
        let program: &mut UProbe = program.try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        let place = UProbeAttachLocation::AbsoluteOffset(offset);
        let id = program.attach(place, &path, UProbeScope::AllProcesses)?;
        program.take_link(id)
    };
    let lacks_admin = !capabilities::lacking(&["CAP_SYS_ADMIN"]).is_empty();
    let mut links = Vec::new();
    for &(name, offset) in places {
        let program = ebpf.program_mut(name).ok_or(UprobeError::NoProgram(name))?;
        let link = attach(program, offset).map_err(|error| UprobeError::Refused {
            program: name,
            advice: match is_denied(&error) && lacks_admin {
                true => FOR_ADMIN,
                false => "",
            },
            error: Box::new(error),
        })?;
        links.push(link);
    }
    Ok(links)
}
