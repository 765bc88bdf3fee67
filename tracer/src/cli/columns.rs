//! Lists in columns: one definition of a column serves the table, the wide table, the live view
//! and CSV.

use jiff::Timestamp;
use serde::Serialize;
use textwrap::core::display_width;

use super::{
    Failure,
    args::ListForm,
    fit::{self, Fit, Room},
    output::clean,
    shorter, units, words,
};
use crate::report::{CallSite, harmless};

/// A value in a cell: rounded with units in tables, exact in base units in CSV.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Text, which may come from a watched program.
    Text(String),
    /// Text that has shorter forms.
    Short {
        /// What tables show: the first that fits.
        forms: Vec<String>,
        /// The whole of it.
        exact: String,
    },
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

    /// A call site, its path as far as it tells files apart.
    #[must_use]
    pub fn site(site: Option<&CallSite>) -> Cell {
        let exact = words::call_site(site);
        Cell::Short {
            forms: site.map_or_else(|| vec![exact.clone()], shorter::sites),
            exact,
        }
    }

    /// What something talks to: a URL, or any other name.
    #[must_use]
    pub fn remote(remote: &str) -> Cell {
        Cell::Short {
            forms: shorter::urls(remote),
            exact: remote.to_owned(),
        }
    }

    /// As people read it in `width` columns: its first form that fits, else the last one elided.
    fn fitted(&self, width: usize) -> String {
        fit::elide(&self.form(width), width)
    }

    fn form(&self, width: usize) -> String {
        let Cell::Short { forms, exact } = self else {
            return self.shown();
        };
        let fits = |form: &&String| display_width(&clean(form)) <= width;
        let form = forms.iter().find(fits).or(forms.last());
        clean(form.unwrap_or(exact)).into_owned()
    }

    /// As people read it.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Cell::Text(text) => clean(text).into_owned(),
            Cell::Short { forms, exact } => clean(forms.first().unwrap_or(exact)).into_owned(),
            Cell::Count(count) => count.to_string(),
            Cell::Number(number) => units::number(*number),
            Cell::Seconds(seconds) => units::duration(*seconds),
            Cell::Date(date) => words::seconds(*date),
            Cell::None => "-".to_owned(),
        }
    }

    fn exact(&self) -> String {
        match self {
            Cell::Text(text) | Cell::Short { exact: text, .. } => clean(text).into_owned(),
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

/// Where a column appears. CSV has them all, so that its columns never change places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// In every table.
    Always,
    /// In `-o wide`.
    Wide,
    /// In `-o wide`, where a row has a value for it.
    WideWhereKnown,
    /// In every table, where a row has a value for it.
    WhereKnown,
}

/// A column of rows of type `T`.
pub struct Column<T> {
    heading: &'static str,
    short: &'static str,
    shown: Shown,
    room: Room,
    in_live_view: bool,
    cell: fn(&T, Timestamp) -> Cell,
}

impl<T> Column<T> {
    /// A column of the narrow table. Its heading in lower case with `_` is its name in CSV.
    pub const fn new(heading: &'static str, cell: fn(&T, Timestamp) -> Cell) -> Column<T> {
        Column {
            heading,
            short: heading,
            shown: Shown::Always,
            room: Room::WHOLE,
            in_live_view: true,
            cell,
        }
    }

    /// A heading for where there is a terminal's width only.
    #[must_use]
    pub const fn short(mut self, heading: &'static str) -> Column<T> {
        self.short = heading;
        self
    }

    /// Only in `-o wide`.
    #[must_use]
    pub const fn wide(mut self) -> Column<T> {
        self.shown = Shown::Wide;
        self
    }

    /// Only in `-o wide`, and only where a row has a value.
    #[must_use]
    pub const fn where_known(mut self) -> Column<T> {
        self.shown = Shown::WideWhereKnown;
        self
    }

    /// Only where a row has a value.
    #[must_use]
    pub const fn if_known(mut self) -> Column<T> {
        self.shown = Shown::WhereKnown;
        self
    }

    /// Where room is short its text is elided in the middle, down to `least` columns.
    #[must_use]
    pub const fn elastic(mut self, least: usize) -> Column<T> {
        self.room = Room::Elastic { least };
        self
    }

    /// Where room is short it goes; the one with the smallest number goes first.
    #[must_use]
    pub const fn leaves(mut self, turn: u8) -> Column<T> {
        self.room = Room::Leaves { turn };
        self
    }

    /// Not in the live view, which has other ways to say it.
    #[must_use]
    pub const fn not_live(mut self) -> Column<T> {
        self.in_live_view = false;
        self
    }
}

/// What a table shows: headings and cells as text, and how they fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Laid {
    /// Headings, one for each shown column.
    pub headings: Vec<&'static str>,
    /// Cells of each row, elided to their width.
    pub rows: Vec<Vec<String>>,
    /// Numbers are set to the right.
    pub right: Vec<bool>,
    /// Width of each shown column.
    pub widths: Vec<usize>,
    /// Lines below each row: what found no room beside the rest.
    pub below: Vec<Vec<String>>,
}

impl Laid {
    /// The line of headings.
    #[must_use]
    pub fn heading(&self) -> String {
        self.line(self.headings.iter().copied())
    }

    /// The lines of a row: its cells, and below them what found no room.
    #[must_use]
    pub fn lines(&self, row: usize) -> Vec<String> {
        let cells = self.rows.get(row).into_iter().flatten();
        let below = self.below.get(row).into_iter().flatten();
        let first = self.line(cells.map(String::as_str));
        let indented = below.map(|text| format!("{:indent$}{text}", "", indent = fit::INDENT));
        std::iter::once(first).chain(indented).collect()
    }

    fn line<'a>(&self, cells: impl Iterator<Item = &'a str>) -> String {
        let mut line = String::new();
        for ((cell, &width), &right) in cells.zip(&self.widths).zip(&self.right) {
            if !line.is_empty() {
                line.push_str(&" ".repeat(fit::GAP));
            }
            line.push_str(&fit::pad(cell, width, right));
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Lays out rows in the columns of the narrow table, for a live view of this width.
pub fn lay<T>(columns: &[Column<T>], rows: &[T], now: Timestamp, width: usize) -> Laid {
    let columns: Vec<&Column<T>> = columns
        .iter()
        .filter(|column| column.shown == Shown::Always && column.in_live_view)
        .collect();
    lay_out(&columns, rows, now, Some(width))
}

fn lay_out<T>(columns: &[&Column<T>], rows: &[T], now: Timestamp, width: Option<usize>) -> Laid {
    let cells: Vec<Vec<Cell>> = rows
        .iter()
        .map(|row| {
            columns
                .iter()
                .map(|column| (column.cell)(row, now))
                .collect()
        })
        .collect();
    let shown: Vec<Vec<String>> = cells
        .iter()
        .map(|row| row.iter().map(Cell::shown).collect())
        .collect();
    let headings: Vec<&'static str> = columns
        .iter()
        .map(|column| {
            if width.is_some() {
                column.short
            } else {
                column.heading
            }
        })
        .collect();
    let rooms: Vec<Room> = columns.iter().map(|column| column.room).collect();
    let Fit { mut beside, below } = fit::fit(&headings, &rooms, &shown, width);
    lend(&mut beside, &headings, &cells);
    Laid {
        headings: beside.iter().map(|&(column, _)| headings[column]).collect(),
        rows: cells
            .iter()
            .map(|row| {
                let cells = beside.iter();
                cells
                    .map(|&(column, width)| row[column].fitted(width))
                    .collect()
            })
            .collect(),
        right: beside
            .iter()
            .map(|&(column, _)| cells.iter().any(|row| row[column].is_number()))
            .collect(),
        widths: beside.iter().map(|&(_, width)| width).collect(),
        below: cells
            .iter()
            .map(|row| {
                let room = width.unwrap_or(usize::MAX).saturating_sub(fit::INDENT);
                let below = below.iter();
                below.map(|&column| row[column].fitted(room)).collect()
            })
            .collect(),
    }
}

/// Gives what shorter forms leave free in their columns to the first column that elides a cell.
fn lend(beside: &mut [(usize, usize)], headings: &[&str], cells: &[Vec<Cell>]) {
    let forms = |column: usize, width: usize| {
        let cells = cells.iter().map(move |row| row[column].form(width));
        cells.map(|form| display_width(&form)).max().unwrap_or(0)
    };
    let mut free = 0;
    for (column, width) in beside.iter_mut() {
        let used = forms(*column, *width).max(display_width(headings[*column]));
        free += width.saturating_sub(used);
        *width = used.min(*width);
    }
    let mut places = beside.iter_mut();
    let short = places.find(|(column, width)| forms(*column, *width) > *width);
    if let Some((_, width)) = short {
        *width += free;
    }
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
    match form {
        ListForm::Table => {
            let narrow = |column: &&Column<T>| match column.shown {
                Shown::Always => true,
                Shown::WhereKnown => known(column, rows, now),
                Shown::Wide | Shown::WideWhereKnown => false,
            };
            let narrow: Vec<_> = columns.iter().filter(narrow).collect();
            Ok(table(&lay_out(&narrow, rows, now, width)))
        }
        ListForm::Wide => {
            let wide = |column: &&Column<T>| match column.shown {
                Shown::Always | Shown::Wide => true,
                Shown::WhereKnown | Shown::WideWhereKnown => known(column, rows, now),
            };
            let wide: Vec<_> = columns.iter().filter(wide).collect();
            Ok(table(&lay_out(&wide, rows, now, None)))
        }
        ListForm::Csv => csv(columns, rows, now),
        ListForm::Json => Ok(json_line(serde_json::to_string_pretty(document))?),
        ListForm::Jsonl => {
            let lines = rows.iter().map(|row| json_line(serde_json::to_string(row)));
            Ok(lines.collect::<Result<String, _>>()?)
        }
    }
}

/// Whether any row has a value for a column.
fn known<T>(column: &Column<T>, rows: &[T], now: Timestamp) -> bool {
    rows.iter().any(|row| (column.cell)(row, now) != Cell::None)
}

fn json_line(text: serde_json::Result<String>) -> Result<String, anyhow::Error> {
    Ok(harmless(text?) + "\n")
}

fn table(laid: &Laid) -> String {
    let mut out = laid.heading() + "\n";
    for number in 0..laid.rows.len() {
        for line in laid.lines(number) {
            out.push_str(&line);
            out.push('\n');
        }
    }
    out
}

/// A cell that a spreadsheet takes for text, as it is or behind an apostrophe: what a program calls itself
/// must not be computed.
fn no_formula(cell: String) -> String {
    let computed = cell.starts_with(['=', '+', '-', '@']) && cell.parse::<f64>().is_err();
    match computed {
        true => format!("'{cell}"),
        false => cell,
    }
}

fn csv<T>(columns: &[Column<T>], rows: &[T], now: Timestamp) -> Result<String, Failure> {
    let failed = |error: csv::Error| Failure::from(anyhow::Error::from(error));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let names = columns
        .iter()
        .map(|column| column.heading.to_lowercase().replace([' ', '/'], "_"));
    writer.write_record(names).map_err(failed)?;
    for row in rows {
        let cells = columns
            .iter()
            .map(|column| no_formula((column.cell)(row, now).exact()));
        writer.write_record(cells).map_err(failed)?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|e| failed(e.into_error().into()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;
    use crate::samples;

    #[derive(Serialize)]
    struct Row {
        name: &'static str,
        age: f64,
        node: Option<&'static str>,
    }

    const COLUMNS: &[Column<Row>] = &[
        Column::<Row>::new("NAME", |row, _| Cell::Text(row.name.to_owned())).elastic(7),
        Column::<Row>::new("OPEN FOR", |row, _| Cell::Seconds(row.age)).short("OPEN"),
        Column::<Row>::new("NODE", |row, _| Cell::text(row.node)).where_known(),
    ];

    fn written(form: ListForm, rows: &[Row], width: Option<usize>) -> String {
        write(form, COLUMNS, rows, &rows.len(), samples::start(), width).unwrap()
    }

    fn rows(node: Option<&'static str>) -> [Row; 2] {
        [("a", 75.25), ("b, \"c\"", 4000.0)].map(|(name, age)| Row { name, age, node })
    }

    #[test]
    fn every_form_has_the_same_rows() {
        let rows = rows(None);
        let written = |form| written(form, &rows, None);
        let table = "NAME    OPEN FOR\na            75s\nb, \"c\"     1h 6m\n";
        assert_eq!(written(ListForm::Table), table);
        assert_eq!(
            written(ListForm::Csv),
            "name,open_for,node\na,75.25,\n\"b, \"\"c\"\"\",4000,\n"
        );
        assert_eq!(
            written(ListForm::Jsonl),
            "{\"name\":\"a\",\"age\":75.25,\"node\":null}\n\
             {\"name\":\"b, \\\"c\\\"\",\"age\":4000.0,\"node\":null}\n"
        );
        assert_eq!(written(ListForm::Json), "2\n");
    }

    #[test]
    fn a_column_that_nobody_fills_is_left_out_of_tables_alone() {
        let heading = |node, form| {
            let text = written(form, &rows(node), None);
            text.lines().next().unwrap().to_owned()
        };
        assert!(!heading(None, ListForm::Wide).contains("NODE"));
        assert!(heading(Some("n1"), ListForm::Wide).contains("NODE"));
        assert!(!heading(Some("n1"), ListForm::Table).contains("NODE"));
        assert!(heading(None, ListForm::Csv).contains("node"));
    }

    #[test]
    fn room_that_a_shorter_form_leaves_is_given_to_others() {
        let columns: &[Column<()>] = &[
            Column::<()>::new("A", |(), _| Cell::Short {
                forms: vec!["0123456789".to_owned(), "01".to_owned()],
                exact: String::new(),
            })
            .elastic(5),
            Column::<()>::new("B", |(), _| Cell::Text("abcdefghij".to_owned())).elastic(5),
        ];
        let laid = lay(columns, &[()], samples::start(), 16);
        assert_eq!(laid.lines(0), ["01  abcdefghij"]);
        let laid = lay(columns, &[()], samples::start(), 12);
        assert_eq!(laid.lines(0), ["01  abcd…hij"]);
    }

    #[test]
    fn what_does_not_fit_is_elided_or_goes_below() {
        let rows = [Row {
            name: "main.fetch /src/main.go:24",
            age: 75.0,
            node: None,
        }];
        assert_eq!(
            written(ListForm::Table, &rows, Some(20)),
            "NAME            OPEN\nmain.fe….go:24   75s\n"
        );
        assert_eq!(
            written(ListForm::Table, &rows, Some(12)),
            "OPEN\n 75s\n  main.…o:24\n"
        );
    }
}
