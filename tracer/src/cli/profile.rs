//! `tracer profile`: outstanding connections by stack, for what reads profiles.

use std::io::{self, IsTerminal as _, Write as _};

use super::{
    Failure,
    args::{Profile, ProfileForm},
    merge, output, replay,
};
use crate::{findings::profile, report::Report};

/// Runs the command.
///
/// # Errors
/// [`Failure`] when no daemon answers, or a profile for a program would be written to a terminal.
pub fn run(args: &Profile) -> Result<u8, Failure> {
    let binary = args.output == ProfileForm::Pprof;
    if binary && io::stdout().is_terminal() {
        return Err(Failure::usage(
            "a pprof profile is no text: write it to a file (tracer profile > connections.pb.gz), or \
             have text with -o folded"
                .to_owned(),
        ));
    }
    let report = match &args.from {
        Some(path) => replay::read(path)?.report,
        None => ask(args)?,
    };
    if binary {
        let bytes = profile::pprof(&report).map_err(anyhow::Error::from)?;
        let written = io::stdout().write_all(&bytes);
        written.map_err(anyhow::Error::from)?;
    } else {
        output::print(&profile::folded(&report))?;
    }
    Ok(0)
}

fn ask(args: &Profile) -> Result<Report, Failure> {
    let (report, asked) = merge::ask(&args.endpoints.fleet()?)?;
    asked.need_one()?;
    if let Some(share) = asked.share() {
        output::note(&share);
    }
    report.ok_or_else(|| Failure::failed("no daemon has a report yet".to_owned()))
}
