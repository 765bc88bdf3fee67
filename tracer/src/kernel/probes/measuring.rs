//! What only tests and benchmarks ask of the programs.

use std::io;

use aya::programs::{Program, RawTracePoint, RawTracePointRunOptions, TestRun as _};
use tracer_ebpf::Counter;

use super::{ProbeError, Probes, reason};

impl Probes {
    /// Loads the programs that wait for an executable to be attached to; to see that they load.
    ///
    /// # Errors
    /// The kernel's answer to the first that does not.
    pub fn load_waiting(&mut self) -> Result<(), ProbeError> {
        for (_, program) in self.ebpf.programs_mut() {
            if let Program::UProbe(p) = program
                && p.fd().is_err()
            {
                p.load().map_err(|e| ProbeError::Load(reason(&e)))?;
            }
        }
        Ok(())
    }

    /// Lets the kernel copy this thread's stack, `times` times, `bytes` each; the copies are in
    /// [`Probes::stack_copies`] then. For measurements; gives the number of those that found room.
    ///
    /// # Errors
    /// When the program can't be loaded or run (before 5.10).
    pub fn copy_stack(&mut self, bytes: u64, times: u32) -> io::Result<u64> {
        let before = self.counter(Counter::StackCopied);
        let program: &mut RawTracePoint = self
            .ebpf
            .program_mut("measure_copy")
            .ok_or_else(|| io::Error::other("the object has no program measure_copy"))?
            .try_into()
            .map_err(io::Error::other)?;
        if program.fd().is_err() {
            program.load().map_err(io::Error::other)?;
        }
        for _ in 0..times {
            let mut options = RawTracePointRunOptions::default();
            options.args[0] = bytes;
            program.test_run(options).map_err(io::Error::other)?;
        }
        Ok(self.counter(Counter::StackCopied) - before)
    }
}
