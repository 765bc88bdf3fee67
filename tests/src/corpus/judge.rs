//! A report held against the truth about its program. Pure.

use serde_json::Value;

use super::subjects::{Lines, Subject};

/// One thing that was asked of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Which column.
    pub column: Column,
    /// Whether it was right.
    pub right: bool,
    /// What was said.
    pub said: String,
}

/// Columns of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Column {
    /// `leak` or `clean`.
    Verdict,
    /// The kind of leak.
    Kind,
    /// The function of the call site.
    Function,
    /// Its line.
    Line,
    /// The URL.
    Remote,
    /// The library that leaks by itself.
    Library,
    /// What the evidence must say.
    Evidence,
    /// Only sentences that were read and approved.
    Approved,
    /// No finding that is none.
    Extra,
}

/// All columns, in the order of the table.
pub const COLUMNS: [Column; 9] = [
    Column::Verdict,
    Column::Kind,
    Column::Function,
    Column::Line,
    Column::Remote,
    Column::Library,
    Column::Evidence,
    Column::Approved,
    Column::Extra,
];

impl Column {
    /// Its heading.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Column::Verdict => "verdict",
            Column::Kind => "kind",
            Column::Function => "function",
            Column::Line => "line",
            Column::Remote => "remote",
            Column::Library => "library",
            Column::Evidence => "evidence",
            Column::Approved => "approved",
            Column::Extra => "extra",
        }
    }
}

/// Holds a report against the truth.
#[must_use]
pub fn judge(subject: &Subject, lines: &[Lines], report: &Value) -> Vec<Cell> {
    let verdict = text(&report["verdict"]);
    let expected = if subject.leaks() { "leak" } else { "clean" };
    let undecided = subject.undecided && verdict == "inconclusive";
    let right = verdict == expected || undecided;
    let mut cells = vec![cell(Column::Verdict, right, verdict)];
    let findings = report["findings"].as_array().map_or(&[][..], Vec::as_slice);
    let sure: Vec<&Value> = findings
        .iter()
        .filter(|f| f["confidence"] == "medium" || f["confidence"] == "high")
        .collect();
    if !subject.leaks() {
        let said: Vec<String> = sure.iter().map(|f| in_short(f)).collect();
        cells.push(cell(Column::Extra, sure.is_empty(), said.join("; ")));
        return cells;
    }
    // The best of several is the one that is meant.
    let about = |finding: &Value| of_finding(subject, lines, finding);
    let best = findings.iter().max_by_key(|f| {
        let right = about(f).iter().filter(|c| c.right).count();
        (sure.contains(f), right)
    });
    if let Some(best) = best {
        cells.extend(about(best));
        let others: Vec<String> = sure
            .iter()
            .filter(|f| **f != best)
            .map(|f| in_short(f))
            .collect();
        cells.push(cell(Column::Extra, others.is_empty(), others.join("; ")));
    }
    cells
}

fn of_finding(subject: &Subject, lines: &[Lines], finding: &Value) -> Vec<Cell> {
    let kind = text(&finding["kind"]);
    let mut cells = vec![cell(
        Column::Kind,
        subject.kinds.iter().any(|k| k == kind),
        kind,
    )];
    let site = &finding["call_site"];
    if let Some(function) = &subject.function {
        let right = text(&site["function"]).contains(function.as_str());
        cells.push(cell(Column::Function, right, place(site)));
    }
    if !lines.is_empty() {
        let file = text(&site["file"]).rsplit('/').next().unwrap_or_default();
        let line = site["line"].as_u64().unwrap_or_default();
        let right = lines
            .iter()
            .any(|l| l.file == file && l.lines.contains(&line));
        cells.push(cell(Column::Line, right, place(site)));
    }
    let remote = &finding["remote"];
    if let Some(part) = &subject.remote {
        let examples = remote["examples"].as_array().map_or(&[][..], Vec::as_slice);
        let right = std::iter::once(&remote["url"])
            .chain(examples)
            .any(|given| text(given).contains(part.as_str()));
        let said = format!("{} at {}", remote["url"], remote["address"]);
        cells.push(cell(Column::Remote, right, said));
    }
    if let Some(name) = &subject.library {
        let said = text(&finding["library"]["name"]);
        cells.push(cell(Column::Library, said.contains(name.as_str()), said));
    }
    if let Some(word) = &subject.evidence {
        let right = finding["evidence"].to_string().contains(word.as_str());
        cells.push(cell(Column::Evidence, right, "does not say it"));
    }
    cells
}

fn cell(column: Column, right: bool, said: impl Into<String>) -> Cell {
    Cell {
        column,
        right,
        said: said.into(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn place(site: &Value) -> String {
    if site.is_null() {
        return "no call site".to_owned();
    }
    let file = site["file"].as_str().or(site["module"].as_str());
    let file = file.and_then(|f| f.rsplit('/').next()).unwrap_or("?");
    format!("{} {file}:{}", text(&site["function"]), site["line"])
}

fn in_short(finding: &Value) -> String {
    format!(
        "{} {}",
        text(&finding["kind"]),
        place(&finding["call_site"])
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Column, Lines, Subject, judge};

    fn right(subject: &Subject, report: &serde_json::Value) -> Vec<(Column, bool)> {
        let lines = [Lines {
            file: "a.py".into(),
            lines: 4..=6,
        }];
        let cells = judge(subject, &lines, report);
        cells.iter().map(|c| (c.column, c.right)).collect()
    }

    #[test]
    fn a_leak_is_held_against_kind_site_and_number() {
        let subject = Subject {
            kinds: vec!["close_wait".into()],
            function: Some("fetch".into()),
            ..Subject::default()
        };
        let finding = |kind: &str, line: u32| json!({"kind": kind, "confidence": "high", "call_site": {"function": "C.fetch", "file": "/x/a.py", "line": line}});
        let report = json!({"verdict": "leak", "findings": [finding("never_closed", 9), finding("close_wait", 5)]});
        assert_eq!(
            right(&subject, &report),
            [
                (Column::Verdict, true),
                (Column::Kind, true),
                (Column::Function, true),
                (Column::Line, true),
                (Column::Extra, false)
            ]
        );
        let report = json!({"verdict": "clean", "findings": []});
        assert_eq!(right(&subject, &report), [(Column::Verdict, false)]);
    }

    #[test]
    fn of_a_healthy_program_only_sure_findings_are_wrong() {
        let low =
            json!({"verdict": "inconclusive", "findings": [{"kind": "x", "confidence": "low"}]});
        assert_eq!(
            right(&Subject::default(), &low),
            [(Column::Verdict, false), (Column::Extra, true)]
        );
    }
}
