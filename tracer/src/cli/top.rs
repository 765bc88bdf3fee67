//! `tracer top`: the worst leaks that daemons know.

use std::io::{self, IsTerminal as _};

use super::{
    Failure,
    args::{ListForm, Top},
    columns,
    findings::{COLUMNS, end, no_pods, select},
    fleet, live, merge, output,
};

/// Runs the command.
///
/// # Errors
/// [`Failure`] when no daemon answers, or `-w` has no terminal.
pub fn run(args: &Top) -> Result<u8, Failure> {
    let daemons = args.endpoints.fleet()?;
    let terminal = io::stdout().is_terminal();
    if args.watch {
        if !terminal || !io::stdin().is_terminal() {
            return Err(Failure::usage(
                "--watch needs a terminal; for scripts run `tracer top -o jsonl` repeatedly",
            ));
        }
        return live::run(args, daemons).map(|()| 0);
    }
    let (report, asked) = merge::ask(&daemons)?;
    asked.need_one()?;
    let mut report = report.ok_or_else(|| Failure::failed("no daemon answered"))?;
    let no_pods = no_pods(&report, &args.namespaces);
    select(&mut report, args, args.sort_by);
    let now = end(&report);
    let width = terminal.then(output::columns);
    let mut text = columns::write(args.output, COLUMNS, &report.findings, &report, now, width)?;
    let for_people = matches!(args.output, ListForm::Table | ListForm::Wide);
    if let Some(nodes) = report.nodes.as_ref().filter(|_| for_people) {
        text += &format!("{}\n", fleet::coverage(nodes));
    }
    output::print(&text)?;
    if let Some(reason) = no_pods {
        output::note(&reason);
    } else if report.findings.is_empty() && for_people {
        output::note("no findings");
    }
    Ok(0)
}
