//! `tracer explain`: what a kind of leak is, from the kinds' own documentation.

use std::fmt::Write as _;

use super::{
    Failure,
    args::Explain,
    fit, output,
    output::{Paint, wrap},
};
use crate::engine::kinds;

/// Runs the command.
///
/// # Errors
/// [`Failure`] when there is no such kind, or stdout can't be written to.
pub fn run(args: &Explain) -> Result<u8, Failure> {
    let paint = Paint::on(&std::io::stdout());
    let text = match &args.kind {
        None => list(paint, output::width()),
        Some(name) => {
            let spec = kinds::named(name)
                .ok_or_else(|| Failure::usage(format!("there is no kind {name}")))?;
            format!(
                "{}  {}\n\n{}\n",
                paint.bold(spec.kind.name()),
                spec.summary,
                spec.documentation.trim()
            )
        }
    };
    output::print(&text)?;
    Ok(0)
}

/// All kinds, one line each, in the order in which they name a finding.
fn list(paint: Paint, width: usize) -> String {
    let names = kinds::ALL.iter().map(|spec| spec.kind.name());
    let column = names.map(str::len).max().unwrap_or(0) + fit::GAP;
    let mut out = String::new();
    for spec in kinds::ALL {
        let lines = wrap(spec.summary, width.saturating_sub(column).max(40));
        for (index, line) in lines.iter().enumerate() {
            let name = if index == 0 { spec.kind.name() } else { "" };
            let name = paint.bold(&fit::pad(name, column, false));
            let _ = writeln!(out, "{name}{line}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_listed_and_explained() {
        let shown = list(Paint::OFF, 100);
        for spec in kinds::ALL {
            assert!(shown.contains(spec.kind.name()), "{shown}");
            assert!(!spec.documentation.trim().is_empty(), "{spec:?}");
        }
    }
}
