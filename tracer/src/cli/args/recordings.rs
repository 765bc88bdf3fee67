//! Arguments of the commands that write and read recordings.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{Check, ReportArgs};

/// Arguments of `record`.
#[derive(Debug, Args)]
pub struct Record {
    /// The recording: a file that is replaced. It has names of functions, files, hosts and routes,
    /// but no exact URLs, and can go into a bug report
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// How to watch, and what to do with the report.
    #[command(flatten)]
    pub check: Check,
}

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// The recording
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// What to show of the report.
    #[command(flatten)]
    pub shown: ReportArgs,
    /// Read this configuration (TOML) for the findings to hide
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
}
