//! The `tracer` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else is read or opened: a reader has nothing but its question.
    if let Some(status) = tracer::reader::run_if_asked() {
        return status;
    }
    tracer::cli::run()
}
