//! The daemon's configuration file (TOML), and the ignore list it may hold.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use crate::{
    findings,
    report::{Finding, Report},
    symbols::blame::Rule,
};

/// The file's content. Every key may be left out; unknown keys are refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// TCP address to serve on as well: `ADDR:PORT`, or a port alone for 127.0.0.1.
    pub listen: Option<Listen>,
    /// File with the tokens, one a line, that open the whole API over TCP.
    pub token_file: Option<PathBuf>,
    /// Names that requests over TCP may be addressed to, besides addresses and the host's own.
    #[serde(default)]
    pub allow_hosts: Vec<String>,
    /// UNIX socket to serve on.
    pub socket: Option<PathBuf>,
    /// Most sockets tracked at one time.
    pub max_sockets: Option<NonZeroU32>,
    /// Directory on a BPF file system where what is collected outlives the daemon.
    pub pin: Option<PathBuf>,
    /// Directories with split debug information (`.build-id` in them), looked into before
    /// `/usr/lib/debug`.
    #[serde(default)]
    pub debug_directories: Vec<PathBuf>,
    /// The root of the host, below which the kubelet's folders of logs name pods; where it is left
    /// out that of the host's first process.
    pub host_root: Option<PathBuf>,
    /// Ask Java programs for the names of their compiled code, as `--ask-jvms` does.
    #[serde(default)]
    pub ask_jvms: bool,
    /// Keep requests as examples, as where nothing is said; `false` as with `--no-examples`.
    pub examples: Option<bool>,
    /// Labels of the metrics as in 0.1, as `--former-metric-labels` asks for.
    #[serde(default)]
    pub former_metric_labels: bool,
    /// Address (`http://…`) that is told of changes in findings' lives.
    pub webhook: Option<String>,
    /// Address of a collector of OTLP (`http://…`) that is told of the same.
    pub otlp: Option<String>,
    /// What to ask the cluster's API server.
    #[serde(default)]
    pub kubernetes: Kubernetes,
    /// Findings to hide.
    #[serde(default)]
    pub ignore: Ignore,
    /// Whose the frames of a stack are: rules that come before the built-in ones
    /// (`tracer/src/symbols/blame.toml`).
    #[serde(default)]
    pub rule: Vec<Spanned<Rule>>,
}

/// What to ask the cluster's API server, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kubernetes {
    /// Ask for this node's pods, as `--kube` does.
    #[serde(default)]
    pub pods: bool,
    /// Ask for names of remote addresses, as `--kube-remotes` does.
    #[serde(default)]
    pub remotes: bool,
    /// A kubeconfig to ask with; without, that of the environment (`KUBECONFIG`), or else the service
    /// account of the daemon's pod.
    pub kubeconfig: Option<PathBuf>,
}

/// Findings to hide; how many were hidden is told. `*` stands for any text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ignore {
    /// Ids of findings.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Namespaces whose pods are left alone: nothing of them is judged, by the session itself, since a
    /// finding may have instances in several.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Functions, or `file:line`, of call sites.
    #[serde(default)]
    pub call_sites: Vec<String>,
    /// Addresses (`address:port`), hosts, UNIX paths or URL templates of the other end; for
    /// servers the listening address.
    #[serde(default)]
    pub remotes: Vec<String>,
}

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ListenText")]
pub struct Listen(pub SocketAddr);

#[derive(Deserialize)]
#[serde(untagged)]
enum ListenText {
    Port(u16),
    Text(String),
}

impl TryFrom<ListenText> for Listen {
    type Error = ListenError;

    fn try_from(text: ListenText) -> Result<Listen, ListenError> {
        match text {
            ListenText::Port(port) => Ok(Listen(loopback(port))),
            ListenText::Text(text) => parse_listen(&text).map(Listen),
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Why a text is no address to listen on, and what is.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ListenError {
    /// A port with a colon before it.
    #[error(
        "`{0}` does not say on which address; write 0.0.0.0{0} for all of them, or the port alone \
         for 127.0.0.1"
    )]
    NoHost(String),
    /// Anything else.
    #[error("`{0}` is no address to listen on; write ADDR:PORT, [ADDR]:PORT or PORT")]
    NoAddress(String),
}

/// Parses `ADDR:PORT`, `[ADDR]:PORT` or `PORT`; a port alone binds the loopback address.
///
/// # Errors
/// [`ListenError`].
pub fn parse_listen(text: &str) -> Result<SocketAddr, ListenError> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(loopback(port));
    }
    if text.starts_with(':') {
        return Err(ListenError::NoHost(text.to_owned()));
    }
    if let Some(port) = text.strip_prefix("localhost:").and_then(|p| p.parse().ok()) {
        return Ok(loopback(port));
    }
    let address = text.parse();
    address.map_err(|_| ListenError::NoAddress(text.to_owned()))
}

/// What is wrong with a configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("the configuration {path} cannot be read: {error}")]
    Unreadable {
        /// File.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// It makes no sense.
    #[error("the configuration {path}, line {line}, key `{key}`: {message}")]
    Damaged {
        /// File.
        path: String,
        /// Line, from 1.
        line: usize,
        /// Key on that line, with the table it is in.
        key: String,
        /// What is wrong.
        message: String,
    },
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let name = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: name.clone(),
            error,
        })?;
        Config::parse(&text, &name)
    }

    /// Parses the content of the file called `name`.
    ///
    /// # Errors
    /// [`ConfigError::Damaged`] with line and key.
    pub fn parse(text: &str, name: &str) -> Result<Config, ConfigError> {
        let damaged = |offset: usize, message: &str| {
            let (line, key) = locate(text, offset);
            ConfigError::Damaged {
                path: name.to_owned(),
                line,
                key,
                message: message.to_owned(),
            }
        };
        let config: Config = toml::from_str(text)
            .map_err(|error| damaged(error.span().map_or(0, |span| span.start), error.message()))?;
        if let Some(empty) = config.rule.iter().find(|rule| rule.get_ref().is_empty()) {
            return Err(damaged(empty.span().start, Rule::EMPTY));
        }
        Ok(config)
    }

    /// The rules alone, in their order.
    #[must_use]
    pub fn rules(&self) -> Vec<Rule> {
        self.rule
            .iter()
            .map(|rule| rule.get_ref().clone())
            .collect()
    }
}

/// Line number and key of a byte offset. Values may go over several lines, so the key is the
/// nearest one at or above it.
fn locate(text: &str, offset: usize) -> (usize, String) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let mut key = None;
    for candidate in text
        .lines()
        .take(line)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
    {
        let trimmed = candidate.trim();
        if let Some(table) = trimmed.strip_prefix('[').and_then(|t| t.split(']').next())
            && !trimmed.contains('=')
            && !table.is_empty()
            && !table.contains(['"', ','])
        {
            let table = table.trim_matches(['[', ' ']);
            return (
                line,
                key.map_or(table.to_owned(), |key| format!("{table}.{key}")),
            );
        }
        if key.is_none()
            && let Some((name, _)) = trimmed.split_once('=')
        {
            key = Some(name.trim().to_owned());
        }
    }
    let whole_line = || {
        text.lines()
            .nth(line - 1)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    (line, key.unwrap_or_else(whole_line))
}

impl Ignore {
    /// Removes what is to be hidden, counts it, and judges anew by what is left.
    pub fn apply(&self, report: &mut Report) {
        let before = report.findings.len();
        report.findings.retain(|finding| !self.hides(finding));
        report.resolved.retain(|finding| !self.hides(finding));
        let hidden = before - report.findings.len();
        report.ignored += hidden as u64;
        if hidden > 0 {
            findings::settle(report);
        }
    }

    /// Whether the list names this finding.
    #[must_use]
    pub fn hides(&self, finding: &Finding) -> bool {
        let any = |patterns: &[String], texts: &[Option<&str>]| {
            patterns.iter().any(|pattern| {
                texts
                    .iter()
                    .flatten()
                    .any(|text| matches_pattern(pattern, text))
            })
        };
        let site = finding.call_site.as_ref();
        let place = site.and_then(|site| Some(format!("{}:{}", site.file.as_ref()?, site.line?)));
        let remote = &finding.remote;
        any(&self.ids, &[Some(&finding.id)])
            || any(
                &self.call_sites,
                &[site.map(|site| site.function.as_str()), place.as_deref()],
            )
            || any(
                &self.remotes,
                &[
                    Some(&remote.address),
                    remote.host.as_deref(),
                    remote.path.as_deref(),
                    remote.url.as_deref(),
                    finding.local.as_deref(),
                ],
            )
    }
}

/// Compares with a pattern in which `*` stands for any text.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests;
