//! Evidence that was read and found to justify its verdict: the sentences of each subject, with their
//! numbers taken out. What may be said of any leak, such as how many were there before the watch, is
//! in `any.txt`; why a population is healthy, in `healthy.txt` for all of them.

use std::{collections::BTreeSet, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    judge::{Cell, Column},
    subjects::{self, Subject},
};

/// Holds the sentences of a report against the approved ones.
///
/// # Errors
/// When these can't be read.
pub fn cell(subject: &Subject, report: &Value) -> Result<Option<Cell>> {
    let path = path(subject);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let any = fs::read_to_string(folder().join("any.txt")).unwrap_or_default();
    let approved: BTreeSet<&str> = text.lines().chain(any.lines()).collect();
    let new: Vec<String> = sentences(report)
        .into_iter()
        .filter(|sentence| !approved.contains(sentence.as_str()))
        .collect();
    Ok(Some(Cell {
        column: Column::Approved,
        right: new.is_empty(),
        said: new.join(" | "),
    }))
}

/// Adds the sentences of a report to the approved ones.
///
/// # Errors
/// When they can't be written.
pub fn approve(subject: &Subject, report: &Value) -> Result<()> {
    let new = sentences(report);
    if new.is_empty() {
        return Ok(());
    }
    let path = path(subject);
    let mut text = fs::read_to_string(&path).unwrap_or_default();
    let any = fs::read_to_string(folder().join("any.txt")).unwrap_or_default();
    for sentence in new {
        if !text.lines().chain(any.lines()).any(|line| line == sentence) {
            text.push_str(&sentence);
            text.push('\n');
        }
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&path, text).with_context(|| path.display().to_string())
}

fn path(subject: &Subject) -> PathBuf {
    let name = match subject.leaks() {
        true => subject.name.replace('/', "-"),
        false => "healthy".to_owned(),
    };
    folder().join(format!("{name}.txt"))
}

fn folder() -> PathBuf {
    subjects::directory().join("approved")
}

/// The evidence of the worst finding, in its order; where there is none, why each population is
/// healthy.
fn sentences(report: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let all = match report["findings"].get(0) {
        Some(finding) => list(&finding["evidence"]),
        None => list(&report["populations"])
            .iter()
            .map(|population| population["healthy_because"].clone())
            .collect(),
    };
    let all = all.iter().filter_map(Value::as_str);
    all.map(without_numbers).collect()
}

/// The sentence with `N` for each number, one form for one and many, and without folders.
fn without_numbers(sentence: &str) -> String {
    let words = sentence.split(' ').map(|word| {
        let base = word.rsplit('/').next().unwrap_or(word);
        let word = if word.starts_with('/') { base } else { word };
        let mut out = String::new();
        let mut number = false;
        for c in word.chars() {
            let part = c.is_ascii_digit() || (number && c == '.');
            if part && !number {
                out.push('N');
            }
            if !part {
                out.push(c);
            }
            number = part;
        }
        // the point that ends a sentence was taken for a part of its last number
        if word.ends_with('.') && !out.ends_with('.') {
            out.push('.');
        }
        let stem = out.trim_end_matches(['.', ',', ';']);
        let one = match stem {
            "connections" => "connection",
            "seconds" => "second",
            "requests" => "request",
            "µs" | "ms" | "min" | "h" => "s",
            stem => stem,
        };
        format!("{one}{}", &out[stem.len()..])
    });
    let text = words.collect::<Vec<_>>().join(" ");
    text.replace(" at least N ", " N ")
}

#[cfg(test)]
mod tests {
    use super::without_numbers;

    #[test]
    fn numbers_and_folders_do_not_count() {
        for (said, kept) in [
            ("63 of 64 open connections.", "N of N open connection."),
            (
                "2 of them were opened in at least 3 seconds",
                "N of them were opened in N second",
            ),
            (
                "Grew by 85.7 per minute over 44 s.",
                "Grew by N per minute over N s.",
            ),
            (
                "Idle for 3 min, at f /a/b/c.py:12 and 7.",
                "Idle for N s, at f c.py:N and N.",
            ),
        ] {
            assert_eq!(without_numbers(said), kept);
        }
    }
}
