//! `tracer check`: attach, watch, print the verdict.

use std::{num::NonZeroU32, path::Path, time::Duration};

use super::{
    Failure, STATUS_FAILURE, STATUS_INCONCLUSIVE, STATUS_LEAK,
    args::{Check, ReportArgs, ReportForm},
    baseline,
    command::{Gated, Running},
    output,
    output::{OutputFile, Paint},
    preflight,
    signals::Signals,
    target, text, users, watch,
    watch::{Attaching, Ended, Look},
};
use crate::{
    config::Config,
    model::Confidence,
    recording::{Header, Tape},
    report::{Finding, Report, Verdict, harmless},
    session::{MAX_SOCKETS, Options, Session, SessionError, Target},
};

/// How long to watch when nothing is said.
const DURATION_DEFAULT: Duration = Duration::from_secs(60);

/// Runs the command, and records to `record`; returns the exit status.
///
/// # Errors
/// [`Failure`] with the status of the contract.
pub fn run(args: &Check, record: Option<&Path>) -> Result<u8, Failure> {
    // Everything that can be wrong with the arguments is found before anything is attached.
    let then = args.baseline.as_deref().map(baseline::load).transpose()?;
    let config = match &args.config {
        Some(path) => Config::load(path).map_err(|e| Failure::usage(e.to_string()))?,
        None => Config::default(),
    };
    let user = args.user.as_deref().map(users::find).transpose()?;
    let report_file = open(args.report.as_deref(), "the report")?;
    let save_file = open(args.save.as_deref(), "the result")?;
    let record_file = open(record, "the recording")?;
    let signals = Signals::hold(!args.command.is_empty())
        .map_err(|e| Failure::failed(format!("cannot hold signals back: {e}")))?;

    let mut target = target::resolve(&args.target)?;
    preflight::check(&args.attach)?;

    let mut gated = None;
    if !args.command.is_empty() {
        let command = Gated::start(&args.command, user, signals.mask_before())?;
        target = Target::Processes(vec![command.pid()]);
        gated = Some(command);
    }
    let tape = match record_file {
        Some(file) => Some(begin(file, args)?),
        None => None,
    };
    let attaching = Attaching::begin(!args.command.is_empty());
    let session = Session::start(Options {
        target: target.clone(),
        backend: args.attach.backend.clone(),
        without: args.attach.without.clone(),
        max_sockets: (args
            .room
            .max_sockets
            .or(config.max_sockets.map(NonZeroU32::get)))
        .unwrap_or(MAX_SOCKETS),
        rules: config.rules(),
        debug_directories: config.debug_directories,
        host_root: config.host_root,
        cluster: None,
        remotes: None,
        // a recording is judged anew by whoever has it
        opted_out: match tape {
            Some(_) => Vec::new(),
            None => config.ignore.namespaces.clone(),
        },
        ask_jvms: args.ask_jvms || config.ask_jvms,
        patient: true,
        examples: !args.room.no_examples && config.examples.unwrap_or(true),
        trace_syscalls: args.attach.trace_syscalls(),
        btf: args.attach.btf.clone(),
        pin: None,
        record: tape.clone(),
    })?;
    drop(attaching);
    if let Some(tax) = session.syscall_overhead() {
        output::note(&tax);
    }
    let command = gated.map(Gated::release).transpose()?;

    let duration = match &command {
        Some(_) => args.duration,
        None => Some(args.duration.unwrap_or(DURATION_DEFAULT)),
    };
    let mut look = |session: &mut Session| {
        session.report().is_ok_and(|mut report| {
            config.ignore.apply(&mut report);
            is_certain(&report)
        })
    };
    let look: Option<Look<'_>> = args.until_found.then_some(&mut look);
    let (ended, outcome) = observe(session, &target, command.as_ref(), &signals, duration, look);
    if let (Some(tape), Some(path)) = (tape, record) {
        let failed = |e| format!("{} is of no use: {e}", path.display());
        // the report is printed even so
        tape.finish().unwrap_or_else(|e| output::note(&failed(e)));
    }
    let own_status = finish(command, &ended, &signals)?;

    let report = match outcome {
        Ok(mut report) => {
            config.ignore.apply(&mut report);
            report.baseline = then.as_ref().map(|then| {
                let file = args.baseline.as_deref().unwrap_or("".as_ref());
                baseline::compare(&report, then, &file.display().to_string())
            });
            report
        }
        Err(message) => {
            output::note(&format!("no report: {message}"));
            return Ok(own_status.unwrap_or(STATUS_FAILURE));
        }
    };
    if let Some(file) = save_file {
        file.write(&json(&baseline::kept(&report))?)?;
    }
    write(&report, args, report_file, own_status.is_some())?;
    if let Ended::Broken(message) = &ended {
        output::note(&format!("the watch ended early: {message}"));
        return Ok(own_status.unwrap_or(STATUS_FAILURE));
    }
    Ok(exit_status(
        baseline::verdict(&report),
        args.shown.exit_code,
        own_status,
    ))
}

/// Begins a recording. What was watched is said without arguments, which may be secret.
fn begin(file: OutputFile, args: &Check) -> Result<Tape, Failure> {
    let path = file.path().display().to_string();
    let target = match (args.command.first(), args.target.pid.as_slice()) {
        (Some(program), _) => match Path::new(program).file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => "a command".to_owned(),
        },
        (None, []) if args.target.cgroup.is_some() || args.target.container.is_some() => {
            "a container".to_owned()
        }
        (None, []) => "the host".to_owned(),
        (None, pids) => {
            let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
            format!("process {}", pids.join(", "))
        }
    };
    let header = Header {
        tracer: env!("CARGO_PKG_VERSION").to_owned(),
        target,
    };
    let file = file.emptied()?;
    Tape::begin(Box::new(file), &header)
        .map_err(|e| Failure::failed(format!("cannot write {path}: {e}")))
}

/// Watches and judges; the session ends with it, so that a command that goes on runs untraced.
fn observe(
    mut session: Session,
    target: &Target,
    command: Option<&Running>,
    signals: &Signals,
    duration: Option<Duration>,
    look: Option<Look<'_>>,
) -> (Ended, Result<Report, SessionError>) {
    let ended = watch::watch(&mut session, target, command, signals, duration, look);
    let report = session.report();
    (ended, report)
}

/// Whether more watching can't change the verdict.
fn is_certain(report: &Report) -> bool {
    let high = |finding: &Finding| finding.confidence == Confidence::High;
    report.verdict == Verdict::Leak && report.findings.iter().any(high)
}

fn open(path: Option<&Path>, purpose: &str) -> Result<Option<OutputFile>, Failure> {
    path.map(|path| OutputFile::open(path, purpose)).transpose()
}

/// Waits for the end of a command and takes its exit status.
fn finish(
    command: Option<Running>,
    ended: &Ended,
    signals: &Signals,
) -> Result<Option<u8>, Failure> {
    let Some(command) = command else {
        return Ok(None);
    };
    // The report was taken first: what the command closes on this signal was open when asked.
    if let Ended::Signal(signal) = ended {
        command.forward(*signal);
    }
    watch::wait_for_command(&command, signals);
    command.status().map(Some)
}

/// The report as JSON, with a line's end.
///
/// # Errors
/// [`Failure`] where it can't be written so.
pub fn json(report: &Report) -> Result<String, Failure> {
    let mut text = harmless(serde_json::to_string_pretty(report).map_err(anyhow::Error::from)?);
    text.push('\n');
    Ok(text)
}

/// The report in the form that was asked for.
///
/// # Errors
/// [`Failure`] where it can't be written so.
pub fn rendered(report: &Report, args: &ReportArgs, paint: Paint) -> Result<String, Failure> {
    match args.output {
        ReportForm::Json => json(report),
        ReportForm::Table => Ok(text::report(report, args.style(paint))),
    }
}

fn write(
    report: &Report,
    args: &Check,
    file: Option<OutputFile>,
    with_command: bool,
) -> Result<(), Failure> {
    let paint = match (&file, with_command) {
        (Some(_), _) => Paint::OFF,
        (None, true) => Paint::on(&std::io::stderr()),
        (None, false) => Paint::on(&std::io::stdout()),
    };
    let text = rendered(report, &args.shown, paint)?;
    match file {
        Some(file) => file.write(&text),
        None if with_command => {
            output::print_error(&text);
            Ok(())
        }
        None => output::print(&text),
    }
}

/// The command's own status stands, unless a leak was found and the user wants to know.
pub fn exit_status(verdict: Verdict, exit_code: bool, own_status: Option<u8>) -> u8 {
    match (verdict, own_status) {
        (Verdict::Leak, _) if exit_code => STATUS_LEAK,
        (_, Some(own)) => own,
        (Verdict::Inconclusive, None) if exit_code => STATUS_INCONCLUSIVE,
        (_, None) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_follow_the_contract() {
        use Verdict::{Clean, Inconclusive, Leak};
        for (verdict, exit_code, own, expected) in [
            (Leak, false, None, 0),
            (Leak, true, None, 4),
            (Inconclusive, true, None, 5),
            (Inconclusive, false, None, 0),
            (Clean, true, None, 0),
            (Leak, false, Some(7), 7),
            (Leak, true, Some(7), 4),
            (Inconclusive, true, Some(7), 7),
            (Clean, true, Some(143), 143),
        ] {
            assert_eq!(
                exit_status(verdict, exit_code, own),
                expected,
                "{verdict:?} {own:?}"
            );
        }
    }
}
