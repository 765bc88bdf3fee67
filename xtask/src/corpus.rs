//! `cargo xtask corpus`: the labelled programs under `tracer check`, as root.

use std::{os::unix::process::CommandExt as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    build::{self, Profile},
    setup, sh,
};

/// How often tracer is right about the labelled programs of tests/corpus, as root
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only programs with one of these in their name
    #[arg(value_name = "PART-OF-A-NAME")]
    names: Vec<String>,
    /// How long each is watched
    #[arg(long, default_value_t = 45)]
    seconds: u64,
    /// How many are watched at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Keep what tracer said of each, as JSON
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Neither measure the time to a verdict nor settle what is inconclusive
    #[arg(long)]
    once: bool,
    /// Judge histories of hours instead, recorded ones and made ones; needs no root
    #[arg(long)]
    histories: bool,
    /// Keep the sentences said, which somebody is about to read
    #[arg(long)]
    approve: bool,
}

/// Builds tracer and the runner, and becomes the runner.
pub fn main(arguments: Arguments, options: setup::Options) -> Result<ExitCode> {
    let ready = setup::to_build(options)?;
    if arguments.histories {
        let mut command = sh::cargo();
        if let Some(toolchain) = &ready.ebpf_toolchain {
            command.env("TRACER_EBPF_TOOLCHAIN", toolchain);
        }
        command
            .args([
                "test",
                "--package",
                "tracer",
                "--lib",
                "--quiet",
                "corpus::histories",
            ])
            .args(["--", "--nocapture"]);
        sh::run(&mut command)?;
        return Ok(ExitCode::SUCCESS);
    }
    let programs = build::programs(&ready, Profile::default())?;
    let runner = build::find(&programs, "corpus")?;
    let mut command = sh::as_root(&runner);
    if let Some(file) = &arguments.save {
        command.arg("--save").arg(file);
    }
    for (flag, asked) in [("--once", arguments.once), ("--approve", arguments.approve)] {
        if asked {
            command.arg(flag);
        }
    }
    command
        .args(["--seconds", &arguments.seconds.to_string()])
        .args(["--jobs", &arguments.jobs.to_string()])
        .args(arguments.names)
        .env("TRACER_BIN", build::find(&programs, "tracer")?);
    // replaces this process, so that signals and the exit status are the runner's own
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", runner.display()))
}
