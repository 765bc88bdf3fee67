//! `--help`, the README and the man page speak of the same commands.

use std::{collections::BTreeSet, fs};

use anyhow::{Result, bail, ensure};
use tracer_tests::{
    host::{self, seconds},
    runner::Skip,
    tests, tracer,
};

tests![
    every_command_has_help,
    readme_names_the_commands,
    readme_options_exist,
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

/// Command lines of tracer in the README's code blocks.
fn readme_lines() -> Result<Vec<String>> {
    let mut in_code = false;
    let mut lines = Vec::new();
    for line in readme()?.lines() {
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
    Ok(lines)
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

fn readme_options_exist() -> Result<()> {
    let commands = commands()?;
    let lines = readme_lines()?;
    ensure!(
        !lines.is_empty(),
        "the README shows no command line of tracer"
    );
    for line in lines {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        if name.starts_with('-') {
            continue;
        }
        ensure!(
            commands.contains(name),
            "the README's `tracer {line}`: no such command"
        );
        let help = says(&[name, "--help"])?;
        for word in words
            .take_while(|word| *word != "--")
            .filter(|word| word.starts_with('-'))
        {
            let option = word.split('=').next().unwrap_or(word);
            ensure!(
                help.contains(option),
                "the README's `tracer {line}`: no option {option}"
            );
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
