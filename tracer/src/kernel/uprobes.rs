//! Programs at places in executables.

use std::{os::fd::RawFd, path::Path};

use aya::{
    Ebpf,
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeLink, UProbeScope},
    },
};

/// Where a program goes: its name, and an offset in the file, bytes.
pub type Place = (&'static str, u64);

/// Attaches a program to each place in an open file, or none; they run in every process that
/// executes it.
///
/// # Errors
/// What could not be attached, and why.
pub fn attach(ebpf: &mut Ebpf, file: RawFd, places: &[Place]) -> Result<Vec<UProbeLink>, String> {
    let path = Path::new("/proc/self/fd").join(file.to_string());
    let mut links = Vec::new();
    for &(name, offset) in places {
        let failed = |e: &dyn std::error::Error| {
            let cause = e.source().map(|s| format!(": {s}")).unwrap_or_default();
            format!("{name} could not be attached: {e}{cause}")
        };
        let program: &mut UProbe = ebpf
            .program_mut(name)
            .ok_or_else(|| format!("the object has no program {name}"))?
            .try_into()
            .map_err(|e: ProgramError| failed(&e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| failed(&e))?;
        }
        let link = program
            .attach(
                UProbeAttachLocation::AbsoluteOffset(offset),
                &path,
                UProbeScope::AllProcesses,
            )
            .and_then(|id| program.take_link(id))
            .map_err(|e| failed(&e))?;
        links.push(link);
    }
    Ok(links)
}
