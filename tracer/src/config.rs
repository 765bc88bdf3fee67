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
    /// Findings to hide.
    #[serde(default)]
    pub ignore: Ignore,
    /// Whose the frames of a stack are: rules that come before the built-in ones
    /// (`tracer/src/symbols/blame.toml`).
    #[serde(default)]
    pub rule: Vec<Spanned<Rule>>,
}

/// Findings to hide; how many were hidden is told. `*` stands for any text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ignore {
    /// Ids of findings.
    #[serde(default)]
    pub ids: Vec<String>,
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
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{model::Confidence, report::Verdict, samples};

    #[test]
    fn a_whole_configuration_is_read() {
        let config = Config::parse(
            "listen = 9090\nsocket = \"/run/x.sock\"\nmax_sockets = 5000\n\n[ignore]\n\
             ids = [\"3f\"]\ncall_sites = [\"main.*\"]\nremotes = [\"10.0.0.7:443\"]\n\
             [[rule]]\nis = \"client\"\nfunction = [\"acme_*\"]\n",
            "tracer.toml",
        )
        .unwrap();
        assert_eq!(config.listen, Some(Listen(loopback(9090))));
        assert_eq!(config.max_sockets, NonZeroU32::new(5000));
        assert_eq!(config.ignore.call_sites, ["main.*"]);
        assert_eq!(config.rule.len(), 1);
        assert_eq!(Config::parse("", "x").unwrap(), Config::default());
    }

    #[test]
    fn damage_is_named_by_line_and_key() {
        for (text, line, key, message) in [
            (
                "listen = 9090\nlisten_on = 1\n",
                2,
                "listen_on",
                "unknown field",
            ),
            (
                "[ignore]\nids = [\"a\"]\nidz = 1\n",
                3,
                "ignore.idz",
                "unknown field",
            ),
            (
                "\nmax_sockets = \"many\"\n",
                2,
                "max_sockets",
                "invalid type",
            ),
            ("max_sockets = 0\n", 1, "max_sockets", "nonzero"),
            ("\n[[rule]]\nis = \"own\"\n", 2, "rule", "has none of"),
            ("max_sockets = -4\n", 1, "max_sockets", "invalid value"),
            ("listen = \":9090\"\n", 1, "listen", "0.0.0.0:9090"),
            (
                "[ignore]\nids = [\n  \"a\",\n  7,\n]\n",
                4,
                "ignore.ids",
                "invalid type",
            ),
            ("socket = \"/x\nlisten = 1\n", 1, "socket", ""),
            ("socket\n", 1, "socket", ""),
        ] {
            let error = Config::parse(text, "tracer.toml").unwrap_err();
            let shown = error.to_string();
            let ConfigError::Damaged {
                line: at,
                key: named,
                ..
            } = error
            else {
                panic!("{shown}")
            };
            assert_eq!((at, named.as_str()), (line, key), "{shown}");
            assert!(shown.contains(message), "{shown}");
        }
    }

    #[test]
    fn a_port_alone_binds_the_loopback_address() {
        assert_eq!(parse_listen("9090"), Ok(loopback(9090)));
        assert_eq!(parse_listen("localhost:9090"), Ok(loopback(9090)));
        assert_eq!(parse_listen("0.0.0.0:1").unwrap().to_string(), "0.0.0.0:1");
        assert_eq!(parse_listen("[::1]:1").unwrap().to_string(), "[::1]:1");
        for text in [
            "",
            ":9090",
            "host",
            "1.2.3.4",
            "1.2.3.4:99999",
            "example.org:80",
        ] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hidden_findings_are_counted_and_change_the_verdict() {
        for ignore in [
            Ignore {
                ids: vec!["3f9a1c2b4d5e6f70".into()],
                ..Ignore::default()
            },
            Ignore {
                call_sites: vec!["main.*".into()],
                ..Ignore::default()
            },
            Ignore {
                call_sites: vec!["/src/main.go:24".into()],
                ..Ignore::default()
            },
            Ignore {
                remotes: vec!["127.0.0.1:*".into()],
                ..Ignore::default()
            },
            Ignore {
                remotes: vec!["http://*/v2/*".into()],
                ..Ignore::default()
            },
        ] {
            let mut report = samples::report();
            ignore.apply(&mut report);
            assert_eq!(report.findings, [], "{ignore:?}");
            assert_eq!(report.ignored, 1);
            assert_eq!(report.verdict, Verdict::Clean);
        }
        let mut report = samples::report();
        report.unsettled.push("Events were lost.".to_owned());
        let all = Ignore {
            ids: vec!["*".into()],
            ..Ignore::default()
        };
        all.apply(&mut report);
        assert_eq!(report.verdict, Verdict::Inconclusive, "losses stay");
        let mut report = samples::report();
        report.findings.push(Finding {
            id: "other".into(),
            confidence: Confidence::Low,
            ..samples::finding()
        });
        let ignore = Ignore {
            ids: vec!["3f9a*".into()],
            ..Ignore::default()
        };
        ignore.apply(&mut report);
        assert_eq!(report.verdict, Verdict::Inconclusive);
        assert_eq!(report.inconclusive_because.len(), 1);
        Ignore::default().apply(&mut report);
        assert_eq!(report.ignored, 1);
    }

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*", "a", true),
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "ab", false),
            ("*b*", "abc", true),
            ("a*a", "a", false),
            ("a**c", "ac", true),
        ] {
            assert_eq!(matches_pattern(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*|[a-z_=\\[\\]\"0-9\n ,#']{0,80}") {
            let _ = Config::parse(&text, "x");
            let _ = parse_listen(&text);
        }

        #[test]
        fn every_place_has_a_line(text in "[a-zé=\\[\\]\n ]{0,60}", offset in 0usize..80) {
            let (line, _) = locate(&text, offset);
            prop_assert!(line >= 1 && line <= text.matches('\n').count() + 1);
        }

        #[test]
        fn a_text_matches_itself_and_its_prefix(text in "[a-z/:]{1,20}", cut in 0usize..20) {
            let cut = cut.min(text.len());
            prop_assert!(matches_pattern(&text, &text));
            let prefix = format!("{}*", &text[..cut]);
            prop_assert!(matches_pattern(&prefix, &text));
        }
    }
}
