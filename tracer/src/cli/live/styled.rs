//! Text that was written for a terminal, as the live view draws it.

use ratatui::{
    style::{Color, Modifier, Style},
    text::{Line, Span, Text},
};
use textwrap::core::display_width;

use crate::cli::fit;

/// The lines of `text`, whose only escapes are those of [`crate::cli::output::Paint`]; what is wider
/// than `width` is elided in its last part.
#[must_use]
pub fn text(text: &str, width: usize) -> Text<'static> {
    text.lines()
        .map(|line| fitted(parts(line), width))
        .collect()
}

fn parts(line: &str) -> Vec<(String, Style)> {
    let mut style = Style::new();
    let mut parts = Vec::new();
    for (index, piece) in line.split("\x1b[").enumerate() {
        let shown = match (index, piece.split_once('m')) {
            (0, _) | (_, None) => piece,
            (_, Some((codes, rest))) => {
                for code in codes.split(';') {
                    style = with(style, code);
                }
                rest
            }
        };
        if !shown.is_empty() {
            parts.push((shown.to_owned(), style));
        }
    }
    parts
}

/// The style after one more parameter of SGR (ECMA-48, 8.3.117).
fn with(style: Style, code: &str) -> Style {
    match code {
        "0" | "" => Style::new(),
        "1" => style.add_modifier(Modifier::BOLD),
        "2" => style.add_modifier(Modifier::DIM),
        "31" | "91" => style.fg(Color::Red),
        "32" | "92" => style.fg(Color::Green),
        "33" | "93" => style.fg(Color::Yellow),
        _ => style,
    }
}

fn fitted(mut parts: Vec<(String, Style)>, width: usize) -> Line<'static> {
    let taken: usize = parts.iter().map(|(text, _)| display_width(text)).sum();
    if let Some((last, _)) = parts.last_mut()
        && taken > width
    {
        let room = display_width(last).saturating_sub(taken - width);
        *last = fit::elide(last, room);
    }
    let spans = parts.into_iter();
    Line::from_iter(spans.map(|(text, style)| Span::styled(text, style)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Paint;

    #[test]
    fn what_paint_writes_is_understood() {
        let painted = format!("a {}b", Paint::ON.bold("bold"));
        let lines = text(&painted, 80).lines;
        let spans: Vec<_> = lines[0].spans.iter().map(|s| &*s.content).collect();
        assert_eq!(spans, ["a ", "bold", "b"]);
        assert!(
            lines[0].spans[1]
                .style
                .add_modifier
                .contains(Modifier::BOLD)
        );
        assert_eq!(lines[0].spans[2].style, Style::new());
        let bad = text(&Paint::ON.bad("x"), 80).lines;
        assert_eq!(bad[0].spans[0].style.fg, Some(Color::Red));
        let plain = text(&Paint::OFF.bad("x"), 80).lines;
        assert_eq!(plain[0].spans[0].style, Style::new());
    }

    #[test]
    fn what_is_too_wide_is_elided_at_its_end() {
        let line = format!("{}http://prices.test/v1/prices", Paint::ON.dim("to  "));
        let lines = text(&line, 20).lines;
        assert_eq!(lines[0].width(), 20);
        assert!(lines[0].to_string().starts_with("to  http"), "{}", lines[0]);
    }
}
