//! The descriptor scan.

use std::io::{self, Read as _};

use aya::{
    Btf as AyaBtf,
    programs::{Iter, ProgramError},
};
use tracer_ebpf::{SCAN_NUMBER, SCAN_UNSTORED};

use super::{ProbeError, Probes};
use crate::kernel::attach::{chain, reason};

impl Probes {
    pub(super) fn load_scan(&mut self, aya_btf: &AyaBtf) -> Result<(), ProbeError> {
        let program: &mut Iter = self
            .ebpf
            .program_mut("scan_descriptors")
            .ok_or_else(|| ProbeError::Load("the object has no scan_descriptors".to_owned()))?
            .try_into()
            .map_err(|e: ProgramError| ProbeError::Load(chain(&e)))?;
        program
            .load("task_file", aya_btf)
            .map_err(|e| ProbeError::Refused {
                event: "scan",
                refused: reason(&e),
            })
    }

    /// Runs a descriptor scan with this number to its end; 0 looks for listening sockets only.
    /// Returns how many descriptors refer to sockets of the target that found no room.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run_scan(&mut self, number: u16) -> io::Result<u32> {
        self.scan.set(&SCAN_UNSTORED, &0)?;
        self.scan.set(&SCAN_NUMBER, &u32::from(number))?;
        let program: &mut Iter = self
            .ebpf
            .program_mut("scan_descriptors")
            .ok_or_else(|| io::Error::other("the object has no scan_descriptors"))?
            .try_into()
            .map_err(io::Error::other)?;
        let link = program.attach().map_err(of_kernel)?;
        let link = program.take_link(link).map_err(io::Error::other)?;
        let mut file = link.into_file().map_err(of_kernel)?;
        let mut nothing = [0u8; 64];
        loop {
            match file.read(&mut nothing) {
                Ok(0) => return Ok(self.scan.get(&SCAN_UNSTORED)?.unwrap_or(0)),
                Ok(_) => {}
                // a million files were visited without output: go on (kernel/bpf/bpf_iter.c)
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Number of the latest descriptor scan, an earlier daemon's too.
    #[must_use]
    pub fn last_scan(&self) -> u16 {
        let number = self.scan.get(&SCAN_NUMBER).ok().flatten();
        number.map_or(0, |number| number as u16)
    }
}

/// The kernel's own error behind one of the library's, where there is one.
fn of_kernel(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        let code = error.downcast_ref::<io::Error>();
        if let Some(code) = code.and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(code);
        }
        cause = error.source();
    }
    io::Error::other(error)
}
