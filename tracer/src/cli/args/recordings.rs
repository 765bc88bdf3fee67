//! Arguments of the commands that write and read recordings.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{Check, FrameArgs, ReportForm};

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
    /// Form of the report
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = ReportForm::Table)]
    pub output: ReportForm,
    /// Show everything that is known of each finding
    #[arg(short, long)]
    pub verbose: bool,
    /// Which frames.
    #[command(flatten)]
    pub frames: FrameArgs,
    /// Let the exit status tell the verdict: 4 for leaks, 5 for inconclusive
    #[arg(long)]
    pub exit_code: bool,
    /// Read this configuration (TOML) for the findings to hide
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
}
