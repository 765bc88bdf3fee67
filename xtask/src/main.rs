//! The project's chores: `cargo xtask help` lists them.

mod args;
mod bench;
mod build;
mod check;
mod corpus;
mod demo;
mod fuzz;
mod setup;
mod sh;
mod suites;
mod vm;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::{Args, UsageError};

const HELP: &str = "\
cargo xtask COMMAND

  setup [--tests] [--vm]    install what is missing to build (to test; to boot guests); harmless to repeat
  build [--release] [--static]
                            build the `tracer` command
  run [--release] [--log-ebpf] -- ARGS
                            build as this user, then run `tracer ARGS` as root (through sudo if need be);
                            with --log-ebpf or TRACER_EBPF_LOG=1 the eBPF programs say what they drop
  demo                      build, let a small program leak over loopback, and catch it
  test [--unit] [--full] [--within MINUTES] [FILTER]
                            unit tests and behaviour tests on this machine's kernel, a few in one guest
                            (--full: all versions of Go, and what depends on the kernel in every guest with each
                            backend; what has not begun there after MINUTES is skipped and said to be)
  vm [KERNEL…] [--only NAME,…] [--run 'CMD'] [--report] [--limit SECONDS]
                            boot Debian's kernels (5.10, 6.1, 6.12, 7) in QEMU and run the behaviour tests there,
                            or a shell command (`tracer` is on the path, the fixture programs are in /fixtures)
  corpus [PART-OF-A-NAME…] [--seconds 45] [--jobs 2] [--save FILE]
                            how often tracer is right about the labelled programs of tests/corpus, as root
  fuzz [TARGET…] [--seconds N]
                            random input for the parsers, 60 s for each; needs a nightly compiler
  check                     formatting, lints, documentation, file length, arrows between rooms, licences,
                            duplicate versions, advisories
  bench [--quick] [SECTION…]
                            measure what tracing costs, beside other tools, as root; written to docs/benchmarks.md

Anywhere: --toolchain-from active|nightly|rustup|debian
                            where the eBPF build takes the sources of `core` from (default: the first that has them)
";

fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => code,
        Err(error) if error.is::<UsageError>() => {
            eprintln!("xtask: {error}\n\n{HELP}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<ExitCode> {
    let mut args = Args::from_env();
    let Some(command) = args.command() else {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    match command.as_str() {
        "setup" => setup::main(args),
        "build" => build::main(args),
        "run" => build::run(args),
        "test" => suites::main(args),
        "check" => check::main(args),
        "demo" => demo::main(args),
        "corpus" => corpus::main(args),
        "fuzz" => fuzz::main(args),
        "vm" => vm::main(args),
        "bench" => bench::main(args),
        "help" | "-h" | "--help" => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        other => Err(UsageError(format!("there is no command `{other}`")).into()),
    }
}
