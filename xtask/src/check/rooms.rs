//! Which module of the library uses which: rooms may use only what lies below them, and the
//! modules of a room must not use each other in a circle.
//!
//! Paths in the source are what is looked at, outside of tests and comments: a path that names
//! a module is an arrow to it. What a folder's own `mod.rs` defines belongs to the whole folder and
//! may be used by every file in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};

/// Rooms from below to above, as the table in ARCHITECTURE.md has them: each may use those before
/// it. What is on one line may be used by its neighbours, too.
const ROOMS: &[&[&str]] = &[
    &["model", "refused"],
    &["memory", "wiping", "elf", "protocols", "procs", "cluster"],
    &["report"],
    &["kernel"],
    &["reader", "unwind", "symbols", "runtimes"],
    &["engine"],
    &["findings"],
    &["recording"],
    &["session"],
    &["config"],
    &["daemon"],
    &["cli"],
];
/// Rooms that may not use `report`: what they say is turned into the JSON contract above them.
const BELOW_THE_CONTRACT: &[&str] = &[
    "kernel", "reader", "unwind", "symbols", "runtimes", "engine",
];
/// Everything may use them; they only name what is elsewhere.
const APART: &[&str] = &["lib", "main", "testing", "fuzzing", "samples", "schema"];

/// An arrow between two rooms.
type Arrow = (String, String);

/// What points the wrong way in `source` (`tracer/src`).
pub struct Found {
    /// Rooms that use one above them, with a file that does.
    pub upward: BTreeMap<Arrow, String>,
    /// Modules of one folder that use each other in a circle, each with the folder before it.
    pub circles: BTreeSet<Vec<String>>,
}

/// Reads every file below `source`.
pub fn look(source: &Path) -> Result<Found> {
    Ok(look_at(&files(source)?))
}

/// The same for files (paths from `source` on) whose contents are given.
fn look_at(files: &[(String, String)]) -> Found {
    let modules: BTreeSet<Vec<&str>> = files.iter().map(|(name, _)| module_of(name)).collect();
    let mut upward = BTreeMap::new();
    let mut folders: BTreeMap<Vec<&str>, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for (name, text) in files {
        let from = module_of(name);
        let Some(&room) = from.first().filter(|room| !APART.contains(room)) else {
            continue;
        };
        let code = code_of(text);
        for path in paths(&code, &from) {
            let path: Vec<&str> = path.iter().map(|&word| known(word, &modules)).collect();
            let Some(&used) = path.first() else { continue };
            if height(used) > height(room) || hides(room, used) {
                let arrow = (room.to_owned(), used.to_owned());
                upward.entry(arrow).or_insert_with(|| name.clone());
            }
            let common = from.iter().zip(&path).take_while(|(a, b)| a == b).count();
            let to = path
                .get(..=common)
                .filter(|to| modules.iter().any(|m| m.starts_with(to)));
            if let (1.., Some(&of), Some(&[.., to])) = (common, from.get(common), to) {
                let folder = from[..common].to_vec();
                folders
                    .entry(folder)
                    .or_default()
                    .entry(of)
                    .or_default()
                    .insert(to);
            }
        }
    }
    let mut circles = BTreeSet::new();
    for (folder, arrows) in &folders {
        for circle in circles_of(arrows) {
            let name = |module: &&str| format!("{}/{module}", folder.join("/"));
            circles.insert(circle.iter().map(name).collect());
        }
    }
    Found { upward, circles }
}

/// The word as the list of modules has it, so that it lives as long.
fn known<'a>(word: &str, modules: &BTreeSet<Vec<&'a str>>) -> &'a str {
    let mut all = modules.iter().flatten();
    all.find(|module| **module == word).copied().unwrap_or("")
}

/// Whether one room must not know the other although it lies below.
fn hides(room: &str, used: &str) -> bool {
    used == "report" && BELOW_THE_CONTRACT.contains(&room)
}

/// Every set of modules each of which leads to all others of it.
fn circles_of<'a>(arrows: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<Vec<&'a str>> {
    let reached = |from: &'a str| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(module) = next.pop() {
            for &to in arrows.get(module).into_iter().flatten() {
                if reached.insert(to) {
                    next.push(to);
                }
            }
        }
        reached
    };
    let all: BTreeMap<&str, BTreeSet<&str>> = arrows.keys().map(|&m| (m, reached(m))).collect();
    let leads = |from: &str, to: &str| all.get(from).is_some_and(|reached| reached.contains(to));
    all.keys()
        .filter(|&&module| leads(module, module))
        .map(|&module| {
            let round = all.keys().copied();
            round
                .filter(|&other| leads(module, other) && leads(other, module))
                .collect()
        })
        .collect()
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

/// The module that a file is: `engine/kinds/mod.rs` is `engine`, `kinds`.
fn module_of(name: &str) -> Vec<&str> {
    let name = name.trim_end_matches(".rs");
    name.split('/').filter(|part| *part != "mod").collect()
}

/// The code without comments, and before the tests, which stand at the end and may use anything.
fn code_of(text: &str) -> String {
    let end = text.find("\n#[cfg(test)]\nmod tests").or_else(|| {
        let (tests, expect) = ("\n#[cfg(test)]\n#[expect", "mod tests");
        text.find(tests).filter(|&at| text[at..].contains(expect))
    });
    let lines = text[..end.unwrap_or(text.len())].lines();
    let code = lines.filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>().join("\n")
}

fn height(room: &str) -> Option<usize> {
    ROOMS.iter().position(|line| line.contains(&room))
}

/// Every path in `code` that begins at the crate, at this module or at one above it, from the crate
/// on; `from` is the module that the code is.
fn paths<'a>(code: &'a str, from: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(word) = code.get(at..).map(word) {
        let begins = !word.is_empty() && !code[..at].ends_with("::");
        if begins && matches!(word, "crate" | "super" | "self") {
            let (base, end) = base(&code[at..], from);
            if let Some(base) = base {
                at += end + tree(&code[at + end..], &base, &mut found);
                continue;
            }
        }
        let next = code[at + word.len()..].chars().next();
        match next {
            Some(c) => at += word.len() + c.len_utf8(),
            None => break,
        }
    }
    found
}

/// Where a path that begins with `crate::`, `super::` or `self::` begins, and how far that reaches.
fn base<'a>(code: &str, from: &[&'a str]) -> (Option<Vec<&'a str>>, usize) {
    let mut base = from.to_vec();
    let (mut end, mut any) = (0, false);
    loop {
        let word = word(&code[end..]);
        let Some(rest) = code[end + word.len()..].strip_prefix("::") else {
            break;
        };
        match word {
            "crate" if !any => base.clear(),
            "self" if !any => {}
            "super" if base.pop().is_some() => {}
            _ => break,
        }
        (end, any) = (code.len() - rest.len(), true);
    }
    (any.then_some(base), end)
}

/// Adds the paths of a tree such as `a::{b, c::D}` below `base`; returns its length.
fn tree<'a>(code: &'a str, base: &[&'a str], found: &mut Vec<Vec<&'a str>>) -> usize {
    let mut path = base.to_vec();
    let mut at = 0;
    loop {
        if code[at..].starts_with('{') {
            at += 1;
            loop {
                at += code[at..].len() - code[at..].trim_start_matches([' ', '\n', ',']).len();
                if code[at..].starts_with('}') {
                    return at + 1;
                }
                match tree(&code[at..], &path, found) {
                    0 => return at,
                    len => at += len,
                }
            }
        }
        let word = word(&code[at..]);
        path.push(word);
        at += word.len();
        if word.is_empty() || !code[at..].starts_with("::") {
            found.push(path);
            return at;
        }
        at += 2;
    }
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

    fn found(files: &[(&str, &str)]) -> Found {
        let files: Vec<(String, String)> = files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        look_at(&files)
    }

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let circles = found(files).circles.into_iter();
        circles.map(|circle| circle.join(" ")).collect()
    }

    #[test]
    fn names_are_found_in_lists_and_alone() {
        let code = "use crate::{\n    model::{Frame, Kind as K},\n    report::Report,\n};\n\
                    fn f() { super::super::cli::run(self::x::Y); super::of(1) }";
        let found: Vec<String> = paths(code, &["engine", "kinds"])
            .iter()
            .map(|path| path.join("::"))
            .collect();
        let expected = [
            "model::Frame",
            "model::Kind",
            "report::Report",
            "cli::run",
            "engine::kinds::x::Y",
            "engine::of",
        ];
        for path in expected {
            assert!(found.contains(&path.to_owned()), "{path}: {found:?}");
        }
    }

    #[test]
    fn what_is_above_is_told_from_what_is_below() {
        assert!(height("cli") > height("engine"));
        assert!(height("model") < height("report"));
        assert_eq!(height("nosuch"), None);
        let upward = |text| {
            let files = [
                ("engine/judge.rs", text),
                ("cli/mod.rs", ""),
                ("report/mod.rs", ""),
            ];
            found(&files).upward.into_keys().collect::<Vec<_>>()
        };
        let arrow = |to: &str| vec![("engine".to_owned(), to.to_owned())];
        assert_eq!(upward("use crate::cli::run;"), arrow("cli"));
        assert_eq!(upward("use crate::report::Report;"), arrow("report"));
        assert_eq!(upward("// as crate::cli::run does\n"), []);
        assert_eq!(upward("a\n#[cfg(test)]\nmod tests { use crate::cli; }"), []);
    }

    #[test]
    fn files_that_use_each_other_are_a_circle() {
        let two = [
            ("engine/judge.rs", "use super::{growth::Fit, kinds};"),
            ("engine/growth.rs", "use crate::engine::judge::Sight;"),
            ("engine/kinds/mod.rs", ""),
        ];
        assert_eq!(circles(&two), ["engine/growth engine/judge"]);
        // by way of a third, which is a folder
        let three = [
            ("engine/judge.rs", "use super::evidence;"),
            ("engine/evidence.rs", "use super::kinds;"),
            (
                "engine/kinds/pool.rs",
                "use crate::{engine::{judge::Case}, model};",
            ),
        ];
        assert_eq!(
            circles(&three),
            ["engine/evidence engine/judge engine/kinds"]
        );
    }

    #[test]
    fn one_direction_and_the_folder_itself_are_no_circle() {
        let files = [
            ("session/mod.rs", "mod sweep;\nuse self::sweep::Totals;"),
            ("session/sweep.rs", "use super::{Session, ends::Ends};"),
            ("session/ends.rs", "use crate::model::CohortId;"),
            ("model.rs", ""),
        ];
        assert_eq!(circles(&files), Vec::<String>::new());
    }

    #[test]
    fn the_library_has_no_wrong_arrow() {
        let found = look(&crate::sh::root().join("tracer/src"));
        let found = found.map(|found| (found.upward, found.circles));
        assert_eq!(found.ok(), Some(Default::default()));
    }
}
