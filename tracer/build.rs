//! Builds the eBPF programs and leaves the object in `OUT_DIR/tracer-probes`.
//!
//! They are a cargo build of their own, for another target, inside this one. `aya-build` would do
//! the same, but passes every line cargo prints on as a warning; here only real warnings are.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// Toolchains that may have the sources of `core`, in order of preference. An empty name is the
/// one that builds the workspace; `ebpf` is what `cargo xtask setup` links where rustup can't
/// provide the sources.
const CANDIDATES: &[&str] = &["", "nightly", "ebpf"];

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=TRACER_EBPF_TOOLCHAIN");
    if env::var_os("CARGO_CFG_FUZZING").is_some() {
        // The fuzzer runs parsers alone.
        println!("cargo:rustc-env=TRACER_LAYOUT=fuzzing");
        let object = PathBuf::from(variable("OUT_DIR")?).join("tracer-probes");
        return fs::write(&object, "")
            .with_context(|| format!("cannot write {}", object.display()));
    }
    let toolchain = match env::var("TRACER_EBPF_TOOLCHAIN") {
        Ok(name) => name,
        Err(_) => find_toolchain()?,
    };
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let ebpf = root.join("../tracer-ebpf");
    println!("cargo:rerun-if-changed={}", ebpf.display());
    println!("cargo:rustc-env=TRACER_LAYOUT={}", layout(&ebpf)?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    // what aya-ebpf asks for, to know the registers of the traced machine
    let arch = format!(
        "--cfg=bpf_target_arch=\"{}\"",
        variable("CARGO_CFG_TARGET_ARCH")?
    );
    let places = places(&toolchain, &root.join(".."));
    let mut flags = vec![
        arch.as_str(),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // else the linker has memory cleared by a function that writes single bytes
        "-Clink-arg=--disable-expand-memcpy-in-order",
    ];
    flags.extend(places.iter().map(String::as_str));
    let flags = flags.join("\x1f");
    // a folder of its own: cargo holds a lock on the one in use
    let folder = out.join("ebpf");

    // set by cargo for the feature `ebpf-log`
    let features = match env::var_os("CARGO_FEATURE_EBPF_LOG") {
        Some(_) => "log",
        None => "",
    };
    let output = program(&toolchain, "cargo")
        .args(["build", "--quiet", "--release", "--package", "tracer-ebpf"])
        .args(["--bin", "tracer-probes", "--no-default-features"])
        .args(["--features", features])
        .args(["-Z", "build-std=core", "--target", target, "--target-dir"])
        .arg(&folder)
        .current_dir(&ebpf)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        // `-Z` on a stable compiler; only this nested build sees it
        .env("RUSTC_BOOTSTRAP", "1")
        // the outer build's compiler, which need not be the one chosen here
        .env_remove("RUSTC")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .output()
        .with_context(|| format!("cannot start cargo of toolchain `{toolchain}`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!(
            "the eBPF programs did not build with toolchain `{toolchain}` ({}); \
             if bpf-linker is missing or too old, run `cargo xtask setup`\n{said}",
            output.status
        );
    }
    for line in said.lines().filter(|line| !line.trim().is_empty()) {
        println!("cargo:warning={line}");
    }
    let built = folder.join(target).join("release/tracer-probes");
    fs::copy(&built, out.join("tracer-probes"))
        .with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(())
}

/// Where the sources are is not told in the programs, so that the same ones are built everywhere.
fn places(toolchain: &str, root: &Path) -> Vec<String> {
    let mut places = Vec::new();
    let mut add = |from: PathBuf, to| {
        let from = from.canonicalize().unwrap_or(from);
        places.push(format!("--remap-path-prefix={}={to}", from.display()));
    };
    add(root.to_owned(), "/tracer");
    if let Some(home) = env::var_os("CARGO_HOME") {
        add(PathBuf::from(home), "/cargo");
    }
    let mut asked = program(toolchain, "rustc");
    if let Ok(answer) = asked.args(["--print", "sysroot"]).output() {
        let said = String::from_utf8_lossy(&answer.stdout);
        add(PathBuf::from(said.trim()), "/rust");
    }
    places
}

/// Hash of what is in the maps and how many there are of it: the records' sources without their
/// comments, and the maps' definitions. Maps kept by a program built from others can't be taken
/// over.
fn layout(ebpf: &Path) -> Result<String> {
    let mut sources = Vec::new();
    list(&ebpf.join("src"), &mut sources)?;
    sources.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for path in sources {
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let is_record = path.components().any(|part| part.as_os_str() == "abi");
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| match is_record {
            true => !line.starts_with("//"),
            false => line.contains("::with_max_entries(") || line.contains("::with_byte_size("),
        });
        for byte in lines.flat_map(|line| line.bytes().chain([b'\n'])) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    Ok(format!("{hash:016x}"))
}

fn list(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let unreadable = || format!("cannot list {}", folder.display());
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if path.is_dir() {
            list(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("{name} is not set; this is run by cargo"))
}

/// `name` of a rustup toolchain, or the one on the path.
fn program(toolchain: &str, name: &str) -> Command {
    if toolchain.is_empty() {
        return Command::new(name);
    }
    let mut command = Command::new("rustup");
    command.args(["run", toolchain, name]);
    command
}

fn find_toolchain() -> Result<String> {
    let active = env::var("RUSTUP_TOOLCHAIN").unwrap_or_default();
    for &candidate in CANDIDATES {
        let name = if candidate.is_empty() {
            active.as_str()
        } else {
            candidate
        };
        if has_core_sources(name) {
            return Ok(name.to_owned());
        }
    }
    bail!(
        "no Rust toolchain here has the sources of `core`, which the eBPF programs need: \
         run `cargo xtask setup`, or `rustup component add rust-src`"
    )
}

fn has_core_sources(toolchain: &str) -> bool {
    program(toolchain, "rustc")
        .args(["--print", "sysroot"])
        .env_remove("RUSTC_WRAPPER")
        .output()
        .is_ok_and(|out| {
            let sysroot = String::from_utf8_lossy(&out.stdout);
            out.status.success()
                && Path::new(sysroot.trim())
                    .join("lib/rustlib/src/rust/library/core")
                    .is_dir()
        })
}
