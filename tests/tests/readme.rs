//! `--help`, the README and the man page speak of the same commands.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Result, bail, ensure};
use tracer_tests::{
    host::{self, seconds},
    runner::Skip,
    tests, tracer,
};

tests![
    every_command_has_help,
    readme_names_the_commands,
    options_of_readme_and_guides_exist,
    man_page_and_completions_name_the_commands,
];

/// The commands of CONTRACT; more may be there.
const COMMANDS: &[&str] = &[
    "check",
    "record",
    "replay",
    "daemon",
    "top",
    "describe",
    "connections",
    "doctor",
    "completions",
    "man",
];

/// What a successful run of tracer prints.
fn says(arguments: &[&str]) -> Result<String> {
    let ended = tracer::run(arguments, seconds(30))?;
    ensure!(
        ended.code() == 0,
        "{arguments:?}: status {}: {}",
        ended.code(),
        ended.stderr
    );
    Ok(ended.stdout)
}

/// The commands that `--help` lists.
fn commands() -> Result<BTreeSet<String>> {
    let help = says(&["--help"])?;
    Ok(help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .filter(|name| name != "help")
        .collect())
}

/// The README of the checkout that this test was built in.
fn readme() -> Result<String> {
    if !host::repository("Cargo.toml").exists() {
        bail!(Skip("no checkout here".to_owned()));
    }
    Ok(fs::read_to_string(host::repository("README.md"))?)
}

/// The pages that people read, by name: the README and the book.
fn pages() -> Result<Vec<(String, String)>> {
    let mut all = vec![("README.md".to_owned(), readme()?)];
    for folder in ["docs", "docs/guides"] {
        for entry in fs::read_dir(host::repository(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.display().to_string();
                all.push((name, fs::read_to_string(&path)?));
            }
        }
    }
    Ok(all)
}

/// Command lines of tracer in a page's code blocks.
fn lines(page: &str) -> Vec<String> {
    let mut in_code = false;
    let mut lines = Vec::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if in_code {
            let line = line
                .trim()
                .trim_start_matches("$ ")
                .trim_start_matches("sudo ");
            if let Some(rest) = line.strip_prefix("tracer ") {
                lines.push(rest.split(" #").next().unwrap_or(rest).trim().to_owned());
            }
        }
    }
    lines
}

fn every_command_has_help() -> Result<()> {
    let commands = commands()?;
    for name in COMMANDS {
        ensure!(
            commands.contains(*name),
            "{name} is not in --help: {commands:?}"
        );
    }
    for name in &commands {
        let help = says(&[name, "--help"])?;
        ensure!(help.contains("Usage:"), "{name}: {help}");
    }
    says(&["--version"])?;
    Ok(())
}

fn readme_names_the_commands() -> Result<()> {
    let readme = readme()?;
    for name in commands()? {
        ensure!(
            readme.contains(&format!("tracer {name}")),
            "the README has no `tracer {name}`"
        );
    }
    Ok(())
}

fn options_of_readme_and_guides_exist() -> Result<()> {
    let commands = commands()?;
    let mut helps = BTreeMap::new();
    for (page, text) in pages()? {
        let lines = lines(&text);
        let told = ["tasks", "guides", "troubleshooting"];
        ensure!(
            !lines.is_empty() || !told.iter().any(|part| page.contains(part)),
            "{page} shows no command line of tracer"
        );
        for line in lines {
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { continue };
            if name.starts_with('-') {
                continue;
            }
            ensure!(
                commands.contains(name),
                "{page}: `tracer {line}`: no such command"
            );
            if !helps.contains_key(name) {
                helps.insert(name.to_owned(), says(&[name, "--help"])?);
            }
            for word in words
                .take_while(|word| *word != "--")
                .filter(|word| word.starts_with('-'))
            {
                let option = word.split('=').next().unwrap_or(word);
                ensure!(
                    helps[name].contains(option),
                    "{page}: `tracer {line}`: no option {option}"
                );
            }
        }
    }
    Ok(())
}

fn man_page_and_completions_name_the_commands() -> Result<()> {
    let manual = says(&["man"])?;
    ensure!(manual.contains(".TH"), "not a manual page");
    for shell in ["bash", "zsh", "fish"] {
        let script = says(&["completions", shell])?;
        for name in commands()? {
            ensure!(script.contains(&name), "{shell} completion lacks {name}");
            ensure!(manual.contains(&name), "the manual page lacks {name}");
        }
    }
    Ok(())
}
