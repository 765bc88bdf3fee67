//! The command line: one definition gives parsing, `--help`, completions and the man page.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint, builder::PossibleValuesParser};

mod daemon;
mod endpoints;
mod lists;
mod plugin;
mod profile;
mod recordings;
mod report;

pub use self::{
    daemon::Daemon,
    endpoints::{AskArgs, EndpointArgs},
    lists::{ConnectionSort, ConnectionsArgs, ListForm, NamespaceArgs, SortBy, Top},
    plugin::is_plugin,
    profile::{Profile, ProfileForm},
    recordings::{Record, Replay},
    report::{FrameArgs, ReportArgs},
};
use super::units;
use crate::{
    engine::kinds,
    kernel::plan::{BACKENDS, SYSCALLS},
};

const EXIT_STATUS: &str = "\
Exit status:
  0  fine
  1  failure
  2  wrong usage, or a target or file that is not there
  3  unsupported kernel or architecture, or a missing privilege (it is named)
  4  with --exit-code: leaks found (with --baseline: new or faster ones)
  5  with --exit-code: inconclusive
With -- COMMAND it is the command's own: 127 not found, 126 not executable, 128+n killed by signal n.";

const EXAMPLES: &str = "\
Examples:
  tracer check --pid 4711 --duration 2m    watch one process and its children
  tracer check -- ./server --port 8080     start a program and watch it to its end
  tracer daemon --listen 9090              watch the whole node, with /metrics
  tracer top -w                            the worst leaks of a running daemon, live";

/// Finds connection leaks in running programs, from outside: which sockets stay open, which line
/// opened or last used them, and to which URL.
#[derive(Debug, Parser)]
#[command(name = "tracer", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// It runs as kubectl's plugin.
    #[arg(skip)]
    pub plugin: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch a target for a while and say whether it leaks; needs no daemon
    #[command(after_help = EXIT_STATUS)]
    Check(Check),
    /// Watch as `check` does, and keep what was seen in a file for `replay`
    #[command(after_help = EXIT_STATUS)]
    Record(Record),
    /// Judge a recording anew; needs no kernel and no privileges
    #[command(after_help = EXIT_STATUS)]
    Replay(Replay),
    /// Watch the whole node (or a target) and serve findings, connections and metrics
    Daemon(Daemon),
    /// Show the worst leaks that a daemon knows
    Top(Top),
    /// Show everything known about one finding
    Describe(Describe),
    /// List the open sockets: owner, age, idle time, state, call site, remote
    Connections(ConnectionsArgs),
    /// Write the open connections by stack, for `go tool pprof`, Pyroscope or flame graphs
    Profile(Profile),
    /// Say what this kernel and these privileges allow, and what is lost without the rest
    Doctor(DoctorArgs),
    /// Say what a kind of leak is, what looks like it and is healthy, and what to change
    Explain(Explain),
    /// Print a completion script for a shell
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff), or that of one command
    Man(Manual),
    /// Print what a shell may complete
    #[command(hide = true)]
    Complete {
        /// Of what.
        #[arg(value_enum)]
        what: Complete,
        /// Where the daemons are.
        #[command(flatten)]
        endpoints: EndpointArgs,
    },
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct Manual {
    /// The command whose page to print [default: all on one page]
    pub command: Option<String>,
    /// Write a page for each command into this directory instead
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "command")]
    pub dir: Option<PathBuf>,
}

/// What a shell may complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Complete {
    /// Ids of findings that a daemon knows.
    Ids,
    /// Processes.
    Pids,
}

/// Whom to watch; the whole host when nothing is given.
#[derive(Debug, Default, Args)]
#[group(id = "where", multiple = true)]
pub struct TargetArgs {
    /// Watch this process and its children (host pid; may be repeated)
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..),
        conflicts_with_all = ["cgroup", "container"])]
    pub pid: Vec<u32>,
    /// Watch the processes of this cgroup directory, such as
    /// /sys/fs/cgroup/system.slice/app.service
    #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath, conflicts_with = "container")]
    pub cgroup: Option<PathBuf>,
    /// Watch this container (its id, or the first 12 digits or more of it)
    #[arg(long, value_name = "ID")]
    pub container: Option<String>,
}

/// How to attach; rarely needed.
#[derive(Debug, Default, Args)]
pub struct AttachArgs {
    /// Kernel type information to use in place of /sys/kernel/btf/vmlinux
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub btf: Option<PathBuf>,
    /// Use this kind of hook only
    #[arg(long, value_name = "KIND", hide = true, value_parser = BACKENDS)]
    pub backend: Option<String>,
    /// Leave this out (may be repeated); tells what it costs
    #[arg(long, value_name = "PART", hide = true, value_parser = ["send", "receive", "heads", "stacks", "request-stacks", "go", "tls"])]
    pub without: Vec<String>,
    /// Where the kernel offers nothing better, watch sends, receives and accepts at every system
    /// call of the whole host; what that costs is measured and printed
    #[arg(long)]
    pub trace_syscalls: bool,
}

impl AttachArgs {
    /// Whether to sit on every system call where need be.
    #[must_use]
    pub fn trace_syscalls(&self) -> bool {
        self.trace_syscalls || self.backend.as_deref() == Some(SYSCALLS)
    }
}

/// How much to track, and what of it to show.
#[derive(Debug, Default, Args)]
pub struct RoomArgs {
    /// Track at most this many sockets at one time; further ones are counted [default: 262144]
    ///
    /// Each takes about 180 bytes of kernel memory from the start, used or not.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOST_SOCKETS))]
    pub max_sockets: Option<u32>,
    /// Keep no requests as examples, only routes: /users/{}/orders, not /users/alice/orders
    #[arg(long)]
    pub no_examples: bool,
}

/// Most that can be asked for; about 3 GB of kernel memory.
const MOST_SOCKETS: i64 = 1 << 24;

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Whom to watch.
    #[command(flatten)]
    pub target: TargetArgs,
    /// How long to watch: 60, 60s, 5m, 1h [default: 60s; to its end with -- COMMAND]
    #[arg(long, short = 'd', value_name = "TIME", value_parser = units::parse_duration)]
    pub duration: Option<Duration>,
    /// End the watch as soon as a leak of high confidence is found
    #[arg(long)]
    pub until_found: bool,
    /// What to show of the report.
    #[command(flatten)]
    pub shown: ReportArgs,
    /// Compare with a result kept by --save: which findings are new, gone, slower, faster
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub baseline: Option<PathBuf>,
    /// Keep the result (JSON) for a later --baseline
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub save: Option<PathBuf>,
    /// Write the report here, not to stdout (or stderr with -- COMMAND)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,
    /// Read this configuration (TOML): rules of blame, findings to hide, sockets tracked
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Ask Java programs (JDK 17 or later) for the names of their compiled code, as `jcmd PID
    /// Compiler.perfmap` does: each writes /tmp/perf-PID.map
    #[arg(long)]
    pub ask_jvms: bool,
    /// Run COMMAND as this user (name or number); needs root
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Username, requires = "command")]
    pub user: Option<String>,
    /// How much to track.
    #[command(flatten)]
    pub room: RoomArgs,
    /// How to attach.
    #[command(flatten)]
    pub attach: AttachArgs,
    /// Start this command and watch it to its end; its input, output and exit status stay its own
    #[arg(last = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments,
        conflicts_with_all = ["pid", "cgroup", "container"])]
    pub command: Vec<OsString>,
}

/// Arguments of `describe`.
#[derive(Debug, Args)]
pub struct Describe {
    /// The finding's id, or its first digits
    pub id: String,
    /// Write a block that can be pasted into an issue
    #[arg(long, conflicts_with = "output")]
    pub markdown: bool,
    /// Ask this recording, not a daemon
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath,
        conflicts_with_all = ["endpoint", "token_file", "timeout", "kube"])]
    pub from: Option<PathBuf>,
    /// Which frames.
    #[command(flatten)]
    pub frames: FrameArgs,
    /// Where the daemons are.
    #[command(flatten)]
    pub endpoints: EndpointArgs,
    /// Form of the answer
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = ReportForm::Table)]
    pub output: ReportForm,
}

/// The kinds, by name.
fn kind_names() -> PossibleValuesParser {
    PossibleValuesParser::new(kinds::ALL.iter().map(|spec| spec.kind.name()))
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The kind, as findings name it; all of them, when nothing is given
    #[arg(value_name = "KIND", value_parser = kind_names())]
    pub kind: Option<String>,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Ask these daemons what they have attached, rather than this machine what it allows
    #[arg(long, value_name = "ENDPOINT", value_delimiter = ',')]
    pub endpoint: Vec<String>,
    /// How to ask.
    #[command(flatten)]
    pub ask: AskArgs,
    /// How to attach.
    #[command(flatten)]
    pub attach: AttachArgs,
    /// Form of the answer
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = ReportForm::Table)]
    pub output: ReportForm,
}

/// Forms of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReportForm {
    /// For people.
    Table,
    /// For programs (docs/schema).
    Json,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["tracer"], args].concat())
    }

    fn check(args: &[&str]) -> Check {
        match parse(&[&["check"], args].concat()).unwrap().command {
            Command::Check(check) => check,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn check_knows_all_targets() {
        assert_eq!(check(&["--pid", "1", "--pid", "2"]).target.pid, [1, 2]);
        assert!(
            check(&["--cgroup", "/sys/fs/cgroup/a"])
                .target
                .cgroup
                .is_some()
        );
        assert!(
            check(&["--container", "4f1d0a5c9b8e"])
                .target
                .container
                .is_some()
        );
        let command = check(&["--user", "nobody", "--", "curl", "-o", "json", "--pid"]);
        assert_eq!(command.command, ["curl", "-o", "json", "--pid"]);
        assert_eq!(command.shown.output, ReportForm::Table);
        assert!(check(&[]).command.is_empty());
    }

    #[test]
    fn targets_exclude_each_other() {
        for args in [
            &["--pid", "1", "--cgroup", "/x"][..],
            &["--pid", "1", "--container", "4f1d0a5c9b8e"],
            &["--cgroup", "/x", "--container", "4f1d0a5c9b8e"],
            &["--pid", "1", "--", "true"],
            &["--user", "nobody"],
        ] {
            let error = parse(&[&["check"], args].concat()).unwrap_err();
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::ArgumentConflict | ErrorKind::MissingRequiredArgument
                ),
                "{args:?}: {error}"
            );
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn damaged_values_are_usage_errors() {
        for args in [
            &["check", "--pid", "0"][..],
            &["check", "--pid", "-4"],
            &["check", "--pid", "x"],
            &["check", "--duration", "soon"],
            &["check", "--duration", "0"],
            &["check", "-o", "xml"],
            &["top", "--sort-by", "name"],
            &["describe"],
            &["nosuch"],
            &[],
        ] {
            assert_eq!(parse(args).unwrap_err().exit_code(), 2, "{args:?}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(
            check(&["--duration", "5m"]).duration,
            Some(Duration::from_secs(300))
        );
        assert_eq!(check(&["-d", "60"]).duration, Some(Duration::from_secs(60)));
        assert_eq!(check(&[]).duration, None);
    }

    #[test]
    fn every_command_has_help_and_every_option_a_sentence() {
        for command in Cli::command().get_subcommands_mut() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            let help = command.render_help().to_string();
            assert!(help.contains("Usage:"), "{help}");
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                assert!(
                    arg.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    arg.get_id()
                );
            }
        }
        let mut cli = Cli::command();
        let check = cli.find_subcommand_mut("check").unwrap();
        let help = check.render_long_help().to_string();
        for word in [
            "--pid",
            "--cgroup",
            "--container",
            "COMMAND",
            "127",
            "--baseline",
            "--report",
        ] {
            assert!(help.contains(word), "{word} is missing:\n{help}");
        }
        assert!(!help.contains("--backend"), "{help}");
    }

    #[test]
    fn endpoints_repeat_or_come_as_a_list() {
        let args = parse(&["top", "--endpoint", "a:1,b:2", "--endpoint", "/run/x.sock"]).unwrap();
        let Command::Top(top) = args.command else {
            panic!("not top")
        };
        assert_eq!(top.endpoints.endpoint, ["a:1", "b:2", "/run/x.sock"]);
        assert_eq!(top.limit, 20);
    }
}
