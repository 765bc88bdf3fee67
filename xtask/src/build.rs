//! Building the `tracer` command and the test programs, and running the command.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    setup::{self, Ready},
    sh,
};

/// How to compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Profile {
    /// Optimized.
    pub release: bool,
    /// Without shared libraries, for images and guests that have none.
    pub fixed: bool,
    /// With eBPF programs that say what they drop.
    pub log: bool,
}

/// A program that cargo has built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// The package it belongs to.
    pub package: String,
    /// The name of the target in the package.
    pub target: String,
    /// `lib`, `bin` or `test`: what kind of target it is.
    pub kind: String,
    /// Whether it was built as a test.
    pub is_test: bool,
    /// Where it is.
    pub path: PathBuf,
}

/// Build the `tracer` command, and print where it is
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Optimized
    #[arg(long)]
    release: bool,
    /// Without shared libraries
    #[arg(long = "static")]
    fixed: bool,
}

/// Build as this user, then run `tracer WORDS` as root (through sudo if need be)
#[derive(Debug, clap::Args)]
pub struct RunArguments {
    /// Optimized
    #[arg(long)]
    release: bool,
    /// With eBPF programs that say what they drop (also with TRACER_EBPF_LOG=1)
    #[arg(long)]
    log_ebpf: bool,
    /// What `tracer` is given
    #[arg(last = true)]
    pub words: Vec<String>,
}

/// `cargo xtask build`.
pub fn main(arguments: Arguments, options: setup::Options) -> Result<ExitCode> {
    let profile = Profile {
        release: arguments.release,
        fixed: arguments.fixed,
        log: false,
    };
    let ready = setup::to_build(options)?;
    println!("{}", tracer(&ready, profile)?.display());
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask run -- WORDS`.
pub fn run(arguments: RunArguments, options: setup::Options) -> Result<ExitCode> {
    let profile = Profile {
        release: arguments.release,
        fixed: false,
        log: arguments.log_ebpf || std::env::var_os("TRACER_EBPF_LOG").is_some(),
    };
    let ready = setup::to_build(options)?;
    let binary = tracer(&ready, profile)?;
    // replaces this process, so that signals and the exit status are tracer's own
    let mut command = sh::as_root(&binary);
    command
        .args(arguments.words)
        .current_dir(std::env::current_dir()?);
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", binary.display()))
}

/// Builds the `tracer` command and says where it is.
pub fn tracer(ready: &Ready, profile: Profile) -> Result<PathBuf> {
    find(&programs(ready, profile)?, "tracer")
}

/// Builds the `tracer` command and the fixture programs: together, so that their dependencies are
/// compiled with the same features and only once.
pub fn programs(ready: &Ready, profile: Profile) -> Result<Vec<Executable>> {
    cargo(
        ready,
        profile,
        &["build", "--workspace", "--exclude", "xtask", "--bins"],
    )
}

/// Builds everything: the programs, and all tests.
pub fn with_tests(ready: &Ready) -> Result<Vec<Executable>> {
    cargo(
        ready,
        Profile::default(),
        &["build", "--workspace", "--bins", "--tests"],
    )
}

/// The path of the program (not the test) called `name`.
pub fn find(programs: &[Executable], name: &str) -> Result<PathBuf> {
    programs
        .iter()
        .find(|program| program.target == name && program.kind == "bin" && !program.is_test)
        .map(|program| program.path.clone())
        .with_context(|| format!("cargo built no program named `{name}`"))
}

/// Runs a cargo command that builds, with its progress shown; returns the programs it made.
pub fn cargo(ready: &Ready, profile: Profile, words: &[&str]) -> Result<Vec<Executable>> {
    let mut cargo = sh::cargo();
    cargo
        .args(words)
        .arg("--message-format=json-render-diagnostics")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if profile.release {
        cargo.arg("--release");
    }
    if profile.log {
        cargo.args(["--features", "tracer/ebpf-log"]);
    }
    if profile.fixed {
        // a target of its own, so that build scripts and macros stay dynamic
        let host = host_triple()?;
        let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", screaming(&host));
        // and nothing of where it was built
        let places = [(sh::root(), "/tracer"), (&sh::cargo_home(), "/cargo")];
        let places = places.map(|(from, to)| format!("{}={to}", from.display()));
        let remapped = places.iter().map(|to| format!(" --remap-path-prefix={to}"));
        let mapped = places.iter().map(|to| format!(" -ffile-prefix-map={to}"));
        cargo
            .arg("--target")
            .arg(&host)
            .env("CFLAGS", mapped.collect::<String>())
            .env(
                flags,
                format!(
                    "-Ctarget-feature=+crt-static{}",
                    remapped.collect::<String>()
                ),
            );
    }
    if let Some(toolchain) = &ready.ebpf_toolchain {
        cargo.env("TRACER_EBPF_TOOLCHAIN", toolchain);
    }
    run_cargo(cargo, words)
}

fn run_cargo(mut cargo: Command, words: &[&str]) -> Result<Vec<Executable>> {
    let mut child = cargo.spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let mut programs = Vec::new();
    for line in BufReader::new(stdout).lines() {
        programs.extend(executable(&line?));
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`cargo {}` failed: {status}", words.join(" "));
    }
    Ok(programs)
}

/// The program in one line of cargo's JSON messages, if it announces one.
fn executable(line: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(line).ok()?;
    let target = &message["target"];
    let source = PathBuf::from(message["manifest_path"].as_str()?);
    Some(Executable {
        path: PathBuf::from(message["executable"].as_str()?),
        package: source.parent()?.file_name()?.to_str()?.to_owned(),
        target: target["name"].as_str()?.to_owned(),
        kind: target["kind"][0].as_str()?.to_owned(),
        is_test: message["profile"]["test"].as_bool()?,
    })
}

fn host_triple() -> Result<String> {
    let answer = sh::capture(sh::command("rustc").arg("-vV"))?;
    answer
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("`rustc -vV` names no host")
}

/// A target triple as it stands in the names of cargo's environment variables.
fn screaming(triple: &str) -> String {
    triple.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::{executable, screaming};

    #[test]
    fn executables_are_found_in_cargos_messages() {
        let line = r#"{"reason":"compiler-artifact","package_id":"path+file:///w/tests#0.1.0","manifest_path":"/w/tests/Cargo.toml","target":{"kind":["test"],"name":"check"},"profile":{"test":true},"executable":"/w/target/debug/deps/check-1"}"#;
        let found = executable(line);
        assert!(found.is_some_and(|program| program.is_test
            && program.package == "tests"
            && program.target == "check"
            && program.kind == "test"
            && program.path.ends_with("deps/check-1")));
        assert_eq!(
            executable(&line.replace("\"/w/target/debug/deps/check-1\"", "null")),
            None
        );
        assert_eq!(executable("not json"), None);
    }

    #[test]
    fn a_triple_becomes_part_of_a_variable() {
        assert_eq!(
            screaming("x86_64-unknown-linux-gnu"),
            "X86_64_UNKNOWN_LINUX_GNU"
        );
    }
}
