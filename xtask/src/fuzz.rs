//! `cargo xtask fuzz`: random input for every parser of bytes from outside.

mod sums;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};

use self::sums::Sums;
use crate::sh::{self, step};

/// Largest input: more than most executables have.
const INPUT_BYTES_MAX: usize = 16 << 20;
/// An input that takes longer is a finding.
const INPUT_SECONDS_MAX: u32 = 10;
/// Parsers of executables, of foreign memory and of what is compressed by state: `--all` gives each
/// this much of a CPU's time …
const LONG: &[&str] = &[
    "elf",
    "go",
    "go_dwarf",
    "go_memory",
    "hello",
    "hotspot",
    "http2",
    "php",
    "python",
    "ruby",
    "v8",
];
const LONG_SECONDS: u64 = 30 * 60;
/// … and all others this much.
const SHORT_SECONDS: u64 = 5 * 60;
/// The triple that cargo-fuzz builds for, whose folder has the targets.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Random input for the parsers; needs a nightly compiler
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these parsers
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long for each, or for each turn with --all
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Take turns until each has had its 30 or 5 minutes of a CPU, summed over runs (fuzz/sums.csv)
    #[arg(long)]
    all: bool,
    /// How many at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,
}

/// Runs some targets, or all.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let known = targets()?;
    let unknown = |name: &&String| !known.contains(name);
    if let Some(unknown) = arguments.targets.iter().find(unknown) {
        bail!(
            "there is no target `{unknown}`; known: {}",
            known.join(", ")
        );
    }
    let asked = |name: &String| arguments.targets.is_empty() || arguments.targets.contains(name);
    let wanted: Vec<String> = known.iter().filter(|name| asked(name)).cloned().collect();
    ensure_fuzzer()?;
    let lock = sh::root().join("fuzz/Cargo.lock");
    if !lock.exists() {
        // the versions that the workspace has
        fs::copy(sh::root().join("Cargo.lock"), &lock)?;
    }
    step("building the targets", build)?;
    let sums = Mutex::new(Sums::read(sh::root().join("fuzz/sums.csv"))?);
    let mut found = Vec::new();
    loop {
        let mut turns: Vec<Turn> = (wanted.iter())
            .filter(|name| !found.contains(*name))
            .filter_map(|name| turn(name, &arguments, &sums))
            .collect();
        if turns.is_empty() {
            break;
        }
        turns.reverse();
        found.extend(take(turns, arguments.jobs.max(1), &sums)?);
        if !arguments.all {
            break;
        }
    }
    println!("{}", locked(&sums).table(&wanted, goal));
    ensure!(
        found.is_empty(),
        "input that is not survived is in fuzz/artifacts: {}",
        found.join(", ")
    );
    Ok(ExitCode::SUCCESS)
}

/// A target and for how many seconds.
type Turn = (String, u64);

/// What a target is to have of a CPU's time.
fn goal(name: &str) -> u64 {
    if LONG.contains(&name) {
        LONG_SECONDS
    } else {
        SHORT_SECONDS
    }
}

/// The next turn of a target; with `--all` not of one that has had its time.
fn turn(name: &str, arguments: &Arguments, sums: &Mutex<Sums>) -> Option<Turn> {
    let missing = goal(name).saturating_sub(locked(sums).seconds(name));
    let seconds = match arguments.all {
        true => arguments.seconds.min(missing),
        false => arguments.seconds,
    };
    (seconds > 0).then(|| (name.to_owned(), seconds))
}

/// Takes all turns, some at a time; those in which something was found.
fn take(turns: Vec<Turn>, jobs: usize, sums: &Mutex<Sums>) -> Result<Vec<String>> {
    let turns = Mutex::new(turns);
    let worker = || -> Result<Vec<String>> {
        let mut found = Vec::new();
        loop {
            let next = locked(&turns).pop();
            let Some((name, seconds)) = next else {
                return Ok(found);
            };
            let ran = run(&name, seconds)?;
            println!("{name}: {}", if ran.is_some() { "ok" } else { "FAILED" });
            locked(sums).add(&name, ran)?;
            if ran.is_none() {
                found.push(name);
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        let mut found = Vec::new();
        for worker in workers {
            let ended = worker.join();
            found.extend(ended.map_err(|_| anyhow::anyhow!("a fuzzing thread panicked"))??);
        }
        Ok(found)
    })
}

/// What a thread that panicked left is as good as any.
fn locked<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn build() -> Result<()> {
    sh::quiet(
        sh::command("rustup")
            .args(["run", "nightly", "cargo", "fuzz", "build", "--dev"])
            .args(["--sanitizer", "none", "--target", TRIPLE])
            .current_dir(sh::root().join("fuzz")),
    )
}

/// Runs a target: what it took, or nothing where it found an input that is not survived.
fn run(name: &str, seconds: u64) -> Result<Option<sums::Spent>> {
    let corpus = seeded(name)?;
    let program = Path::new("target").join(TRIPLE).join("debug").join(name);
    eprintln!("xtask: fuzzing {name} for {seconds} s");
    fs::create_dir_all(sh::root().join("fuzz/artifacts").join(name))?;
    // the shell tells what CPU time its children took
    let output = sh::command("sh")
        .args(["-c", "\"$@\"; status=$?; times; exit $status", "fuzz"])
        .arg(sh::root().join("fuzz").join(program))
        .arg(&corpus)
        .args(["-print_final_stats=1", "-verbosity=0"])
        .arg(format!("-artifact_prefix=artifacts/{name}/"))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .current_dir(sh::root().join("fuzz"))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start the target {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{said}");
        return Ok(None);
    }
    sums::spent(&String::from_utf8_lossy(&output.stdout), &said)
        .map(Some)
        .with_context(|| format!("{name} did not say what it did:\n{said}"))
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
