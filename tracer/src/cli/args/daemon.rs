//! Arguments of `daemon`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{AttachArgs, RoomArgs, TargetArgs};

/// Arguments of `daemon`.
#[derive(Debug, Args)]
pub struct Daemon {
    /// Whom to watch.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Read this configuration (TOML); the command line wins over it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Serve on this TCP address too; a port alone means 127.0.0.1
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<String>,
    /// Open the whole API over TCP to who has a token of this file (one a line); without, there
    /// are only /metrics, /healthz and /readyz
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,
    /// Serve requests over TCP that are addressed to this name, too (may be repeated); addresses,
    /// the host's own name and a cluster's names are served anyway
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// Serve on this UNIX socket [default: /run/tracer/tracer.sock]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
    /// Keep what is collected in this directory of a BPF file system, such as
    /// /sys/fs/bpf/tracer: the probes go on while no daemon runs, and the next one takes over.
    /// They go with the directory: rm -r
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub pin: Option<PathBuf>,
    /// Ask Java programs (JDK 17 or later) for the names of their compiled code, as `jcmd PID
    /// Compiler.perfmap` does: each writes /tmp/perf-PID.map
    #[arg(long)]
    pub ask_jvms: bool,
    /// Label the metrics as in 0.1: leaked connections by kind and call site only, descriptors by
    /// process; goes with the next release
    #[arg(long)]
    pub former_metric_labels: bool,
    /// Tell this address (http://HOST:PORT/PATH) of each change in a finding's life, as JSON: new, worse,
    /// resolved, back. Without examples of requests, and without TLS
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub webhook: Option<String>,
    /// Tell this collector (http://HOST:4318) of the same, as log records of OpenTelemetry's OTLP over HTTP
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub otlp: Option<String>,
    /// Ask the Kubernetes API server about this node's pods (see --node): workloads, labels, and which are
    /// annotated to be left alone. One watch, of metadata only
    #[arg(long)]
    pub kube: bool,
    /// Ask the Kubernetes API server for the names of remote addresses: of services, and of the pods behind
    /// them. Each daemon follows all services and endpoint slices of the cluster. Needs no --node, and goes
    /// with or without --kube
    #[arg(long)]
    pub kube_remotes: bool,
    /// Name of the cluster's node: told with each change, and whose pods --kube asks for
    #[arg(long, value_name = "NAME", env = "TRACER_NODE")]
    pub node: Option<String>,
    /// How much to track.
    #[command(flatten)]
    pub room: RoomArgs,
    /// How to attach.
    #[command(flatten)]
    pub attach: AttachArgs,
}
