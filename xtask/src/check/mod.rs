//! `cargo xtask check`: every rule of the house that a tool can check.

mod book;
mod rooms;

use std::{fs, process::ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup::{self, Ready},
    sh,
};

/// Lines from which on a source file has to be split.
const LONG_FILE: usize = 500;
/// Lines that no file may have, whatever the reason.
const LONGEST_FILE: usize = 700;
/// Files that are longer than [`LONG_FILE`], and why they are one.
const LONG_FILES: &[(&str, &str)] = &[
    (
        "tests/src/languages.rs",
        "how each language is found and run, one after the other",
    ),
    ("tests/tests/scenarios.rs", "one scenario after the other"),
    (
        "tracer/src/elf/image.rs",
        "one file's headers, each read within its bounds",
    ),
    (
        "tracer/src/engine/kinds/snippets.rs",
        "a table of code to read, by language and kind",
    ),
    (
        "tracer/src/engine/history.rs",
        "what a tally counts, and the series that are made of it",
    ),
    ("tracer/src/model.rs", "the plain values of all rooms"),
    (
        "tracer/src/runtimes/go/pclntab.rs",
        "one format, of all its versions",
    ),
    (
        "tracer/src/runtimes/java/layout.rs",
        "a table of one virtual machine's structures",
    ),
    (
        "tracer/src/session/cohorts.rs",
        "how populations are told apart; a fifth is tests",
    ),
    (
        "tracer/src/session/sockets.rs",
        "the way of a socket from its record to its population",
    ),
    (
        "tracer/src/unwind/cfi.rs",
        "one format, from its tables to registers",
    ),
    (
        "tracer/src/unwind/trie.rs",
        "what is learned, and the kernel's walk that tests hold it to",
    ),
];

/// Licences that a dependency may offer us.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// What came of one check that did not fail.
enum Verdict {
    Fine,
    /// Fine, with something worth knowing.
    Note(String),
    NotChecked(String),
}

/// Formatting, lints, documentation, file length, arrows between rooms, the book, licences, duplicate versions,
/// advisories
#[derive(Debug, clap::Args)]
pub struct Arguments {}

/// `cargo xtask check`.
pub fn main(options: setup::Options) -> Result<ExitCode> {
    let ready = setup::to_build(options)?;
    let results = [
        ("formatting", formatting()),
        ("lints", lints(&ready)),
        ("documentation", documentation(&ready)),
        ("file length", file_length()),
        ("arrows between rooms", arrows()),
        ("book", book::check()),
        ("licences", licences()),
        ("duplicate versions", duplicates()),
        ("advisories", advisories()),
    ];
    let mut failed = false;
    println!();
    for (name, result) in results {
        match result {
            Ok(Verdict::Fine) => println!("{name:20} ok"),
            Ok(Verdict::Note(note)) => println!("{name:20} ok ({note})"),
            Ok(Verdict::NotChecked(why)) => println!("{name:20} not checked: {why}"),
            Err(error) => {
                failed = true;
                println!("{name:20} FAILED: {error:#}");
            }
        }
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn formatting() -> Result<Verdict> {
    sh::run(sh::cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Verdict::Fine)
}

fn lints(ready: &Ready) -> Result<Verdict> {
    let mut clippy = sh::cargo();
    clippy.args(["clippy", "--quiet", "--workspace", "--all-targets"]);
    with_toolchain(&mut clippy, ready);
    sh::run(clippy.args(["--", "-D", "warnings"]))?;
    Ok(Verdict::Fine)
}

fn documentation(ready: &Ready) -> Result<Verdict> {
    let mut doc = sh::cargo();
    doc.args([
        "doc",
        "--quiet",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ]);
    with_toolchain(&mut doc, ready);
    sh::run(doc.env(
        "RUSTDOCFLAGS",
        "-D warnings -A rustdoc::private_intra_doc_links",
    ))?;
    Ok(Verdict::Fine)
}

fn with_toolchain(command: &mut std::process::Command, ready: &Ready) {
    if let Some(toolchain) = &ready.ebpf_toolchain {
        command.env("TRACER_EBPF_TOOLCHAIN", toolchain);
    }
}

fn file_length() -> Result<Verdict> {
    let list =
        sh::capture(sh::command("git").args(["ls-files", "-co", "--exclude-standard", "*.rs"]))?;
    let mut wrong = Vec::new();
    for name in list.lines() {
        let path = sh::root().join(name);
        if !path.exists() {
            continue;
        }
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        wrong.extend(wrong_length(name, text.lines().count()));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(Verdict::Note(format!(
        "{} files over {LONG_FILE} lines, each with its reason",
        LONG_FILES.len()
    )))
}

/// What is wrong with the length of a file.
fn wrong_length(name: &str, lines: usize) -> Option<String> {
    let listed = LONG_FILES.iter().any(|(long, _)| *long == name);
    match lines {
        _ if lines > LONGEST_FILE => Some(format!(
            "{name} has {lines} lines, more than any file may have ({LONGEST_FILE})"
        )),
        _ if lines > LONG_FILE && !listed => Some(format!(
            "{name} has {lines} lines; over {LONG_FILE} a file is to be split, or there is a reason \
             in the list of xtask/src/check"
        )),
        _ if lines <= LONG_FILE && listed => Some(format!(
            "{name} has {lines} lines and needs no reason any more"
        )),
        _ => None,
    }
}

fn arrows() -> Result<Verdict> {
    let found = rooms::look(&sh::root().join("tracer/src"))?;
    let upward = found.upward.iter();
    let wrong: Vec<String> = upward
        .map(|((from, to), file)| format!("{from} must not use {to} ({file})"))
        .chain(
            found
                .circles
                .iter()
                .map(|circle| format!("{} use each other in a circle", circle.join(", "))),
        )
        .collect();
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(Verdict::Fine)
}

/// Known vulnerabilities of dependencies, where the tool and its database can be had.
fn advisories() -> Result<Verdict> {
    if !sh::has_program("cargo-deny") {
        return Ok(Verdict::NotChecked(
            "cargo-deny is not installed (`cargo install cargo-deny`)".to_owned(),
        ));
    }
    let checked = sh::quiet(sh::cargo().args(["deny", "check", "advisories"]));
    match checked.map_err(|error| format!("{error:#}")) {
        Ok(()) => Ok(Verdict::Fine),
        // it says so where it could not ask, too, and that is no finding
        Err(text) if text.contains("failed to fetch") || text.contains("failed to open") => Ok(
            Verdict::NotChecked("the advisory database can't be had here".to_owned()),
        ),
        Err(text) => bail!("{text}"),
    }
}

fn licences() -> Result<Verdict> {
    let tree = sh::capture(sh::cargo().args([
        "tree",
        "--workspace",
        "--prefix",
        "none",
        "--edges",
        "normal,build,dev",
        "--format",
        "{p}\t{l}",
    ]))?;
    let mut refused: Vec<&str> = tree
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        // one blank line separates the workspace's packages
        .filter(|line| !line.is_empty())
        .filter(|line| {
            !line
                .split_once('\t')
                .is_some_and(|(_, licence)| acceptable(licence))
        })
        .collect();
    refused.sort_unstable();
    refused.dedup();
    if !refused.is_empty() {
        bail!("{}", refused.join(", ").replace('\t', " is under "));
    }
    Ok(Verdict::Fine)
}

/// Not by `cargo-deny`, which takes minutes to build where it is not installed, and this check is to
/// run everywhere; for advisories, which need its database, it is asked where it is there.
///
/// Whether an SPDX expression leaves a choice that we accept. Only the shapes that crates use are
/// understood (`OR` of `AND`s, one level of brackets); anything else is refused.
fn acceptable(expression: &str) -> bool {
    let parts: Vec<&str> = expression.split(" AND ").collect();
    if parts.len() > 1 && expression.contains('(') {
        return parts
            .iter()
            .all(|part| acceptable(part.trim().trim_start_matches('(').trim_end_matches(')')));
    }
    expression
        .split(" OR ")
        .flat_map(|part| part.split('/'))
        .any(|choice| {
            choice
                .split(" AND ")
                .all(|name| LICENCES.contains(&name.trim()))
        })
}

fn duplicates() -> Result<Verdict> {
    let tree = sh::capture(sh::cargo().args([
        "tree",
        "--workspace",
        "--duplicates",
        "--depth",
        "0",
        "--prefix",
        "none",
        "--edges",
        "normal",
    ]))?;
    let mut versions: Vec<&str> = tree
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter(|line| !line.is_empty())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    Ok(if versions.is_empty() {
        Verdict::Fine
    } else {
        Verdict::Note(format!("more than one version of: {}", versions.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::{LONG_FILE, LONG_FILES, LONGEST_FILE, acceptable, wrong_length};

    #[test]
    fn a_long_file_needs_a_reason_and_a_short_one_none() {
        let (listed, _) = LONG_FILES[0];
        assert_eq!(wrong_length("a.rs", LONG_FILE), None);
        assert!(wrong_length("a.rs", LONG_FILE + 1).is_some());
        assert_eq!(wrong_length(listed, LONG_FILE + 1), None);
        assert!(wrong_length(listed, LONG_FILE).is_some());
        assert!(wrong_length(listed, LONGEST_FILE + 1).is_some());
    }

    #[test]
    fn one_acceptable_choice_is_enough() {
        for fine in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "BSD-3-Clause AND MIT",
        ] {
            assert!(acceptable(fine), "{fine}");
        }
    }

    #[test]
    fn an_unknown_licence_is_refused() {
        for refused in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT OR Apache-2.0) AND GPL-3.0",
        ] {
            assert!(!acceptable(refused), "{refused}");
        }
    }
}
