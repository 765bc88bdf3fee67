//! A Rust compiler that has the sources of `core`, which eBPF programs are built from.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};

use super::packages;
use crate::sh::{self, step};

/// The LLVM that bpf-linker is built against. It reads what compilers with this or an older LLVM
/// write; newer bitcode it may not understand.
pub const LLVM: u32 = 22;

/// The rustup name for Debian's compiler.
const LINKED: &str = "ebpf";

/// A way to come by the sources of `core`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Source {
    /// The toolchain that builds the workspace has them already.
    Active,
    /// A nightly toolchain has them already.
    Nightly,
    /// `rustup component add rust-src`.
    Rustup,
    /// Debian's `rustc-web` and `rust-web-src`.
    Debian,
}

/// Makes sure that a usable toolchain is there. Returns its rustup name where it was forced; left
/// to itself, the build script of `tracer` finds it by the same rules.
pub fn ensure(forced: Option<Source>, yes: bool) -> Result<Option<String>> {
    let active = std::env::var("RUSTUP_TOOLCHAIN").ok();
    match forced {
        Some(Source::Active) => {
            if !usable(active.as_deref()) {
                bail!(
                    "the active toolchain has no rust-src that can be used; try `--toolchain-from rustup`"
                );
            }
            Ok(active)
        }
        Some(Source::Nightly) => {
            if !usable(Some("nightly")) {
                bail!(
                    "there is no nightly toolchain with rust-src and LLVM {LLVM} or older; `rustup toolchain install nightly -c rust-src` gets one"
                );
            }
            Ok(Some("nightly".to_owned()))
        }
        Some(Source::Rustup) => {
            if !add_component() {
                bail!(
                    "`rustup component add rust-src` failed or took over a minute; try `--toolchain-from debian`"
                );
            }
            Ok(active)
        }
        Some(Source::Debian) => {
            link_debian(yes)?;
            Ok(Some(LINKED.to_owned()))
        }
        None => {
            if [active.as_deref(), Some("nightly"), Some(LINKED)]
                .into_iter()
                .any(usable)
            {
                return Ok(None);
            }
            if add_component() && usable(active.as_deref()) {
                return Ok(None);
            }
            link_debian(yes).context(
                "no toolchain has the sources of `core`; `rustup component add rust-src` would provide them",
            )?;
            Ok(None)
        }
    }
}

/// Whether the toolchain (the one on the path for `None`) has the sources of `core`, and an LLVM
/// that bpf-linker understands.
fn usable(name: Option<&str>) -> bool {
    let rustc = |args: &[&str]| {
        let mut rustc = match name {
            Some(name) => {
                let mut rustup = sh::command("rustup");
                rustup.args(["run", name, "rustc"]);
                rustup
            }
            None => sh::command("rustc"),
        };
        sh::capture(rustc.args(args)).unwrap_or_default()
    };
    Path::new(rustc(&["--print", "sysroot"]).trim())
        .join("lib/rustlib/src/rust/library/core")
        .is_dir()
        && llvm_major(&rustc(&["-vV"])).is_some_and(|major| major <= LLVM)
}

/// The major version of LLVM in the answer to `rustc -vV`.
fn llvm_major(answer: &str) -> Option<u32> {
    answer
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?
        .split('.')
        .next()?
        .parse()
        .ok()
}

fn add_component() -> bool {
    if !sh::has_program("rustup") {
        return false;
    }
    eprintln!("xtask: trying `rustup component add rust-src` (a few seconds, a minute at most) …");
    let added = sh::succeeds_within(
        sh::command("rustup").args(["component", "add", "rust-src"]),
        Duration::from_secs(60),
    );
    eprintln!(
        "xtask: … {}",
        if added {
            "done"
        } else {
            "not to be had that way"
        }
    );
    added
}

fn link_debian(yes: bool) -> Result<()> {
    packages::install(
        &["rustc-web", "rust-web-src"],
        "Debian's Rust compiler with the sources of `core`, for the eBPF programs",
        yes,
    )?;
    step(
        "linking Debian's compiler as rustup toolchain `ebpf`",
        || sh::quiet(sh::command("rustup").args(["toolchain", "link", LINKED, "/usr"])),
    )?;
    if !usable(Some(LINKED)) {
        bail!(
            "Debian's compiler was installed, but /usr has no sources of `core`, or an LLVM newer than {LLVM}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::llvm_major;

    #[test]
    fn the_llvm_version_is_read() {
        assert_eq!(
            llvm_major("rustc 1.95.0\nrelease: 1.95.0\nLLVM version: 22.1.2\n"),
            Some(22)
        );
        assert_eq!(llvm_major("rustc 1.95.0"), None);
        assert_eq!(llvm_major("LLVM version: unknown"), None);
    }
}
