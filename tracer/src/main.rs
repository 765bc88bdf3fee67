//! The `tracer` command.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tracer::Wiping = tracer::Wiping;

fn main() -> ExitCode {
    // Before anything else is read or opened: a reader has nothing but its question.
    if let Some(status) = tracer::run_reader_if_asked() {
        return status;
    }
    tracer::run()
}
