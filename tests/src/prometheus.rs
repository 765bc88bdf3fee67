//! Prometheus and promtool: those that are installed, else Debian's, unpacked.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    debian,
    host::{self, seconds},
    http,
    program::Program,
    wait,
};

/// Finds `prometheus` or `promtool`.
///
/// # Errors
/// [`crate::runner::Skip`] where it is neither installed nor Debian's can be had.
pub fn tool(name: &str) -> Result<PathBuf> {
    host::tool(name).or_else(|_| {
        let base = host::cache()?.join("debian");
        let root = debian::unpacked(&base, "prometheus", &["prometheus"])?;
        Ok(root.join("usr/bin").join(name))
    })
}

/// Runs `promtool` in a folder; its status and what it says.
///
/// # Errors
/// When it can't be had or does not end.
pub fn promtool(folder: &Path, arguments: &[&str]) -> Result<(i32, String)> {
    let mut command = Command::new(tool("promtool")?);
    let ended = Program::start(command.args(arguments).current_dir(folder))?.end(seconds(60))?;
    Ok((ended.code(), ended.stdout + &ended.stderr))
}

/// A value with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Labels, the name of the metric too.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// A label; nothing where there is none.
    #[must_use]
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// A running Prometheus that scrapes once a second.
#[derive(Debug)]
pub struct Prometheus {
    /// The process.
    pub program: Program,
    web: String,
    _directory: TempDir,
}

impl Prometheus {
    /// Starts one with these targets (`HOST:PORT`, each an instance of the job `tracer`) and rules, and
    /// waits until it answers.
    ///
    /// # Errors
    /// As [`tool`]; when it does not start.
    pub fn start(targets: &[&str], rules: Option<&str>) -> Result<Prometheus> {
        let program = tool("prometheus")?;
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("prometheus.yml");
        let mut text = String::from("global: {scrape_interval: 1s, evaluation_interval: 1s}\n");
        if let Some(rules) = rules {
            fs::write(directory.path().join("rules.yml"), rules)?;
            text += "rule_files: [rules.yml]\n";
        }
        text += "scrape_configs:\n- job_name: tracer\n  static_configs:\n";
        writeln!(text, "  - targets: {targets:?}")?;
        fs::write(&config, text)?;
        let web = format!("127.0.0.1:{}", host::free_port()?);
        let data = directory.path().join("data");
        let program = Program::start(Command::new(program).args([
            &format!("--config.file={}", config.display()),
            &format!("--storage.tsdb.path={}", data.display()),
            &format!("--web.listen-address={web}"),
            "--log.level=warn",
        ]))?;
        let mut started = Prometheus {
            program,
            web,
            _directory: directory,
        };
        wait::until("Prometheus to be ready", seconds(60), || {
            started.must_run()?;
            Ok(http::get(&started.web, "/-/ready").is_ok_and(|answer| answer.status == 200))
        })?;
        Ok(started)
    }

    /// Fails where it has ended.
    ///
    /// # Errors
    /// With what it said.
    pub fn must_run(&mut self) -> Result<()> {
        let runs = self.program.runs()?;
        ensure!(runs, "Prometheus ended: {}", self.program.stderr());
        Ok(())
    }

    /// What an expression is now.
    ///
    /// # Errors
    /// When it is refused.
    pub fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let mut encoded = String::new();
        for byte in expression.bytes() {
            match byte.is_ascii_alphanumeric() {
                true => encoded.push(char::from(byte)),
                false => write!(encoded, "%{byte:02X}")?,
            }
        }
        let answer = http::get(&self.web, &format!("/api/v1/query?query={encoded}"))?;
        let value: Value = serde_json::from_str(&answer.body).context(answer.body.clone())?;
        ensure!(value["status"] == "success", "{expression}: {value}");
        let rows = value["data"]["result"].as_array().context("no result")?;
        let sample = |row: &Value| -> Result<Sample> {
            let labels = row["metric"].as_object().context("no labels")?.iter();
            let labels = labels.map(|(name, value)| {
                let value = value.as_str().unwrap_or_default();
                (name.clone(), value.to_owned())
            });
            Ok(Sample {
                labels: labels.collect(),
                value: row["value"][1].as_str().context("no value")?.parse()?,
            })
        };
        rows.iter().map(sample).collect()
    }

    /// The one value of an expression; 0 where there is none.
    ///
    /// # Errors
    /// As [`Prometheus::query`].
    pub fn value(&self, expression: &str) -> Result<f64> {
        Ok(self.query(expression)?.first().map_or(0.0, |one| one.value))
    }
}
