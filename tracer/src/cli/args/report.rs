//! Arguments of the commands that show findings.

use clap::Args;

use super::ReportForm;
use crate::cli::{
    finding::{Detail, Style},
    output::{self, Paint},
    stack::Frames,
};

/// How a whole report is shown.
#[derive(Debug, Args)]
pub struct ReportArgs {
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
}

impl ReportArgs {
    /// The same for whoever writes the text, painted so.
    #[must_use]
    pub fn style(&self, paint: Paint) -> Style {
        Style {
            paint,
            width: output::width(),
            columns: output::columns(),
            detail: match self.verbose {
                true => Detail::Full,
                false => Detail::Short,
            },
            frames: self.frames.frames(),
        }
    }
}

/// Which frames of stacks to show.
#[derive(Debug, Default, Args)]
pub struct FrameArgs {
    /// Show every frame of stacks: those of libraries, the interpreter and the runtime, too
    #[arg(long)]
    pub all_frames: bool,
    /// Show paths as the build recorded them, not only what tells files apart
    #[arg(long)]
    pub full_paths: bool,
}

impl FrameArgs {
    /// The same for whoever draws stacks.
    #[must_use]
    pub fn frames(&self) -> Frames {
        Frames {
            all: self.all_frames,
            full_paths: self.full_paths,
        }
    }
}
