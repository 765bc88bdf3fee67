//! The project's chores: `cargo xtask help` lists them.

mod bench;
mod build;
mod check;
mod corpus;
mod demo;
mod fuzz;
mod names;
mod release;
mod screens;
mod setup;
mod sh;
mod suites;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};

/// The project's chores
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    options: setup::Options,
    #[command(subcommand)]
    chore: Option<Chore>,
}

#[derive(Debug, Subcommand)]
enum Chore {
    Setup(setup::Arguments),
    Build(build::Arguments),
    Release(release::Arguments),
    Run(build::RunArguments),
    Demo(demo::Arguments),
    Test(suites::Arguments),
    Vm(vm::Arguments),
    Corpus(corpus::Arguments),
    Names(names::Arguments),
    Fuzz(fuzz::Arguments),
    Screens(screens::Arguments),
    Manifests(suites::manifests::Arguments),
    Check(check::Arguments),
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    let options = cli.options;
    let Some(chore) = cli.chore else {
        Cli::command().print_help()?;
        return Ok(ExitCode::SUCCESS);
    };
    match chore {
        Chore::Setup(arguments) => setup::main(arguments, options),
        Chore::Build(arguments) => build::main(arguments, options),
        Chore::Release(arguments) => release::main(arguments, options),
        Chore::Run(arguments) => build::run(arguments, options),
        Chore::Demo(_) => demo::main(options),
        Chore::Test(arguments) => suites::main(arguments, options),
        Chore::Vm(arguments) => vm::main(arguments, options),
        Chore::Corpus(arguments) => corpus::main(arguments, options),
        Chore::Names(arguments) => names::main(arguments, options),
        Chore::Fuzz(arguments) => fuzz::main(arguments),
        Chore::Screens(arguments) => screens::main(arguments, options),
        Chore::Manifests(_) => suites::manifests::main(),
        Chore::Check(_) => check::main(options),
        Chore::Bench(arguments) => bench::main(arguments, options),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use std::fs;

    use clap::{CommandFactory as _, Parser as _};

    use super::{Chore, Cli};
    use crate::sh;

    /// The words of a line, as a shell splits it where only single quotes are used.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (index, part) in line.split('\'').enumerate() {
            match index % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(part.to_owned()),
            }
        }
        words
    }

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(words(line))
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_command_line_is_understood() {
        let mut seen = 0;
        for file in [
            ".ci/run",
            "README.md",
            "CONTRIBUTING.md",
            "docs/screens/README.md",
            "tests/corpus/README.md",
        ] {
            let text = fs::read_to_string(sh::root().join(file)).unwrap();
            for line in text.lines().filter(|line| line.starts_with("cargo xtask")) {
                let line = line.split("||").next().unwrap_or(line);
                let line = line.split('#').next().unwrap_or(line);
                seen += 1;
                if let Err(error) = parsed(line.trim_start_matches("cargo ")) {
                    // help is an answer
                    assert_eq!(error.exit_code(), 0, "{file}: {line}\n{error}");
                }
            }
        }
        assert!(seen > 15, "only {seen} command lines were found");
    }

    #[test]
    fn what_follows_two_dashes_is_tracers() {
        let cli = parsed("xtask run --log-ebpf -- check --release --pid 1").unwrap();
        let Some(Chore::Run(arguments)) = cli.chore else {
            panic!("not `run`: {cli:?}");
        };
        assert_eq!(arguments.words, ["check", "--release", "--pid", "1"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_status_2() {
        for line in [
            "xtask tset",
            "xtask check --typo",
            "xtask demo -- x",
            "xtask test --within soon",
            "xtask vm 4.19",
            "xtask bench all-of-it",
            "xtask build --toolchain-from gentoo",
        ] {
            let error = parsed(line).err().map(|error| error.exit_code());
            assert_eq!(error, Some(2), "{line}");
        }
    }

    #[test]
    fn options_may_stand_anywhere() {
        for line in [
            "xtask --toolchain-from debian test --unit name",
            "xtask test name --unit --toolchain-from=debian",
            "xtask vm 6.12 --report 5.10 --yes",
        ] {
            assert!(parsed(line).is_ok(), "{line}");
        }
    }
}
