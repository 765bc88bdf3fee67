//! `tracer explain`: what a kind of leak is, from the kinds' own documentation.

use std::fmt::Write as _;

use super::{
    Failure,
    args::Explain,
    fit, output,
    output::{Paint, wrap},
};
use crate::engine::kinds::{self, Spec};

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
            chapter(spec, paint, output::width())
        }
    };
    output::print(&text)?;
    Ok(0)
}

/// What is said of one kind, its Markdown as people read it on a terminal of this width.
fn chapter(spec: &Spec, paint: Paint, width: usize) -> String {
    let mut out = format!("{}\n", paint.bold(spec.kind.name()));
    for line in wrap(spec.summary, width) {
        let _ = writeln!(out, "{line}");
    }
    for block in spec.documentation.trim().split("\n\n") {
        out.push('\n');
        let (first, items) = match block.strip_prefix("- ") {
            Some(items) => ("- ", items),
            None => ("", block),
        };
        let rest = " ".repeat(first.len());
        for item in items.split("\n- ") {
            let lines = wrap(item, width.saturating_sub(first.len()));
            for (index, line) in lines.iter().enumerate() {
                let indent = if index == 0 { first } else { &rest };
                let _ = writeln!(out, "{indent}{}", emphasized(line, paint));
            }
        }
    }
    out
}

/// A line with what stands between `**` in bold.
fn emphasized(line: &str, paint: Paint) -> String {
    let parts = line.split("**").enumerate();
    let parts = parts.map(|(index, part)| match index % 2 {
        0 => part.to_owned(),
        _ => paint.bold(part),
    });
    parts.collect()
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
    fn a_chapter_fits_its_terminal_and_shows_no_markdown() {
        for spec in kinds::ALL {
            let shown = chapter(spec, Paint::OFF, 80);
            assert!(!shown.contains("**"), "{shown}");
            for line in shown.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
        }
        let bold = emphasized("a **b** c", Paint::ON);
        assert_eq!(bold, format!("a {} c", Paint::ON.bold("b")));
    }

    #[test]
    fn every_kind_is_listed_and_explained() {
        let shown = list(Paint::OFF, 100);
        for spec in kinds::ALL {
            assert!(shown.contains(spec.kind.name()), "{shown}");
            assert!(!spec.documentation.trim().is_empty(), "{spec:?}");
        }
    }
}
