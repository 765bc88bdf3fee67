//! `tracer replay`: judges a recording anew.

use std::{fs::File, path::Path};

use jiff::SignedDuration;

use super::{
    Failure,
    args::{Replay, ReportForm},
    baseline, check,
    output::{self, Paint, clean},
};
use crate::{
    config::Config,
    recording::{self, Replayed},
    report::{FindingDetail, SCHEMA},
};

/// Runs the command; returns the exit status.
///
/// # Errors
/// [`Failure`] when the file can't be read or is no recording.
pub fn run(args: &Replay) -> Result<u8, Failure> {
    let config = match &args.config {
        Some(path) => Config::load(path).map_err(|e| Failure::usage(e.to_string()))?,
        None => Config::default(),
    };
    let Replayed { header, mut report } = read(&args.file)?;
    config.ignore.apply(&mut report);
    if args.shown.output == ReportForm::Table {
        let (version, target) = (clean(&header.tracer), clean(&header.target));
        output::note(&format!("recorded by tracer {version}, watching {target}"));
    }
    let paint = Paint::on(&std::io::stdout());
    output::print(&check::rendered(&report, &args.shown, paint)?)?;
    Ok(check::exit_status(
        baseline::verdict(&report),
        args.shown.exit_code,
        None,
    ))
}

/// Judges a recording.
///
/// # Errors
/// [`Failure`] (status 2) that names the file, what is wrong with it, and what to do.
pub fn read(path: &Path) -> Result<Replayed, Failure> {
    let wrong = |what: String| Failure::usage(format!("{} {what}", clean(&path.to_string_lossy())));
    let file = File::open(path).map_err(|e| wrong(format!("can't be opened: {e}")))?;
    recording::replay(file, |_, _| ()).map_err(|fault| wrong(fault.to_string()))
}

/// What a recording knows of the finding whose id begins with `id`.
///
/// # Errors
/// [`Failure`] where it can't be read, or knows none or several.
pub fn detail(path: &Path, id: &str) -> Result<FindingDetail, Failure> {
    let report = read(path)?.report;
    let seconds = SignedDuration::try_from_secs_f64(report.duration_seconds).unwrap_or_default();
    let observed_at = (report.started_at.checked_add(seconds)).unwrap_or(report.started_at);
    let mut known = report.findings.into_iter().filter(|f| f.id.starts_with(id));
    match (known.next(), known.next()) {
        (Some(finding), None) => Ok(FindingDetail {
            schema: SCHEMA,
            observed_at,
            resources: (report.resources.into_iter())
                .filter(|limits| limits.concern(&finding))
                .collect(),
            finding,
            timeline: Vec::new(),
            nodes: None,
        }),
        (Some(_), Some(_)) => Err(Failure::usage(format!(
            "several findings begin with {id}; give more digits"
        ))),
        (None, _) => Err(Failure::failed(format!(
            "{} has no finding {id}; `tracer replay` lists them",
            clean(&path.to_string_lossy())
        ))),
    }
}
