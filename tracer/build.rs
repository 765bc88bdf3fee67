//! Builds the eBPF programs and leaves the object in `OUT_DIR/tracer-probes`.

use std::{env, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain, build_ebpf};

/// Toolchains that may have the sources of `core`, in order of preference. An empty name is the
/// one that builds the workspace; `ebpf` is what `cargo xtask setup` links where rustup can't
/// provide the sources.
const CANDIDATES: &[&str] = &["", "nightly", "ebpf"];

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=TRACER_EBPF_TOOLCHAIN");
    let toolchain = match env::var("TRACER_EBPF_TOOLCHAIN") {
        Ok(name) => name,
        Err(_) => find_toolchain()?,
    };
    let root = env::var("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?;
    let ebpf = Path::new(&root).join("../tracer-ebpf");
    // `-Z build-std` on a stable compiler; only the nested build sees it.
    // SAFETY: this build script has one thread.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    build_ebpf(
        [Package {
            name: "tracer-ebpf",
            root_dir: ebpf
                .to_str()
                .context("the path of tracer-ebpf is not UTF-8")?,
            no_default_features: true,
            features: &[],
        }],
        Toolchain::Custom(&toolchain),
    )
}

fn find_toolchain() -> Result<String> {
    let active = env::var("RUSTUP_TOOLCHAIN").unwrap_or_default();
    for &candidate in CANDIDATES {
        let name = if candidate.is_empty() {
            active.as_str()
        } else {
            candidate
        };
        if !name.is_empty() && has_core_sources(name) {
            return Ok(name.to_owned());
        }
    }
    bail!(
        "no Rust toolchain here has the sources of `core`, which the eBPF programs need: \
         run `cargo xtask setup`, or `rustup component add rust-src`"
    )
}

fn has_core_sources(toolchain: &str) -> bool {
    Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        .output()
        .is_ok_and(|out| {
            let sysroot = String::from_utf8_lossy(&out.stdout);
            out.status.success()
                && Path::new(sysroot.trim())
                    .join("lib/rustlib/src/rust/library/core")
                    .is_dir()
        })
}
