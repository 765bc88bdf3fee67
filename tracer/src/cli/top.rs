//! `tracer top`: the worst leaks that daemons know.

use std::io::{self, IsTerminal as _};

use super::{
    Failure,
    args::{ListForm, Top},
    client,
    client::Endpoint,
    columns,
    findings::{COLUMNS, end, no_pods, select},
    live, merge, output,
};
use crate::report::Report;

/// Runs the command.
///
/// # Errors
/// [`Failure`] when no daemon answers, or `-w` has no terminal.
pub fn run(args: &Top) -> Result<u8, Failure> {
    let endpoints = args.endpoints.all()?;
    let terminal = io::stdout().is_terminal();
    if args.watch {
        if !terminal || !io::stdin().is_terminal() {
            return Err(Failure::usage(
                "--watch needs a terminal; for scripts run `tracer top -o jsonl` repeatedly",
            ));
        }
        return live::run(args, &endpoints).map(|()| 0);
    }
    let mut report = fetch(&endpoints)?;
    let no_pods = no_pods(&report, &args.namespaces);
    select(&mut report, args, args.sort_by);
    let now = end(&report);
    let width = terminal.then(output::columns);
    let text = columns::write(args.output, COLUMNS, &report.findings, &report, now, width)?;
    output::print(&text)?;
    if let Some(reason) = no_pods {
        output::note(&reason);
    } else if report.findings.is_empty() && matches!(args.output, ListForm::Table | ListForm::Wide)
    {
        output::note("no findings");
    }
    Ok(0)
}

/// The merged report of all daemons.
///
/// # Errors
/// [`Failure`] when none answers.
fn fetch(endpoints: &[Endpoint]) -> Result<Report, Failure> {
    let answers = client::ask::<Report>(endpoints, "/v1/report")?;
    client::need_one(&answers)?;
    let report = merge::merge(answers);
    report.ok_or_else(|| Failure::failed("no daemon answered"))
}
