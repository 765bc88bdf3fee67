//! Arguments of `profile`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::EndpointArgs;

/// Arguments of `profile`.
#[derive(Debug, Args)]
pub struct Profile {
    /// Profile what this recording has, do not ask a daemon
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath,
        conflicts_with_all = ["endpoint", "token_file", "timeout", "kube"])]
    pub from: Option<PathBuf>,
    /// Where the daemons are.
    #[command(flatten)]
    pub endpoints: EndpointArgs,
    /// Form of the profile
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = ProfileForm::Pprof)]
    pub output: ProfileForm,
}

/// Forms of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProfileForm {
    /// pprof's format, compressed: samples are `open` and `leaked` connections
    Pprof,
    /// A line for each stack, outermost first, and the number of open connections
    Folded,
}
