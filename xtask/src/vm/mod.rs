//! `cargo xtask vm`: stock kernels, booted in QEMU without hardware help, with our programs inside.

mod cpio;
mod guest;
mod image;
mod kernel;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

pub use self::kernel::{all, wanted};
use self::{
    image::Image,
    kernel::{Kernel, Line},
};
use crate::{
    args::{Args, UsageError},
    build::{self, Executable, Profile},
    setup::{self, packages},
    sh,
    suites::{self, Outcome, Suite},
};

/// The tests' limits, and the times for which they watch, are multiplied by this. Emulation is ten
/// times slower than the machine it runs on, but most of a test's time is waiting.
const SLOWER: u32 = 2;
/// Tests side by side, for the same reason.
const JOBS: u32 = 5;
/// The fixture programs that are not compiled.
const PYTHON_FIXTURES: &str = "tests/fixtures/python";
/// Longer than this a job hangs, unless the user says otherwise.
pub const LIMIT: Duration = Duration::from_secs(15 * 60);

/// `cargo xtask vm`.
pub fn main(mut args: Args) -> Result<ExitCode> {
    let options = setup::Options::take(&mut args)?;
    let script = args.value("--run")?;
    let filter: Vec<String> = args
        .value("--only")?
        .iter()
        .flat_map(|names| names.split(',').map(str::to_owned))
        .collect();
    let limit = match args.value("--limit")? {
        Some(text) => Duration::from_secs(
            text.parse()
                .map_err(|_| UsageError(format!("`--limit {text}` is not a number of seconds")))?,
        ),
        None => LIMIT,
    };
    let names = args.positional();
    args.finish()?;
    let lines = wanted(&names)?;

    let ready = setup::to_build(options)?;
    setup::to_boot_guests(options)?;
    match script {
        Some(script) => {
            let programs = build::programs(&ready, Profile::default())?;
            run(&lines, &image_of(&programs)?, &script, limit)
        }
        None => {
            let programs = build::with_tests(&ready)?;
            Ok(suites::report(&test(&programs, &lines, &filter, limit)?))
        }
    }
}

/// Runs one shell command in each kernel.
fn run(lines: &[Line], image: &Image, script: &str, limit: Duration) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for line in lines {
        let kernel = line.fetch()?;
        eprintln!("xtask: Linux {}", kernel.version);
        let ended = guest::run(&kernel, image, script, limit, &mut |line| {
            println!("{line}");
        })?;
        if ended.status != 0 {
            eprintln!("xtask: exit status {}", ended.status);
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// Runs the behaviour tests in each kernel; one that can't be had is a skip with its reason.
pub fn test(
    programs: &[Executable],
    lines: &[Line],
    filter: &[String],
    limit: Duration,
) -> Result<Vec<Suite>> {
    let image = image_with_tests(programs)?;
    let job = format!("cd /tmp; /usr/bin/behaviour {}", filter.join(" "));
    let mut suites = Vec::new();
    for line in lines {
        let started = Instant::now();
        let mut outcome = Outcome::default();
        let mut name = format!("in a guest: Linux {}", line.name);
        match line.fetch() {
            Err(error) => outcome.skip(format!("{error:#}")),
            Ok(kernel) => {
                name = format!("in a guest: Linux {}", kernel.version);
                eprintln!("xtask: {name}");
                let ended = guest::run(&kernel, &image, &job, limit, &mut |line| {
                    suites::show(line);
                    outcome.read(line);
                });
                match ended {
                    Ok(ended) => {
                        outcome.close(ended.status == 0, format!("exit status {}", ended.status));
                        if ended.boots > 1 {
                            outcome
                                .remarks
                                .push(format!("it took {} boots", ended.boots));
                        }
                    }
                    Err(error) => outcome.fail(format!("{error:#}")),
                }
            }
        }
        suites.push(Suite {
            name,
            outcome,
            seconds: started.elapsed().as_secs_f64(),
        });
    }
    Ok(suites)
}

/// A guest with `tracer` and the fixture programs that cargo builds.
fn image_of(programs: &[Executable]) -> Result<Image> {
    let mut image = Image::new()?;
    image.add_stripped(&build::find(programs, "tracer")?, "/usr/bin/tracer")?;
    for program in programs {
        if program.package == "tests" && program.kind == "bin" && !program.is_test {
            image.add_program(&program.path, &format!("/fixtures/{}", program.target))?;
        }
    }
    Ok(image)
}

/// A guest with `tracer`, the behaviour tests and all their fixture programs.
fn image_with_tests(programs: &[Executable]) -> Result<Image> {
    let tests = &programs
        .iter()
        .find(|program| program.target == "behaviour" && program.is_test)
        .context("cargo built no behaviour tests")?
        .path;
    let folder = work_dir().join("fixtures");
    // of an earlier build
    let _ = fs::remove_dir_all(&folder);
    sh::quiet(sh::command(tests).arg("--build-fixtures").arg(&folder))?;
    let mut image = image_of(programs)?;
    image.add_stripped(tests, "/usr/bin/behaviour")?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            image.add_program(&path, &format!("/fixtures/{name}"))?;
        }
    }
    add_python(&mut image)?;
    Ok(image)
}

/// Python and the fixture programs written in it, at the place where the tests look for them.
fn add_python(image: &mut Image) -> Result<()> {
    let sources = sh::root().join(PYTHON_FIXTURES);
    image.add_tree(&sources, &sources.to_string_lossy())?;
    let Some(version) = packages::dependency("python3-minimal", "python3.") else {
        eprintln!("xtask: apt knows no Python; the tests that need it will be skipped in guests");
        return Ok(());
    };
    let version = version.trim_end_matches("-minimal");
    for package in [
        format!("{version}-minimal"),
        format!("lib{version}-minimal"),
        format!("lib{version}-stdlib"),
    ] {
        let folder = packages::unpack(&package)?;
        image.add_tree(&folder.join("usr"), "/usr")?;
    }
    let program = packages::unpack(&format!("{version}-minimal"))?
        .join("usr/bin")
        .join(version);
    image.add_program(&program, "/usr/bin/python3")
}

fn work_dir() -> PathBuf {
    sh::cache_dir().join("vm")
}
