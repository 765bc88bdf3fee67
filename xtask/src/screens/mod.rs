//! `cargo xtask screens`: what people see, taken from real runs and kept in `docs/screens`.

mod page;
mod terminal;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;

use crate::{
    build::{self, Executable, Profile},
    setup, sh,
};

/// Where they are kept, below the workspace's top folder.
const FOLDER: &str = "docs/screens";

/// Takes one set of screens.
type Take = fn(&Studio) -> Result<()>;

/// The sets of screens by name; one file here for each.
const SETS: &[(&str, Take)] = &[("terminal", terminal::take), ("page", page::take)];

/// Take the screens in docs/screens again, from programs that leak over loopback, as root
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these sets
    #[arg(value_name = "SET", value_parser = SETS.iter().map(|(name, _)| *name).collect::<Vec<_>>())]
    sets: Vec<String>,
}

/// What a set is taken with.
struct Studio {
    /// tracer and the fixture programs.
    programs: Vec<Executable>,
    /// Where screens go.
    folder: PathBuf,
}

impl Studio {
    /// The path of a program.
    fn program(&self, name: &str) -> Result<PathBuf> {
        build::find(&self.programs, name)
    }

    /// Where screens go.
    fn folder(&self) -> &Path {
        &self.folder
    }
}

/// `cargo xtask screens`.
pub fn main(arguments: Arguments, options: setup::Options) -> Result<ExitCode> {
    let ready = setup::to_build(options)?;
    let studio = Studio {
        programs: build::programs(&ready, Profile::default())?,
        folder: sh::root().join(FOLDER),
    };
    for (name, take) in SETS {
        let asked = &arguments.sets;
        if asked.is_empty() || asked.iter().any(|set| set == name) {
            sh::step(&format!("taking the screens `{name}`"), || take(&studio))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
