//! What was watched and is no leak, as a small table: most reports of leaks end in "expected", and
//! this is that answer with its reasons.

use std::fmt::Write as _;

use crate::{
    cli::output::{Paint, clean},
    report::Report,
};

/// Rows shown.
const ROWS_MAX: usize = 12;
/// Populations that never had more than this many connections are not worth a row beside a leak.
const SMALL: u64 = 3;

/// Writes the table, where there is something to tell.
pub fn table(out: &mut String, report: &Report, paint: Paint) {
    let leak = !report.findings.is_empty();
    let told: Vec<_> = report
        .populations
        .iter()
        .filter(|p| !leak || p.open > SMALL || p.closed > SMALL)
        .collect();
    if told.is_empty() {
        if !leak
            && report
                .coverage
                .as_ref()
                .is_some_and(|c| c.sockets_seen == 0)
        {
            let _ = writeln!(out, "\nNo connection was open, and none was opened.");
        }
        return;
    }
    let _ = writeln!(out, "\n{}", paint.bold("Healthy"));
    for p in told.iter().take(ROWS_MAX) {
        let site = p
            .call_site
            .as_ref()
            .map(|site| format!(" ({})", clean(&site.function)));
        let _ = writeln!(
            out,
            "  {} {}{}: {}",
            clean(&p.comm),
            clean(&p.remote),
            site.unwrap_or_default(),
            clean(&p.healthy_because)
        );
    }
    if told.len() > ROWS_MAX {
        let _ = writeln!(out, "  … {} more", told.len() - ROWS_MAX);
    }
}
