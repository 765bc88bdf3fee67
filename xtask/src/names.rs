//! `cargo xtask names`: the table of clients, servers and by what names their connections are known.

use std::{os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{build, setup, sh};

/// By what names the connections of real clients of real servers are known, as root
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only rows with one of these words in them
    #[arg(value_name = "WORD")]
    words: Vec<String>,
}

/// Builds tracer and the tests, and becomes the one that prints the table.
pub fn main(arguments: Arguments, options: setup::Options) -> Result<ExitCode> {
    let ready = setup::to_test(&setup::to_build(options)?, options, true)?;
    let programs = build::with_tests(&ready)?;
    let tests = programs
        .iter()
        .find(|program| program.is_test && program.target == "behaviour")
        .map(|program| program.path.clone())
        .context("cargo built no behaviour tests")?;
    let error = sh::as_root("env")
        .arg(format!(
            "TRACER_BIN={}",
            build::find(&programs, "tracer")?.display()
        ))
        .arg("TRACER_TEST_FULL=1")
        .arg(format!("TRACER_NAMES={}", arguments.words.join(" ")))
        .arg(&tests)
        .arg("clients::")
        .exec();
    Err(error).with_context(|| format!("cannot start {}", tests.display()))
}
