//! `cargo xtask bench`: what tracing costs, measured and written into `docs/benchmarks.md`.
//!
//! To add a section: a module with a [`Section`], named in [`SECTIONS`]. A section measures in
//! interleaved rounds, so that what else the machine does falls on all variants alike, and
//! returns rows.

mod churn;
mod golang;
mod https;
mod interpreted;
mod judging;
mod keepalive;
mod load;
mod memory;
mod page;
mod peers;
mod probes;
mod profile;
mod programs;
mod row;
mod stacks;
mod stall;
mod stats;
mod syscall;
mod traced;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use self::page::Page;
pub use self::row::{Bar, Row};
use crate::{
    build::{self, Executable, Profile},
    setup::{self, Ready},
    sh::{self, step},
};

/// Where the results are kept, below the workspace's top folder.
const PAGE: &str = "docs/benchmarks.md";

/// One part of the page, which can be measured by itself.
#[derive(Debug)]
pub struct Section {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// How it was measured, as a paragraph of Markdown.
    pub about: &'static str,
    /// Measures.
    pub run: fn(&Bench) -> Result<Vec<Row>>,
}

/// Every section, in the page's order.
const SECTIONS: &[Section] = &[
    churn::SECTION,
    keepalive::SECTION,
    probes::SECTION,
    https::SECTION,
    syscall::SECTION,
    golang::SECTION,
    stacks::SECTION,
    interpreted::SECTION,
    stall::SECTION,
    memory::SECTION,
    judging::SECTION,
];

/// What a section measures with.
pub struct Bench {
    /// The `tracer` command, optimized.
    pub tracer: PathBuf,
    /// Another build of it, to be measured beside.
    pub against: Option<PathBuf>,
    /// The load generator (`tests/fixtures/c/bench.c`).
    pub load: PathBuf,
    /// The other programs that cargo built, optimized.
    #[expect(dead_code, reason = "for sections that trace other programs")]
    pub programs: Vec<Executable>,
    /// About the machine.
    pub ready: Ready,
    /// Fewer rounds, to see that it works.
    pub quick: bool,
    /// A folder for sockets and files, removed at the end.
    pub folder: PathBuf,
}

impl Bench {
    /// `many` rounds, or a few of them.
    pub fn rounds(&self, many: usize) -> usize {
        if self.quick { many.min(3) } else { many }
    }
}

/// Measure what tracing costs, beside other tools, as root; written to docs/benchmarks.md
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only these sections of the page
    #[arg(value_name = "SECTION", value_parser = section)]
    sections: Vec<&'static Section>,
    /// Few rounds, to see that it works
    #[arg(long)]
    quick: bool,
    /// Measure this build of tracer, too, round by round with the present one (churn, keepalive)
    #[arg(long, value_name = "TRACER")]
    against: Option<PathBuf>,
}

/// `cargo xtask bench`.
pub fn main(arguments: Arguments, options: setup::Options) -> Result<ExitCode> {
    let Arguments {
        sections,
        quick,
        against,
    } = arguments;
    let sections = match sections.is_empty() {
        true => SECTIONS.iter().collect(),
        false => sections,
    };
    if !sh::is_root() {
        bail!("measuring starts tracers, loads and network namespaces: run it as root");
    }
    let ready = setup::to_build(options)?;
    peers::install(options)?;
    let programs = build::programs(
        &ready,
        Profile {
            release: true,
            fixed: false,
            log: false,
        },
    )?;
    let folder = Folder::new()?;
    let bench = Bench {
        tracer: build::find(&programs, "tracer")?,
        against,
        load: compile("bench", &["-lpthread"])?,
        programs,
        ready,
        quick,
        folder: folder.0.clone(),
    };
    let path = sh::root().join(PAGE);
    let mut page = Page::read(&path)?;
    let (mut met, mut missed) = (0, 0);
    for section in sections {
        let started = Instant::now();
        let rows = step(&format!("measuring {}", section.name), || {
            (section.run)(&bench)
        })
        .with_context(|| format!("section {}", section.name))?;
        let text = page::section(section, &rows, started.elapsed(), quick)?;
        println!("{text}");
        page.set(section.title, text);
        met += rows.iter().filter(|row| row.met() == Some(true)).count();
        missed += rows.iter().filter(|row| row.met() == Some(false)).count();
        let order: Vec<&str> = SECTIONS.iter().map(|section| section.title).collect();
        page.write(&path, &order)?;
    }
    println!("{met} bars met, {missed} missed; written to {PAGE}");
    Ok(ExitCode::SUCCESS)
}

fn section(name: &str) -> Result<&'static Section> {
    let found = SECTIONS.iter().find(|section| section.name == name);
    found.with_context(|| {
        let known: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
        format!("there are {}", known.join(", "))
    })
}

/// Compiles a load generator of the fixtures as distributions compile: optimized, without frame pointers.
fn compile(name: &str, libraries: &[&str]) -> Result<PathBuf> {
    let folder = sh::root().join("target/bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let load = folder.join(name);
    sh::quiet(
        sh::command("gcc")
            .args([
                "-O2",
                "-g",
                "-fomit-frame-pointer",
                "-Wall",
                "-Wextra",
                "-o",
            ])
            .arg(&load)
            .arg(Path::new("tests/fixtures/c").join(format!("{name}.c")))
            .args(libraries),
    )?;
    Ok(load)
}

/// A folder that ends with this value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tracer-bench-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // a leftover in the temporary folder is no failure
        let _ = fs::remove_dir_all(&self.0);
    }
}
