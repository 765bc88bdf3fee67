//! Which file of the library uses which: rooms may use only what lies below them, and the files of
//! a room must not use each other in a circle.
//!
//! Paths in the source are what is looked at, not what they resolve to, and only outside of tests:
//! good enough to notice a new arrow, which is when something can be done about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};

/// Rooms from below to above, as the table in ARCHITECTURE.md has them: each may use those before
/// it. What is on one line may be used by its neighbours, too.
const ROOMS: &[&[&str]] = &[
    &["model"],
    &["memory", "elf", "protocols", "procs"],
    &["report"],
    &["kernel"],
    &["reader", "unwind", "symbols", "runtimes"],
    &["engine"],
    &["findings"],
    &["session"],
    &["config"],
    &["daemon"],
    &["cli"],
];
/// Everything may use them; they only name what is elsewhere.
const APART: &[&str] = &["lib", "main", "testing", "fuzzing", "samples", "schema"];

/// An arrow between two rooms or two files.
type Arrow = (String, String);

/// What points the wrong way in `source` (`tracer/src`).
pub struct Found {
    /// Rooms that use one above them, with a file that does.
    pub upward: BTreeMap<Arrow, String>,
    /// Files of one room that use each other.
    pub circles: BTreeSet<Arrow>,
}

/// Reads every file below `source`.
pub fn look(source: &Path) -> Result<Found> {
    let mut upward = BTreeMap::new();
    let mut arrows: BTreeMap<String, BTreeSet<Arrow>> = BTreeMap::new();
    for (name, text) in files(source)? {
        let code = without_tests(&text);
        let Some(room) = room_of(&name).filter(|room| !APART.contains(room)) else {
            continue;
        };
        for used in rooms_used(code) {
            if height(used) > height(room) {
                let arrow = (room.to_owned(), used.to_owned());
                upward.entry(arrow).or_insert_with(|| name.clone());
            }
        }
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", &name));
        let file = file.trim_end_matches(".rs");
        if !folder.is_empty() && file != "mod" {
            let of_folder = arrows.entry(folder.to_owned()).or_default();
            for used in siblings_used(code).filter(|used| *used != file) {
                of_folder.insert((file.to_owned(), used.to_owned()));
            }
        }
    }
    let mut circles = BTreeSet::new();
    for (folder, arrows) in &arrows {
        for (from, to) in arrows {
            if from < to && arrows.contains(&(to.clone(), from.clone())) {
                circles.insert((format!("{folder}/{from}.rs"), format!("{folder}/{to}.rs")));
            }
        }
    }
    Ok(Found { upward, circles })
}

/// Paths from `source` on, and contents.
fn files(source: &Path) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder);
        for entry in entries.with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(source)?.to_string_lossy().into_owned();
                let is_test = name.contains("tests/") || name.ends_with("tests.rs");
                if !is_test && !name.contains("corpus") {
                    found.push((name, fs::read_to_string(&path)?));
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The code before the tests, which stand at the end and may use anything.
fn without_tests(text: &str) -> &str {
    let end = text.find("\n#[cfg(test)]").unwrap_or(text.len());
    &text[..end]
}

/// The room that a file is in: the first part of its path.
fn room_of(name: &str) -> Option<&str> {
    name.split('/').next()?.split('.').next()
}

fn height(room: &str) -> Option<usize> {
    ROOMS.iter().position(|line| line.contains(&room))
}

/// Rooms named after `crate::`, also in lists.
fn rooms_used(code: &str) -> BTreeSet<&str> {
    let known: Vec<&str> = ROOMS.iter().flat_map(|line| line.iter().copied()).collect();
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        if let Some(list) = rest.strip_prefix('{') {
            used.extend(top_of_list(list));
        } else {
            used.insert(word(rest));
        }
    }
    used.retain(|room| known.contains(room));
    used
}

/// The first words of the entries of a list in braces, those within entries left out.
fn top_of_list(list: &str) -> Vec<&str> {
    let (mut depth, mut begun) = (0, true);
    let mut words = Vec::new();
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begun = true,
            c if begun && c.is_alphanumeric() => {
                words.push(word(&list[at..]));
                begun = false;
            }
            _ => {}
        }
    }
    words
}

/// Files of the same folder named after `super::`, also in lists.
fn siblings_used(code: &str) -> impl Iterator<Item = &str> {
    code.split("super::").skip(1).flat_map(|rest| {
        if let Some(list) = rest.strip_prefix('{') {
            top_of_list(list)
        } else {
            vec![word(rest)]
        }
    })
}

fn word(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_lists_and_alone() {
        let code =
            "use crate::{\n    model::{Frame, Kind},\n    report::Report,\n};\ncrate::cli::run()";
        let used: Vec<&str> = rooms_used(code).into_iter().collect();
        assert_eq!(used, ["cli", "model", "report"]);
        let used: Vec<&str> = siblings_used("use super::{Failure, args::Top, text};").collect();
        assert_eq!(used, ["Failure", "args", "text"]);
    }

    #[test]
    fn what_is_above_is_told_from_what_is_below() {
        assert!(height("cli") > height("engine"));
        assert!(height("model") < height("report"));
        assert_eq!(height("nosuch"), None);
        assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {}"), "a");
    }
}
