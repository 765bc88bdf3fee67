//! `cargo xtask demo`: a small shop that leaks a connection with every order, caught in the act.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    build::{self, Executable, Profile},
    setup, sh,
};

/// The leaking program's source, below the workspace's top folder.
const SOURCE: &str = "tests/src/bin/leaky-shop.rs";
/// What is written beside the line in it that leaks.
const MARK: &str = "// AT discounts";
/// How long the shop is watched, in seconds.
const WATCHED: u32 = 20;

/// Build, let a small program leak over loopback, and catch it
#[derive(Debug, clap::Args)]
pub struct Arguments {}

/// `cargo xtask demo`.
pub fn main(options: setup::Options) -> Result<ExitCode> {
    let ready = setup::to_build(options)?;
    let programs = build::programs(&ready, Profile::default())?;
    let tracer = build::find(&programs, "tracer")?;
    let scene = Scene::start(&programs)?;
    let Scene { address, line, .. } = &scene;
    let pid = scene.pid();
    eprintln!(
        "\nxtask: leaky-shop sells over loopback to {address}; its line {line} leaks a connection \
         with every order.\nxtask: this is what tracer sees from outside in {WATCHED} s \
         (tracer check --pid {pid} --duration {WATCHED}s):\n"
    );
    let found = scene.catch(sh::as_root(&tracer), WATCHED, sh::run)?;
    println!("\nThe demo's leak was caught: {found}");
    Ok(ExitCode::SUCCESS)
}

/// The shop, selling and leaking for as long as this value lives.
pub struct Scene {
    // ends before the server that it talks to
    shop: Running,
    _server: Running,
    /// Of the server.
    address: String,
    /// The line of its source that leaks.
    line: u64,
}

impl Scene {
    /// Starts the server and the shop, which lie among `programs`.
    pub fn start(programs: &[Executable]) -> Result<Self> {
        let source = fs::read_to_string(sh::root().join(SOURCE))?;
        let line =
            marked_line(&source).with_context(|| format!("{SOURCE} has no line `{MARK}`"))?;
        let mut server = Command::new(build::find(programs, "fixture-server")?);
        let (server, address) = start(server.args(["http", "127.0.0.1:0"]))?;
        let mut shop = Command::new(build::find(programs, "leaky-shop")?);
        let (shop, _) = start(shop.arg(&address))?;
        Ok(Self {
            shop,
            _server: server,
            address,
            line,
        })
    }

    fn pid(&self) -> u32 {
        self.shop.0.id()
    }

    /// Lets `tracer` (a command without arguments yet), run by `run`, watch the shop for some
    /// seconds; returns a sentence about the leak, or an error if it was not found.
    pub fn catch(
        &self,
        mut tracer: Command,
        seconds: u32,
        run: impl FnOnce(&mut Command) -> Result<()>,
    ) -> Result<String> {
        let kept = Kept::new();
        tracer
            .args(["check", "--pid", &self.pid().to_string()])
            .args(["--duration", &format!("{seconds}s"), "--save"])
            .arg(&kept.0)
            .stdin(Stdio::null());
        run(&mut tracer)?;
        let report = fs::read_to_string(&kept.0).context("tracer kept no result")?;
        let report = serde_json::from_str(&report).context("tracer's result is not JSON")?;
        finding_at(&report, Path::new(SOURCE), self.line).with_context(|| {
            format!(
                "tracer reported no leak at {SOURCE}:{}; `tracer doctor` tells what this kernel lets it see",
                self.line
            )
        })
    }
}

/// A program that ends with this value; those of the demo end when their standard input does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // it may be gone already
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a fixture program and waits until it says READY; returns what it says behind that.
fn start(command: &mut Command) -> Result<(Running, String)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let mut running = Running(child);
    let stdout = running
        .0
        .stdout
        .take()
        .context("a program without stdout")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    match line.trim_end().strip_prefix("READY") {
        Some(rest) => Ok((running, rest.trim().to_owned())),
        None => bail!("{name} did not start"),
    }
}

/// The file with the report, removed with this value.
struct Kept(PathBuf);

impl Kept {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("tracer-demo-{}.json", std::process::id())))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // written by root, perhaps; a leftover in the temporary folder is no failure
        let _ = fs::remove_file(&self.0);
    }
}

/// The line with the mark, from 1.
fn marked_line(source: &str) -> Option<u64> {
    (1..)
        .zip(source.lines())
        .find_map(|(number, line)| line.ends_with(MARK).then_some(number))
}

/// One sentence about the finding with this call site, if the report is of a leak and has it.
fn finding_at(report: &Value, source: &Path, line: u64) -> Option<String> {
    if report["verdict"] != "leak" {
        return None;
    }
    let finding = report["findings"].as_array()?.iter().find(|finding| {
        let site = &finding["call_site"];
        site["line"] == line
            && site["file"]
                .as_str()
                .is_some_and(|file| Path::new(file).ends_with(source))
    })?;
    let site = &finding["call_site"];
    let connections = &finding["connections"];
    Some(format!(
        "{} at {}:{line}, {}, {} of {} connections left open, growing by {:.0} per minute ({}).",
        site["function"].as_str()?,
        source.display(),
        finding["remote"]["url"].as_str()?,
        connections["outlived"].as_u64()?,
        connections["opened"].as_u64()?,
        finding["growth_per_minute"].as_f64()?,
        finding["kind"].as_str()?,
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::{SOURCE, finding_at, marked_line};

    #[test]
    fn only_a_leak_at_the_marked_line_is_the_demos() {
        let report = |verdict: &str, line: u64| {
            json!({ "verdict": verdict, "findings": [ {
                "kind": "never_closed", "growth_per_minute": 480.2,
                "call_site": { "function": "Discounts::lookup", "file": format!("/home/me/tracer/{SOURCE}"), "line": line },
                "remote": { "url": "http://discounts.shop.test/v1/discounts/{}" },
                "connections": { "opened": 160, "outlived": 158 } } ] })
        };
        let find = |report| finding_at(&report, Path::new(SOURCE), 54);
        assert_eq!(
            find(report("leak", 54)).as_deref(),
            Some(
                "Discounts::lookup at tests/src/bin/leaky-shop.rs:54, http://discounts.shop.test/v1/discounts/{}, \
                 158 of 160 connections left open, growing by 480 per minute (never_closed)."
            )
        );
        assert_eq!(find(report("leak", 55)), None);
        assert_eq!(find(report("inconclusive", 54)), None);
    }

    #[test]
    fn the_leaking_line_is_marked() {
        assert_eq!(marked_line("a\nb(); // AT discounts\n"), Some(2));
        assert_eq!(marked_line("// AT discounts_all\n"), None);
    }
}
