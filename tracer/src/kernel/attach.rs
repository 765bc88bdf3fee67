//! Attaching one program, and the kernel's answer in words.

use aya::{
    Btf,
    programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint},
};

/// Loads and attaches a program in the way of its type.
///
/// # Errors
/// The kernel's answer.
pub fn attach(program: &mut Program, hook: &str, btf: &Btf) -> Result<(), String> {
    match program {
        Program::BtfTracePoint(p) => attach_tracepoint(p, hook, btf),
        Program::RawTracePoint(p) => attach_raw(p, hook),
        Program::FEntry(p) => attach_fentry(p, hook, btf),
        Program::FExit(p) => attach_fexit(p, hook, btf),
        Program::KProbe(p) => attach_kprobe(p, hook),
        _ => return Err("the object's program has another type".to_owned()),
    }
    .map_err(|error| reason(&error))
}

fn attach_tracepoint(p: &mut BtfTracePoint, hook: &str, btf: &Btf) -> Result<(), ProgramError> {
    p.load(hook, btf)?;
    p.attach().map(drop)
}

fn attach_raw(p: &mut RawTracePoint, hook: &str) -> Result<(), ProgramError> {
    p.load()?;
    p.attach(hook).map(drop)
}

fn attach_fentry(p: &mut FEntry, hook: &str, btf: &Btf) -> Result<(), ProgramError> {
    p.load(hook, btf)?;
    p.attach().map(drop)
}

fn attach_fexit(p: &mut FExit, hook: &str, btf: &Btf) -> Result<(), ProgramError> {
    p.load(hook, btf)?;
    p.attach().map(drop)
}

fn attach_kprobe(p: &mut KProbe, hook: &str) -> Result<(), ProgramError> {
    // one program may serve several functions
    if p.fd().is_err() {
        p.load()?;
    }
    p.attach(hook, 0).map(drop)
}

/// An error with its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The kernel's answer in a few words; verifier logs go to the debug log.
pub fn reason(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            tracing::debug!(%verifier_log, "a program was refused");
            let log = verifier_log.to_string();
            // the log ends with statistics
            let footer = ["processed ", "stack depth", "verification time"];
            let last = log.lines().rev().find(|line| {
                !line.trim().is_empty() && !footer.iter().any(|f| line.starts_with(f))
            });
            match last {
                Some(line) if io_error.raw_os_error() != Some(libc::EPERM) => {
                    format!("{io_error}: {line}")
                }
                _ => io_error.to_string(),
            }
        }
        other => chain(other),
    }
}
