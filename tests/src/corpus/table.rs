//! The table that is printed, and the score.

use std::{collections::BTreeMap, fmt, fmt::Write as _};

use serde_json::{Value, json};

use super::{
    Outcome,
    judge::{COLUMNS, Cell, Column},
    subjects::Subject,
};

/// Languages whose call sites are counted by themselves as well.
const APART: [&str; 4] = ["node", "java", "ruby", "php"];

/// A row for each subject, and below it what was wrong.
#[must_use]
pub fn rows(rows: &[(Subject, Outcome)]) -> String {
    let mut text = format!("{:28}{:9}", "subject", "truth");
    for column in COLUMNS {
        let _ = write!(text, "{:9}", column.name());
    }
    let _ = writeln!(text, "found after");
    for (subject, outcome) in rows {
        let truth = if subject.leaks() { "leak" } else { "clean" };
        let _ = write!(text, "{:28}{truth:9}", subject.name);
        match outcome {
            Outcome::Skipped(why) => text.push_str(why),
            Outcome::Failed(why) => text.push_str(why),
            Outcome::Seen {
                cells, found_after, ..
            } => {
                for column in COLUMNS {
                    let cell = cells.iter().find(|c| c.column == column);
                    let said = cell.map_or("-", |c| if c.right { "ok" } else { "WRONG" });
                    let _ = write!(text, "{said:9}");
                }
                if let Some(seconds) = found_after {
                    let _ = write!(text, "{seconds:.0} s");
                }
            }
        }
        text = text.trim_end().to_owned();
        text.push('\n');
    }
    text.push('\n');
    for (subject, outcome) in rows {
        let Outcome::Seen { cells, settled, .. } = outcome else {
            continue;
        };
        if let Some((seconds, verdict)) = settled {
            let _ = writeln!(
                text,
                "{}: inconclusive; after {seconds} s: {verdict}",
                subject.name
            );
        }
        for cell in cells.iter().filter(|c| !c.right) {
            let _ = writeln!(
                text,
                "{}: {}: {}",
                subject.name,
                cell.column.name(),
                cell.said
            );
        }
    }
    text
}

/// How often tracer was right.
#[derive(Debug, Default, PartialEq)]
pub struct Score {
    /// Leaks that were called one, leaks in all.
    found: (usize, usize),
    /// Healthy programs called `leak`.
    false_alarms: usize,
    /// Healthy programs called `clean`, healthy programs in all.
    clean: (usize, usize),
    /// Right and asked, by column.
    columns: BTreeMap<Column, (usize, usize)>,
    /// The same of call sites in the languages apart.
    apart: (usize, usize),
    /// Call sites in the others.
    sites: (usize, usize),
    /// Growth per minute of the leaks found, and seconds until they were.
    times: Vec<(f64, f64)>,
    /// Leaks that were not called one.
    missed: Vec<String>,
    skipped: usize,
    failed: usize,
}

impl Score {
    /// Counts the rows.
    #[must_use]
    pub fn of(rows: &[(Subject, Outcome)]) -> Score {
        let mut score = Score::default();
        for (subject, outcome) in rows {
            match outcome {
                Outcome::Skipped(_) => score.skipped += 1,
                Outcome::Failed(_) => score.failed += 1,
                Outcome::Seen {
                    cells,
                    report,
                    found_after,
                    ..
                } => {
                    let growth = report["findings"][0]["growth_per_minute"].as_f64();
                    score.times.extend(growth.zip(*found_after));
                    score.add(subject, cells, &report["verdict"]);
                }
            }
        }
        score
    }

    fn add(&mut self, subject: &Subject, cells: &[Cell], verdict: &Value) {
        let of = if subject.leaks() {
            &mut self.found
        } else {
            &mut self.clean
        };
        of.1 += 1;
        of.0 += usize::from(cells.iter().any(|c| c.column == Column::Verdict && c.right));
        if subject.leaks() && verdict != "leak" {
            self.missed.push(subject.name.clone());
        }
        self.false_alarms += usize::from(!subject.leaks() && verdict == "leak");
        let right = |column| cells.iter().find(|c| c.column == column).map(|c| c.right);
        for column in COLUMNS {
            if let Some(right) = right(column) {
                let of = self.columns.entry(column).or_default();
                of.0 += usize::from(right);
                of.1 += 1;
            }
        }
        let site: Vec<bool> = [Column::Function, Column::Line]
            .into_iter()
            .filter_map(right)
            .collect();
        if !site.is_empty() {
            let of = match APART.contains(&subject.language()) {
                true => &mut self.apart,
                false => &mut self.sites,
            };
            of.0 += usize::from(site.iter().all(|right| *right));
            of.1 += 1;
        }
    }

    /// The bars of the project: precision 1, recall 0.95, kind and call site 0.9, healthy programs
    /// clean 0.95, and every subject watched.
    #[must_use]
    pub fn meets_the_bars(&self) -> bool {
        let kind = self.columns.get(&Column::Kind).copied().unwrap_or_default();
        self.false_alarms == 0
            && self.failed == 0
            && share(self.found) >= 0.95
            && share(self.clean) >= 0.95
            && share(kind) >= 0.9
            && share(self.sites) >= 0.9
            && share(self.apart) >= 0.9
    }
}

fn share((right, asked): (usize, usize)) -> f64 {
    match asked {
        0 => 1.0,
        _ => right as f64 / asked as f64,
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alarms = self.found.0 + self.false_alarms;
        let named = [
            ("precision", (self.found.0, alarms)),
            ("recall", self.found),
            ("healthy programs clean", self.clean),
            ("call site", self.sites),
            ("call site, Node Java Ruby PHP", self.apart),
        ];
        let columns = self.columns.iter().map(|(column, of)| (column.name(), *of));
        writeln!(f)?;
        for (name, of) in named.into_iter().chain(columns) {
            writeln!(f, "{name:36}{:.2}  ({} of {})", share(of), of.0, of.1)?;
        }
        writeln!(f)?;
        for least in [60.0, 20.0] {
            let times = self.times.iter().filter(|(growth, _)| *growth >= least);
            let mut times: Vec<f64> = times.map(|(_, seconds)| *seconds).collect();
            times.sort_by(f64::total_cmp);
            if let Some(median) = times.get(times.len() / 2) {
                writeln!(
                    f,
                    "found after, median of {} leaks of {least} a minute and more: {median:.0} s",
                    times.len()
                )?;
            }
        }
        match self.missed.as_slice() {
            [] => writeln!(f, "missed: none")?,
            missed => writeln!(f, "missed: {}", missed.join(", "))?,
        }
        writeln!(f, "{} skipped, {} failed", self.skipped, self.failed)
    }
}

/// What tracer said of each, for a file.
#[must_use]
pub fn answers(rows: &[(Subject, Outcome)]) -> Value {
    rows.iter()
        .map(|(subject, outcome)| match outcome {
            Outcome::Seen { report, .. } => json!({"name": subject.name, "report": report}),
            Outcome::Skipped(why) | Outcome::Failed(why) => {
                json!({"name": subject.name, "why": why})
            }
        })
        .collect()
}
