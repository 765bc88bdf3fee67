//! The `tracer` command: arguments in, answers on stdout, messages on stderr, exit status.

mod args;
mod baseline;
mod check;
mod client;
mod columns;
mod command;
mod completions;
mod connections;
mod describe;
mod doctor;
mod explain;
mod finding;
mod findings;
mod fit;
mod fleet;
mod live;
mod man;
mod merge;
mod output;
mod pods;
mod preflight;
mod profile;
mod replay;
mod selector;
mod serve;
mod shorter;
mod signals;
mod stack;
mod target;
mod text;
mod top;
mod units;
mod users;
mod watch;
mod words;

use std::{fmt, process::ExitCode};

use clap::Parser as _;

use self::args::{Cli, Command};
use crate::session::StartError;

/// Exit status of a failure without a status of its own.
pub const STATUS_FAILURE: u8 = 1;
/// Exit status of wrong usage: arguments, targets and files that are not there.
pub const STATUS_USAGE: u8 = 2;
/// Exit status of an unsupported kernel or architecture, or a missing privilege.
pub const STATUS_UNSUPPORTED: u8 = 3;
/// Exit status of `check --exit-code` when there are leaks.
pub const STATUS_LEAK: u8 = 4;
/// Exit status of `check --exit-code` when it could not be settled.
pub const STATUS_INCONCLUSIVE: u8 = 5;

/// An error with the exit status it leads to.
#[derive(Debug)]
pub struct Failure {
    /// Exit status of the command.
    pub status: u8,
    error: anyhow::Error,
}

impl Failure {
    /// Wrong usage: says what was wrong and what to do.
    #[must_use]
    pub fn usage(message: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Failure {
        Failure {
            status: STATUS_USAGE,
            error: anyhow::Error::msg(message),
        }
    }

    /// Anything else that went wrong.
    #[must_use]
    pub fn failed(message: impl fmt::Display + fmt::Debug + Send + Sync + 'static) -> Failure {
        Failure::from(anyhow::Error::msg(message))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure {
            status: STATUS_FAILURE,
            error,
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Failure {
        Failure {
            status: match error {
                StartError::Unsupported(_) => STATUS_UNSUPPORTED,
                StartError::Target(_) => STATUS_USAGE,
                StartError::Failed(_) => STATUS_FAILURE,
            },
            error: error.into(),
        }
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn run() -> ExitCode {
    let mut cli = match args::is_plugin() {
        true => Cli::as_plugin(),
        false => Cli::parse(),
    };
    #[cfg(feature = "ebpf-log")]
    output::log_to_stderr("warn,ebpf=debug");
    if let Err(failure) = cli.prepare() {
        output::note(&failure.to_string());
        return ExitCode::from(failure.status);
    }
    let result = match cli.command {
        Command::Check(args) => check::run(&args, None),
        Command::Record(args) => check::run(&args.check, Some(&args.file)),
        Command::Replay(args) => replay::run(&args),
        Command::Daemon(args) => serve::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Describe(args) => describe::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Connections(args) => connections::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Completions { shell } => completions::run(shell).map(|()| 0),
        Command::Man(args) => man::run(&args).map(|()| 0),
        Command::Complete { what, endpoints } => {
            completions::candidates(what, &endpoints).map(|()| 0)
        }
    };
    let status = result.unwrap_or_else(|failure| {
        output::note(&failure.to_string());
        failure.status
    });
    ExitCode::from(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_errors_have_the_status_of_the_contract() {
        let status = |error| Failure::from(error).status;
        assert_eq!(status(StartError::Unsupported("x".into())), 3);
        assert_eq!(status(StartError::Target("x".into())), 2);
        assert_eq!(status(StartError::Failed("x".into())), 1);
    }
}
