//! `cargo xtask release`: what is given away, and the proof that it comes from these sources.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    build::{self, Profile},
    setup, sh,
    suites::{Outcome, Suite},
};

/// What a bill of materials is made by.
const LISTER: &str = "cargo-cyclonedx";
/// The bill of materials: CycloneDX, as JSON.
const BILL: &str = "tracer.cdx.json";

/// The static `tracer`, its bill of materials and their sums, in target/given
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Builds once more from a copy of the sources elsewhere, and wants the same bytes
    #[arg(long)]
    twice: bool,
}

/// `cargo xtask release`.
pub fn main(arguments: Arguments, options: setup::Options) -> Result<ExitCode> {
    println!("{}", give(arguments.twice, options)?.display());
    Ok(ExitCode::SUCCESS)
}

/// The same as a test: built twice.
pub fn run(options: setup::Options) -> Suite {
    let started = Instant::now();
    eprintln!("xtask: release");
    let mut outcome = Outcome::default();
    let given = give(true, options).map(drop);
    outcome.count("two builds of a release have the same bytes", given);
    Suite {
        name: "release".to_owned(),
        outcome,
        seconds: started.elapsed().as_secs_f64(),
    }
}

/// Makes what is given away; the folder that it is in.
fn give(twice: bool, options: setup::Options) -> Result<PathBuf> {
    let ready = setup::to_build(options)?;
    let given = sh::root().join("target/given");
    fs::create_dir_all(&given).with_context(|| format!("cannot make {}", given.display()))?;
    let profile = Profile {
        release: true,
        fixed: true,
        log: false,
    };
    let built = build::tracer(&ready, profile)?;
    let program = given.join("tracer");
    strip(&built, &program)?;
    bill(&given.join(BILL))?;
    let sums = sh::capture(
        sh::command("sha256sum")
            .args(["tracer", BILL])
            .current_dir(&given),
    )?;
    fs::write(given.join("SHA256SUMS"), &sums)?;
    print!("{sums}");
    if twice {
        again(&program)?;
        println!("another build elsewhere has the same bytes");
    }
    Ok(given)
}

/// Leaves out what only a debugger needs, as the image does.
fn strip(from: &Path, to: &Path) -> Result<()> {
    sh::quiet(
        sh::command("strip")
            .arg("--strip-debug")
            .arg("-o")
            .args([to, from]),
    )
}

/// All that is linked into the program, with versions, licences and sums.
fn bill(to: &Path) -> Result<()> {
    if !sh::has_program(LISTER) {
        sh::step(
            "building cargo-cyclonedx with cargo install (2 to 3 minutes)",
            || sh::quiet(sh::cargo().args(["install", LISTER, "--locked"])),
        )?;
    }
    let name = "given";
    let folder = sh::root().join("tracer");
    sh::quiet(
        sh::cargo()
            .args(["cyclonedx", "--format", "json", "--no-build-deps"])
            .args(["--override-filename", name])
            // else the time of day is in it, and a number by chance
            .env("SOURCE_DATE_EPOCH", "0")
            .current_dir(&folder),
    )?;
    let mut made = None;
    for package in ["tracer", "tracer-ebpf", "tests", "xtask"] {
        let path = sh::root().join(package).join(format!("{name}.json"));
        if package == "tracer" {
            made = Some(fs::read_to_string(&path).context("no bill of materials was made")?);
        }
        // it makes one for each package of the workspace
        let _ = fs::remove_file(path);
    }
    let made = made.unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&made)?;
    let parts = value["components"].as_array().map_or(0, Vec::len);
    ensure!(parts > 50, "the bill of materials lists {parts} parts only");
    fs::write(to, made)?;
    Ok(())
}

/// Builds from a copy in another folder, from nothing, and compares.
fn again(first: &Path) -> Result<()> {
    let elsewhere = env::temp_dir().join(format!("tracer-again-{}", std::process::id()));
    let result = build_elsewhere(&elsewhere).and_then(|built| {
        let second = elsewhere.join("tracer-stripped");
        strip(&built, &second)?;
        let (one, two) = (fs::read(first)?, fs::read(&second)?);
        let differ = one.iter().zip(&two).position(|(a, b)| a != b);
        ensure!(
            one.len() == two.len() && differ.is_none(),
            "the builds differ: {} and {} bytes, first at {differ:?}",
            one.len(),
            two.len()
        );
        Ok(())
    });
    if result.is_ok() {
        fs::remove_dir_all(&elsewhere)?;
    }
    result.with_context(|| format!("the second build is in {}", elsewhere.display()))
}

fn build_elsewhere(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let files = sh::capture(sh::command("git").args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    for file in files.lines() {
        let (from, to) = (sh::root().join(file), folder.join(file));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        if from.is_file() {
            fs::copy(&from, &to)?;
        }
    }
    let said = sh::step("building once more elsewhere", || {
        sh::capture(
            sh::cargo()
                .args(["xtask", "build", "--release", "--static"])
                .current_dir(folder),
        )
    })?;
    let path = said.lines().last().context("no program was built")?;
    Ok(PathBuf::from(path))
}
