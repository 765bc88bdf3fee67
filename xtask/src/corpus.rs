//! `cargo xtask corpus`: the labelled programs under `tracer check`, as root.

use std::{os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    args::Args,
    build::{self, Profile},
    setup, sh,
};

/// Builds tracer and the runner, and becomes the runner.
pub fn main(mut args: Args) -> Result<ExitCode> {
    let options = setup::Options::take(&mut args)?;
    let mut words = Vec::new();
    for flag in ["--seconds", "--jobs", "--save"] {
        if let Some(value) = args.value(flag)? {
            words.extend([flag.to_owned(), value]);
        }
    }
    words.extend(args.positional());
    args.finish()?;
    let ready = setup::to_build(options)?;
    let programs = build::programs(&ready, Profile::default())?;
    let runner = build::find(&programs, "corpus")?;
    let mut command = sh::as_root(&runner);
    command
        .args(words)
        .env("TRACER_BIN", build::find(&programs, "tracer")?);
    // replaces this process, so that signals and the exit status are the runner's own
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", runner.display()))
}
