//! Arguments of the commands that list what a daemon knows.

use std::time::Duration;

use clap::{Args, ValueEnum};
use kube::core::Selector;

use super::{EndpointArgs, kind_names};
use crate::cli::{selector, units};

/// Which namespaces to show.
#[derive(Debug, Default, Args)]
pub struct NamespaceArgs {
    /// Only findings in this Kubernetes namespace
    #[arg(short, long, value_name = "NS")]
    pub namespace: Option<String>,
    /// Only findings in pods with these labels, such as `app=web,tier!=cache,env in (a, b)`; known to
    /// daemons with --kube
    #[arg(short = 'l', long, value_name = "SELECTOR", value_parser = selector::parse)]
    pub selector: Option<Selector>,
    /// Findings in all namespaces, which is the default
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

/// Arguments of `top`.
#[derive(Debug, Args)]
pub struct Top {
    /// Where the daemons are.
    #[command(flatten)]
    pub endpoints: EndpointArgs,
    /// Which namespaces.
    #[command(flatten)]
    pub namespaces: NamespaceArgs,
    /// Only findings in this process (host pid)
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Only findings in processes whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub process: Option<String>,
    /// Only findings in pods whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub pod: Option<String>,
    /// Only findings of this kind (may be repeated)
    #[arg(long, value_name = "KIND", value_parser = kind_names())]
    pub kind: Vec<String>,
    /// Only findings whose remote or URL contains this
    #[arg(long, value_name = "TEXT")]
    pub remote: Option<String>,
    /// Which findings come first
    #[arg(long, value_name = "BY", value_enum, default_value_t = SortBy::Leaked)]
    pub sort_by: SortBy,
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
    /// Keep watching in a live view (q ends it)
    #[arg(short, long)]
    pub watch: bool,
    /// Form of the list
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = ListForm::Table)]
    pub output: ListForm,
}

/// Arguments of `connections`.
#[derive(Debug, Args)]
pub struct ConnectionsArgs {
    /// Where the daemons are.
    #[command(flatten)]
    pub endpoints: EndpointArgs,
    /// Only sockets opened or held by this process (host pid)
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Only sockets of processes whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub process: Option<String>,
    /// Only sockets of this Kubernetes namespace
    #[arg(short, long, value_name = "NS")]
    pub namespace: Option<String>,
    /// Sockets of all namespaces, which is the default
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Only sockets of pods whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub pod: Option<String>,
    /// Only sockets in this state, such as established or close_wait
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Only sockets whose remote or URL contains this
    #[arg(long, value_name = "TEXT")]
    pub remote: Option<String>,
    /// Only sockets whose call site (function or file) contains this
    #[arg(long, value_name = "TEXT")]
    pub call_site: Option<String>,
    /// Only sockets open for at least this long
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    pub older_than: Option<Duration>,
    /// Only sockets without a transfer for at least this long
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    pub idle: Option<Duration>,
    /// Which sockets come first
    #[arg(long, value_name = "BY", value_enum, default_value_t = ConnectionSort::Age)]
    pub sort_by: ConnectionSort,
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Keep watching: show the list anew every two seconds (Ctrl-C ends it)
    #[arg(short, long)]
    pub watch: bool,
    /// Form of the list
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = ListForm::Table)]
    pub output: ListForm,
}

/// Forms of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListForm {
    /// The columns that fit a terminal
    Table,
    /// All columns
    Wide,
    /// One document
    Json,
    /// One document per line and row
    Jsonl,
    /// The columns of wide
    Csv,
}

/// Orders of findings; the first is the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    /// Most outlived connections first
    Leaked,
    /// Fastest growth first
    Rate,
    /// Oldest connection first
    Age,
    /// Most open connections first
    Open,
}

/// Orders of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConnectionSort {
    /// Oldest first
    Age,
    /// Longest without a transfer first
    Idle,
    /// By process, then age
    Pid,
}

impl SortBy {
    /// Its name, as `--sort-by` takes it.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
