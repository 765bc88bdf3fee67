//! `tracer daemon`: command line and configuration file into the daemon's settings.

use std::{num::NonZeroU32, path::PathBuf};

use super::{Failure, STATUS_FAILURE, args::Daemon, output, preflight, target};
use crate::{
    cluster::{self, Wanted},
    config::{Config, Listen, parse_listen},
    daemon,
    daemon::{
        Error, SOCKET_DEFAULT, Settings,
        access::Access,
        metrics::Labels,
        outward::{Destination, DestinationError, Destinations},
    },
    session::{MAX_SOCKETS, Options},
};

/// Runs the daemon until it is told to end.
///
/// # Errors
/// [`Failure`] with the status of the contract.
pub fn run(args: &Daemon) -> Result<u8, Failure> {
    let settings = settings(args)?;
    preflight::check(&args.attach)?;
    output::log_to_stderr("info");
    match daemon::run(settings) {
        Ok(()) => Ok(0),
        Err(Error::Start(error)) => Err(error.into()),
        Err(error @ (Error::Socket(_) | Error::Listen { .. } | Error::Token(_))) => {
            Err(Failure::usage(error.to_string()))
        }
        Err(
            error @ (Error::Broken(_) | Error::Ended | Error::Privileges(_) | Error::Runtime(_)),
        ) => Err(Failure {
            status: STATUS_FAILURE,
            error: error.into(),
        }),
    }
}

fn settings(args: &Daemon) -> Result<Settings, Failure> {
    let config = match &args.config {
        Some(path) => Config::load(path).map_err(|e| Failure::usage(e.to_string()))?,
        None => Config::default(),
    };
    let listen = match &args.listen {
        Some(text) => {
            Some(parse_listen(text).map_err(|e| Failure::usage(format!("--listen: {e}")))?)
        }
        None => config.listen.map(|Listen(address)| address),
    };
    let rules = config.rules();
    let webhook = destination("--webhook", args.webhook.as_ref(), config.webhook.as_ref())?;
    let otlp = destination("--otlp", args.otlp.as_ref(), config.otlp.as_ref())?;
    let cluster = cluster(args, &config)?;
    let socket = args.socket.clone().or(config.socket);
    Ok(Settings {
        options: Options {
            target: target::resolve(&args.target)?,
            backend: args.attach.backend.clone(),
            without: args.attach.without.clone(),
            max_sockets: (args
                .room
                .max_sockets
                .or(config.max_sockets.map(NonZeroU32::get)))
            .unwrap_or(MAX_SOCKETS),
            rules,
            debug_directories: config.debug_directories,
            host_root: config.host_root,
            cluster: None,
            remotes: None,
            opted_out: config.ignore.namespaces.clone(),
            ask_jvms: args.ask_jvms || config.ask_jvms,
            patient: false,
            examples: !args.room.no_examples && config.examples.unwrap_or(true),
            trace_syscalls: args.attach.trace_syscalls(),
            btf: args.attach.btf.clone(),
            pin: args.pin.clone().or(config.pin),
            record: None,
        },
        socket: socket.unwrap_or_else(|| PathBuf::from(SOCKET_DEFAULT)),
        listen,
        access: Access {
            token_file: args.token_file.clone().or(config.token_file),
            allowed_hosts: [args.allow_host.clone(), config.allow_hosts].concat(),
        },
        cluster,
        ignore: config.ignore,
        labels: match args.former_metric_labels || config.former_metric_labels {
            true => Labels::Former,
            false => Labels::Present,
        },
        destinations: Destinations {
            webhook,
            otlp: otlp.map(Destination::for_logs),
            node: args.node.clone().filter(|node| !node.is_empty()),
        },
    })
}

/// What to ask the cluster, where the command line or the configuration wants something of it.
fn cluster(args: &Daemon, config: &Config) -> Result<Option<Wanted>, Failure> {
    let pods = args.kube || config.kubernetes.pods;
    let remotes = args.kube_remotes || config.kubernetes.remotes;
    if !pods && !remotes {
        return Ok(None);
    }
    let node = args.node.clone().filter(|node| !node.is_empty());
    if pods && node.is_none() {
        return Err(Failure::usage(
            "--kube asks for the pods of one node: say its name with --node or TRACER_NODE",
        ));
    }
    let from_environment = || std::env::var_os("KUBECONFIG").map(PathBuf::from);
    let kubeconfig = config.kubernetes.kubeconfig.clone();
    Ok(Some(Wanted {
        access: cluster::Access {
            kubeconfig: kubeconfig.or_else(from_environment),
        },
        pods_of: node.filter(|_| pods),
        remotes,
    }))
}

/// Where to send to, by an option or else by the configuration's key of that name.
fn destination(
    option: &str,
    given: Option<&String>,
    configured: Option<&String>,
) -> Result<Option<Destination>, Failure> {
    let parse = |text: &String| {
        let wrong =
            |error: DestinationError| Failure::usage(format!("{option}: this address {error}"));
        text.parse().map_err(wrong)
    };
    given.or(configured).map(parse).transpose()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn parse(args: &[&str]) -> Daemon {
        let cli = Cli::try_parse_from([&["tracer", "daemon"], args].concat()).unwrap();
        match cli.command {
            Command::Daemon(daemon) => daemon,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "listen = 9090\nsocket = \"/run/a.sock\"\n").unwrap();
        let config = file.path().to_str().unwrap();
        let from_file = settings(&parse(&["--config", config])).unwrap();
        assert_eq!(from_file.listen.unwrap().to_string(), "127.0.0.1:9090");
        assert_eq!(from_file.socket, PathBuf::from("/run/a.sock"));
        let args = [
            "--config",
            config,
            "--listen",
            "[::1]:1",
            "--socket",
            "/run/b.sock",
        ];
        let from_args = settings(&parse(&args)).unwrap();
        assert_eq!(from_args.listen.unwrap().to_string(), "[::1]:1");
        assert_eq!(from_args.socket, PathBuf::from("/run/b.sock"));
        let nothing = settings(&parse(&[])).unwrap();
        assert!(nothing.options.examples && from_args.options.examples);
        assert_eq!(nothing.listen, None);
        assert_eq!(nothing.socket, PathBuf::from(SOCKET_DEFAULT));
    }

    #[test]
    fn either_of_them_does_without_examples() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "examples = false\n").unwrap();
        let config = file.path().to_str().unwrap();
        for args in [&["--config", config][..], &["--no-examples"]] {
            assert!(
                !settings(&parse(args)).unwrap().options.examples,
                "{args:?}"
            );
        }
    }

    #[test]
    fn the_cluster_is_asked_for_what_is_wanted_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[kubernetes]\nremotes = true\n").unwrap();
        let config = file.path().to_str().unwrap();
        let wanted = |args: &[&str]| settings(&parse(args)).unwrap().cluster;
        assert_eq!(wanted(&["--node", "n1"]), None);
        for args in [&["--config", config][..], &["--kube-remotes"]] {
            let wanted = wanted(args).unwrap();
            assert_eq!((wanted.pods_of, wanted.remotes), (None, true), "{args:?}");
        }
        let both = wanted(&["--kube", "--kube-remotes", "--node", "n1"]).unwrap();
        assert_eq!((both.pods_of.as_deref(), both.remotes), (Some("n1"), true));
        let pods = wanted(&["--kube", "--node", "n1"]).unwrap();
        assert_eq!((pods.pods_of.as_deref(), pods.remotes), (Some("n1"), false));
        let failure = settings(&parse(&["--kube", "--node", ""])).unwrap_err();
        assert_eq!(failure.status, 2);
    }

    #[test]
    fn nobody_is_told_anything_unless_asked_for() {
        let nothing = settings(&parse(&[])).unwrap().destinations;
        assert_eq!((nothing.webhook, nothing.otlp), (None, None));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "webhook = \"http://a/\"\notlp = \"http://b:4318\"\n").unwrap();
        let config = file.path().to_str().unwrap();
        let both = settings(&parse(&["--config", config, "--webhook", "http://c/x"])).unwrap();
        let told = both.destinations;
        assert_eq!(told.webhook.unwrap().to_string(), "http://c");
        assert_eq!(told.otlp, "http://b:4318/v1/logs".parse().ok());
        let failure = settings(&parse(&["--webhook", "https://a/"])).unwrap_err();
        assert_eq!(failure.status, 2);
        assert!(failure.to_string().contains("--webhook"), "{failure}");
    }

    #[test]
    fn a_damaged_file_is_a_usage_error_with_line_and_key() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "\nlisen = 9090\n").unwrap();
        let failure = settings(&parse(&["--config", file.path().to_str().unwrap()])).unwrap_err();
        assert_eq!(failure.status, 2);
        let text = failure.to_string();
        assert!(text.contains("line 2") && text.contains("lisen"), "{text}");
    }
}
