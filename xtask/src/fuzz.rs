//! `cargo xtask fuzz`: random input for every parser of bytes from outside.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

use crate::sh::{self, step};

/// Largest input: more than the first pages of any executable.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// An input that takes longer is a finding.
const INPUT_SECONDS_MAX: u32 = 10;

/// Random input for the parsers; needs a nightly compiler
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these parsers
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long for each
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Runs some targets, or all.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let (wanted, seconds) = (arguments.targets, arguments.seconds);
    let known = targets()?;
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
        bail!(
            "there is no target `{unknown}`; known: {}",
            known.join(", ")
        );
    }
    ensure_fuzzer()?;
    let lock = sh::root().join("fuzz/Cargo.lock");
    if !lock.exists() {
        // the versions that the workspace has
        fs::copy(sh::root().join("Cargo.lock"), &lock)?;
    }
    let mut found = Vec::new();
    for name in known
        .iter()
        .filter(|name| wanted.is_empty() || wanted.contains(name))
    {
        let corpus = seeded(name)?;
        eprintln!("xtask: fuzzing {name} for {seconds} s");
        let status = sh::command("rustup")
            .args([
                "run",
                "nightly",
                "cargo",
                "fuzz",
                "run",
                "--dev",
                "--sanitizer",
                "none",
            ])
            .arg(name)
            .arg(&corpus)
            .args(["--", "-print_final_stats=1", "-verbosity=0"])
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-max_len={INPUT_BYTES_MAX}"))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .current_dir(sh::root().join("fuzz"))
            .status()
            .context("cannot start cargo-fuzz")?;
        println!("{name}: {}", if status.success() { "ok" } else { "FAILED" });
        if !status.success() {
            found.push(name.as_str());
        }
    }
    ensure!(
        found.is_empty(),
        "input that is not survived is in fuzz/artifacts: {}",
        found.join(", ")
    );
    Ok(ExitCode::SUCCESS)
}

fn targets() -> Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(sh::root().join("fuzz/fuzz_targets"))?
        .filter_map(|entry| {
            Some(
                entry
                    .ok()?
                    .path()
                    .file_stem()?
                    .to_string_lossy()
                    .into_owned(),
            )
        })
        .collect();
    names.sort();
    Ok(names)
}

/// A folder with the target's seeds and whatever earlier runs found worth keeping.
fn seeded(name: &str) -> Result<PathBuf> {
    let corpus = sh::root().join("fuzz/corpus").join(name);
    fs::create_dir_all(&corpus)?;
    let seeds = sh::root().join("fuzz/seeds").join(name);
    if seeds.is_dir() {
        for seed in fs::read_dir(&seeds)? {
            let seed = seed?;
            fs::copy(seed.path(), corpus.join(seed.file_name()))?;
        }
    }
    if name == "elf" {
        fs::copy("/bin/true", corpus.join("true"))?;
    }
    Ok(corpus)
}

fn ensure_fuzzer() -> Result<()> {
    let nightly = sh::quiet(sh::command("rustup").args(["run", "nightly", "rustc", "--version"]));
    ensure!(
        nightly.is_ok(),
        "fuzzing needs a nightly compiler: `rustup toolchain install nightly --profile minimal`"
    );
    if sh::has_program("cargo-fuzz") {
        return Ok(());
    }
    step(
        "building cargo-fuzz with cargo install (1 to 2 minutes)",
        || sh::quiet(sh::cargo().args(["install", "cargo-fuzz", "--locked"])),
    )
}
