//! Lists in columns: one definition of a column serves the table, the wide table and CSV.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;

use super::{Failure, args::ListForm, output::clean, units};

/// A value in a cell: rounded with units in tables, exact in base units in CSV.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Text, which may come from a watched program.
    Text(String),
    /// A count.
    Count(u64),
    /// Any other number.
    Number(f64),
    /// A duration.
    Seconds(f64),
    /// A date.
    Date(Timestamp),
    /// Not known.
    None,
}

impl Cell {
    /// Text, or nothing.
    pub fn text(text: Option<impl Into<String>>) -> Cell {
        text.map_or(Cell::None, |text| Cell::Text(text.into()))
    }

    /// As people read it.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Cell::Text(text) => clean(text).into_owned(),
            Cell::Count(count) => count.to_string(),
            Cell::Number(number) => units::number(*number),
            Cell::Seconds(seconds) => units::duration(*seconds),
            Cell::Date(date) => super::text::seconds(*date),
            Cell::None => "-".to_owned(),
        }
    }

    fn exact(&self) -> String {
        match self {
            Cell::Text(text) => clean(text).into_owned(),
            Cell::Count(count) => count.to_string(),
            Cell::Number(number) | Cell::Seconds(number) => number.to_string(),
            Cell::Date(date) => date.to_string(),
            Cell::None => String::new(),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Cell::Count(_) | Cell::Number(_) | Cell::Seconds(_))
    }
}

/// A column of rows of type `T`.
pub struct Column<T> {
    /// Heading in tables; in lower case with `_` the name in CSV.
    pub heading: &'static str,
    /// Shown in `-o wide` and CSV only.
    pub wide: bool,
    /// Its value; the date is now.
    pub cell: fn(&T, Timestamp) -> Cell,
}

/// Writes rows in any form; `document` is the whole answer, for JSON. Tables are fitted to
/// `width` characters when there is a terminal of that width.
///
/// # Errors
/// [`Failure`] when a value can't be written as JSON.
pub fn write<T: Serialize>(
    form: ListForm,
    columns: &[Column<T>],
    rows: &[T],
    document: &impl Serialize,
    now: Timestamp,
    width: Option<usize>,
) -> Result<String, Failure> {
    let error = |e: serde_json::Error| Failure::from(anyhow::Error::from(e));
    let mut out = String::new();
    match form {
        ListForm::Table => out = table(columns.iter().filter(|c| !c.wide), rows, now, width),
        ListForm::Wide => out = table(columns.iter(), rows, now, None),
        ListForm::Csv => out = csv(columns, rows, now),
        ListForm::Json => {
            out = serde_json::to_string_pretty(document).map_err(error)?;
            out.push('\n');
        }
        ListForm::Jsonl => {
            for row in rows {
                let _ = writeln!(out, "{}", serde_json::to_string(row).map_err(error)?);
            }
        }
    }
    Ok(out)
}

fn table<'a, T: 'a>(
    columns: impl Iterator<Item = &'a Column<T>>,
    rows: &[T],
    now: Timestamp,
    width: Option<usize>,
) -> String {
    let columns: Vec<&Column<T>> = columns.collect();
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width.and_then(|width| u16::try_from(width).ok()) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(width);
    }
    table.set_header(columns.iter().map(|column| column.heading));
    for row in rows {
        table.add_row(columns.iter().map(|column| {
            let cell = (column.cell)(row, now);
            let alignment = if cell.is_number() {
                CellAlignment::Right
            } else {
                CellAlignment::Left
            };
            comfy_table::Cell::new(cell.shown()).set_alignment(alignment)
        }));
    }
    let lines = table.lines();
    lines.fold(String::new(), |mut out, line| {
        // The preset pads the left edge too.
        out.push_str(line.strip_prefix(' ').unwrap_or(&line).trim_end());
        out.push('\n');
        out
    })
}

/// RFC 4180, with line feeds alone.
fn csv<T>(columns: &[Column<T>], rows: &[T], now: Timestamp) -> String {
    let mut out = String::new();
    let names = columns
        .iter()
        .map(|c| c.heading.to_lowercase().replace([' ', '/'], "_"));
    csv_line(&mut out, names);
    for row in rows {
        csv_line(&mut out, columns.iter().map(|c| (c.cell)(row, now).exact()));
    }
    out
}

fn csv_line(out: &mut String, fields: impl Iterator<Item = String>) {
    for (index, field) in fields.enumerate() {
        if index > 0 {
            out.push(',');
        }
        if field.contains([',', '"', '\n', '\r']) {
            let _ = write!(out, "\"{}\"", field.replace('"', "\"\""));
        } else {
            out.push_str(&field);
        }
    }
    out.push('\n');
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;
    use crate::cli::samples;

    #[derive(Serialize)]
    struct Row {
        name: &'static str,
        age: f64,
    }

    const COLUMNS: &[Column<Row>] = &[
        Column {
            heading: "NAME",
            wide: false,
            cell: |row, _| Cell::Text(row.name.to_owned()),
        },
        Column {
            heading: "OPEN FOR",
            wide: false,
            cell: |row, _| Cell::Seconds(row.age),
        },
        Column {
            heading: "NODE",
            wide: true,
            cell: |_, _| Cell::None,
        },
    ];

    fn written(form: ListForm) -> String {
        let rows = [
            Row {
                name: "a",
                age: 75.25,
            },
            Row {
                name: "b, \"c\"",
                age: 4000.0,
            },
        ];
        write(form, COLUMNS, &rows, &rows.len(), samples::start(), None).unwrap()
    }

    #[test]
    fn every_form_has_the_same_rows() {
        assert_eq!(
            written(ListForm::Table),
            "NAME    OPEN FOR\na            75s\nb, \"c\"     1h 6m\n"
        );
        assert!(written(ListForm::Wide).starts_with("NAME    OPEN FOR  NODE\n"));
        assert_eq!(
            written(ListForm::Csv),
            "name,open_for,node\na,75.25,\n\"b, \"\"c\"\"\",4000,\n"
        );
        assert_eq!(
            written(ListForm::Jsonl),
            "{\"name\":\"a\",\"age\":75.25}\n{\"name\":\"b, \\\"c\\\"\",\"age\":4000.0}\n"
        );
        assert_eq!(written(ListForm::Json), "2\n");
    }
}
