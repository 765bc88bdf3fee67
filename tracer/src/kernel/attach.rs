//! Attaching one program in the way that its type asks for, and the kernel's answer in words.

use aya::{
    Btf,
    programs::{
        BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint, links::FdLink,
    },
};
use thiserror::Error;

/// Which links are handed out, to be pinned; the others stay with their program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOut {
    /// None.
    Nothing,
    /// Those of tracepoints and trampolines.
    Tracing,
    /// Those of perf events (kprobes), too: 5.15.
    All,
}

/// Why a program could not be attached to a hook, in the words that `tracer doctor` shows.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The kernel has no such tracepoint or function.
    #[error("not in this kernel")]
    NoHook,
    /// The kernel was built without kprobes.
    #[error("this kernel has no kprobes (CONFIG_KPROBE_EVENTS)")]
    NoKprobes,
    /// The object was built without the program.
    #[error("the object has no program {0}")]
    NoProgram(&'static str),
    /// The program is of no type that is attached so.
    #[error("the object's program has another type")]
    OtherType,
    /// The kernel's answer.
    #[error("{0}")]
    Refused(String),
}

/// Loads a program, if it is not, and attaches it to `hook`.
///
/// # Errors
/// The kernel's answer.
pub fn attach(
    program: &mut Program,
    hook: &str,
    btf: &Btf,
    hand_out: HandOut,
) -> Result<Option<FdLink>, AttachError> {
    let links = hand_out != HandOut::Nothing;
    let result = match program {
        Program::BtfTracePoint(p) => tracepoint(p, hook, btf, links),
        Program::RawTracePoint(p) => raw_tracepoint(p, hook, links),
        Program::FEntry(p) => fentry(p, hook, btf, links),
        Program::FExit(p) => fexit(p, hook, btf, links),
        Program::KProbe(p) => kprobe(p, hook, hand_out == HandOut::All),
        _ => return Err(AttachError::OtherType),
    };
    result.map_err(|error| AttachError::Refused(reason(&error)))
}

type Attached = Result<Option<FdLink>, ProgramError>;

fn tracepoint(p: &mut BtfTracePoint, hook: &str, btf: &Btf, links: bool) -> Attached {
    p.load(hook, btf)?;
    let id = p.attach()?;
    links.then(|| p.take_link(id).map(FdLink::from)).transpose()
}

fn raw_tracepoint(p: &mut RawTracePoint, hook: &str, links: bool) -> Attached {
    // one program may serve several tracepoints
    if p.fd().is_err() {
        p.load()?;
    }
    let id = p.attach(hook)?;
    links.then(|| p.take_link(id).map(FdLink::from)).transpose()
}

fn fentry(p: &mut FEntry, hook: &str, btf: &Btf, links: bool) -> Attached {
    p.load(hook, btf)?;
    let id = p.attach()?;
    links.then(|| p.take_link(id).map(FdLink::from)).transpose()
}

fn fexit(p: &mut FExit, hook: &str, btf: &Btf, links: bool) -> Attached {
    p.load(hook, btf)?;
    let id = p.attach()?;
    links.then(|| p.take_link(id).map(FdLink::from)).transpose()
}

fn kprobe(p: &mut KProbe, hook: &str, links: bool) -> Attached {
    // one program may serve several functions
    if p.fd().is_err() {
        p.load()?;
    }
    let id = p.attach(hook, 0)?;
    if !links {
        return Ok(None);
    }
    let link = p.take_link(id)?;
    let link = FdLink::try_from(link).map_err(|_| ProgramError::NotAttached)?;
    Ok(Some(link))
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
