//! Where the fixture programs are, and building those that are not Rust.
//!
//! `TRACER_FIXTURES` names a directory in which all of them lie ready (in a guest without a
//! compiler); otherwise the Rust ones lie beside the test binary and the C ones are compiled.

use std::{
    collections::HashMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};

use crate::{host, runner::Skip};

/// The C fixtures: program, source, compiler options.
const C: &[(&str, &str, &[&str])] = &[
    (
        "client",
        include_str!("../fixtures/c/client.c"),
        &["-g", "-O1"],
    ),
    // Optimized, without frame pointers: as distributions build.
    (
        "client-o2",
        include_str!("../fixtures/c/client.c"),
        &["-g", "-O2", "-fomit-frame-pointer"],
    ),
    // Symbols only, no debug information.
    (
        "client-nodebug",
        include_str!("../fixtures/c/client.c"),
        &["-g0", "-O1"],
    ),
    (
        "inherit",
        include_str!("../fixtures/c/inherit.c"),
        &["-g", "-O1"],
    ),
    ("load", include_str!("../fixtures/c/load.c"), &["-g", "-O1"]),
    (
        "leave",
        include_str!("../fixtures/c/leave.c"),
        &["-g", "-O1"],
    ),
    (
        "curl",
        include_str!("../fixtures/c/curl.c"),
        &["-g", "-O2", "-fomit-frame-pointer"],
    ),
    (
        "scenarios",
        include_str!("../fixtures/c/scenarios.c"),
        &["-g", "-O1"],
    ),
    (
        "through",
        include_str!("../fixtures/c/through.c"),
        &["-g", "-O1"],
    ),
];

/// The Rust fixtures, which cargo builds.
pub const RUST: &[&str] = &[
    "fixture-server",
    "fixture-client",
    "fixture-tokio",
    "leaky-shop",
];

/// Line of the fixture's source that is marked with `AT` and the name, from 1.
///
/// # Errors
/// When there is not exactly one.
pub fn line_of(source: &str, name: &str) -> Result<u32> {
    let mark = format!("AT {name}");
    let marked = |line: &&str| ["/*", "//", "# "].iter().any(|mark| line.contains(mark));
    let mut lines = (1..).zip(source.lines()).filter(|(_, line)| {
        marked(line)
            && line.split_once(&mark).is_some_and(|(_, rest)| {
                !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
            })
    });
    match (lines.next(), lines.next()) {
        (Some((number, _)), None) => Ok(number),
        _ => bail!("not exactly one line with {mark:?}"),
    }
}

/// Path of a fixture written in Rust, or a C one that is compiled on first use.
///
/// # Errors
/// [`Skip`] when there is no compiler; an error when the fixture does not compile.
pub fn path(name: &str) -> Result<PathBuf> {
    if let Some(directory) = env::var_os("TRACER_FIXTURES") {
        let path = Path::new(&directory).join(name);
        if !path.exists() {
            bail!(Skip(format!("no fixture {name} in TRACER_FIXTURES")));
        }
        return Ok(path);
    }
    match C.iter().find(|(program, ..)| *program == name) {
        Some(&(program, source, options)) => compiled(program, source, options),
        None => {
            let path = host::build_directory()?.join(name);
            if !path.exists() {
                bail!(
                    "{} is missing; `cargo test -p tracer-tests` builds it",
                    path.display()
                );
            }
            Ok(path)
        }
    }
}

/// A Python fixture: interpreter and script.
///
/// # Errors
/// [`Skip`] when there is no Python 3, or only half of it.
pub fn python(script: &str) -> Result<(PathBuf, PathBuf)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/python")
        .join(script);
    let interpreter = host::tool("python3")?;
    // Distributions split the standard library; a small machine may have the interpreter alone.
    let modules = Command::new(&interpreter)
        .args(["-c", "import http.client"])
        .output()?;
    if !modules.status.success() {
        bail!(Skip("python3 has no http.client here".to_owned()));
    }
    Ok((interpreter, script))
}

/// Builds every C fixture into `directory` and copies the Rust ones beside them; statically linked
/// C programs when `fixed`, for a guest that has no libraries.
///
/// # Errors
/// When one can't be built or copied.
pub fn build_into(directory: &Path, fixed: bool) -> Result<()> {
    fs::create_dir_all(directory)?;
    // a guest has no libcurl
    for (program, source, options) in C.iter().filter(|(program, ..)| *program != "curl") {
        let mut options = options.to_vec();
        if fixed {
            options.push("-static");
        }
        compile(source, program, &options, directory)?;
    }
    for name in RUST {
        let from = host::build_directory()?.join(name);
        fs::copy(&from, directory.join(name)).with_context(|| from.display().to_string())?;
    }
    Ok(())
}

/// Compiles once per run.
fn compiled(program: &str, source: &str, options: &[&str]) -> Result<PathBuf> {
    static DONE: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    let done = done.get_or_insert_default();
    if let Some(path) = done.get(program) {
        return Ok(path.clone());
    }
    let directory = host::build_directory()?.join("fixtures");
    fs::create_dir_all(&directory)?;
    let path = compile(source, program, options, &directory)?;
    done.insert(program.to_owned(), path.clone());
    Ok(path)
}

/// Compiles the source of a fixture to `directory/program`.
fn compile(source: &str, program: &str, options: &[&str], directory: &Path) -> Result<PathBuf> {
    let compiler = host::tool("gcc")?;
    let file = match program {
        name if name.starts_with("client") => "client.c",
        name => &format!("{name}.c"),
    };
    let path = directory.join(program);
    // A program of another run may be in use under this name: replace it, don't write into it.
    let fresh = directory.join(format!("{program}.{}", std::process::id()));
    let written = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/c")
        .join(file);
    let written = if written.exists() {
        written
    } else {
        let copy = directory.join(file);
        fs::write(&copy, source)?;
        copy
    };
    let libraries: &[&str] = match program {
        "curl" => &["-lcurl"],
        _ => &["-lpthread"],
    };
    let output = Command::new(compiler)
        .args(options)
        .args(["-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&fresh)
        .arg(&written)
        .args(libraries)
        .output()?;
    if !output.status.success() {
        bail!(
            "compiling {file}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    fs::rename(&fresh, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::line_of;

    #[test]
    fn a_marked_line_is_found_by_its_whole_name() {
        let source = "a\nb(); /* AT fetch */\nc(); // AT fetch_all\nAT plain\n";
        assert_eq!(line_of(source, "fetch").ok(), Some(2));
        assert_eq!(line_of(source, "fetch_all").ok(), Some(3));
        assert!(line_of(source, "plain").is_err());
        assert!(line_of(source, "other").is_err());
    }
}
