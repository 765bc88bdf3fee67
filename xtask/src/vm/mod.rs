//! `cargo xtask vm`: stock kernels, booted in QEMU without hardware help, with our programs inside.

mod cpio;
mod guest;
mod image;
mod kernel;
mod verifier;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

pub use self::kernel::{Line, all};
use self::{guest::Job, image::Image, kernel::Kernel};
use crate::{
    build::{self, Executable, Profile},
    setup::{self, Emulator, packages},
    sh::{self, step},
    suites::{self, Outcome, Suite},
};

/// The tests' limits, and the times for which they watch, are multiplied by this. Emulation is ten
/// times slower than the machine it runs on, but most of a test's time is waiting.
const SLOWER: u32 = 2;
/// Tests side by side, for the same reason.
const JOBS: u32 = 4;
/// The fixture programs that are not compiled.
const PYTHON_FIXTURES: &str = "tests/fixtures/python";
/// The sources of those in Go: the tests look up which lines are at fault.
const GO_FIXTURES: &str = "tests/fixtures/go";
/// Guests side by side: each has one thread of emulation.
const AT_ONCE: usize = 2;
/// With less time than this a guest is not worth booting.
const SHORTEST: Duration = Duration::from_secs(60);
/// What a test that began in time may take beyond it.
const GRACE: Duration = Duration::from_secs(180);
/// Longer than this a job hangs, unless the user says otherwise.
pub const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Boot Debian's kernels in QEMU and run the behaviour tests there, or a shell command
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Which kernels, of 5.10, 6.1, 6.12 and 7 [default: all]
    #[arg(value_name = "KERNEL", value_parser = kernel::line)]
    lines: Vec<Line>,
    /// Only tests with one of these in their name; `@kprobe` and the like: the scenarios with one backend
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Run this there instead (`tracer` is on the path, the fixture programs are in /fixtures)
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
    /// Measure what verifying takes, and write docs/verifier.md
    #[arg(long)]
    report: bool,
    /// For each kernel [default: 15 minutes]
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
}

/// `cargo xtask vm`.
pub fn main(arguments: Arguments, options: setup::Options) -> Result<ExitCode> {
    let Arguments {
        lines,
        only: filter,
        run: script,
        report,
        limit,
    } = arguments;
    let limit = limit.map_or(LIMIT, Duration::from_secs);
    let lines = if lines.is_empty() { all() } else { lines };

    let ready = setup::to_build(options)?;
    let emulator = setup::to_boot_guests(options)?;
    if report {
        let programs = build::with_tests(&ready)?;
        let native = &test_program(&programs, "kernel")?.path;
        let mut image = Image::new(&emulator.busybox);
        image.add_stripped(native, verifier::PROGRAM)?;
        verifier::report(&emulator, &image, &lines, native, limit)?;
        return Ok(ExitCode::SUCCESS);
    }
    match script {
        Some(script) => {
            let programs = build::programs(&ready, Profile::default())?;
            run(&emulator, &lines, &programs, &script, limit)
        }
        None => {
            let programs = build::with_tests(&ready)?;
            let jobs: Vec<(Line, Vec<String>)> =
                lines.iter().map(|line| (*line, filter.clone())).collect();
            let until = Instant::now() + limit * u32::try_from(jobs.len()).unwrap_or(1);
            Ok(suites::report(&test(&emulator, &programs, jobs, until)?))
        }
    }
}

/// Runs one shell command in each kernel.
fn run(
    emulator: &Emulator,
    lines: &[Line],
    programs: &[Executable],
    script: &str,
    limit: Duration,
) -> Result<ExitCode> {
    let image = image_of(emulator, programs)?;
    let env = surroundings(limit);
    let job = Job {
        script,
        env: &env,
        limit,
    };
    let mut code = ExitCode::SUCCESS;
    for line in lines {
        let kernel = line.fetch()?;
        eprintln!("xtask: Linux {}", kernel.version);
        let ended = guest::run(emulator, &kernel, &image, job, &mut |line| {
            println!("{line}");
        })?;
        if ended.status != 0 {
            eprintln!("xtask: exit status {}", ended.status);
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// What can be asked of single tests, in a guest too.
const ASKED: [&str; 3] = [
    "TRACER_CHAOS_SECONDS",
    "TRACER_CHAOS_SEED",
    "TRACER_HOSTILE",
];

/// The variables that our programs look at in a guest.
fn surroundings(time: Duration) -> Vec<(String, String)> {
    let own = [
        ("TRACER_BIN", "/usr/bin/tracer".to_owned()),
        ("TRACER_FIXTURES", "/fixtures".to_owned()),
        ("TRACER_TEST_GUEST", "1".to_owned()),
        ("TRACER_TEST_SLOW", SLOWER.to_string()),
        ("TRACER_TEST_JOBS", JOBS.to_string()),
        ("TRACER_TEST_WITHIN", time.as_secs().to_string()),
        ("RUST_BACKTRACE", "1".to_owned()),
    ];
    let asked = ASKED.map(|name| std::env::var(name).ok().map(|value| (name, value)));
    own.into_iter()
        .chain(asked.into_iter().flatten())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Runs behaviour tests in each kernel, two guests side by side where there are processors for
/// them. A kernel that can't be had is a skip with its reason, and so is what has not begun by
/// `until`.
pub fn test(
    emulator: &Emulator,
    programs: &[Executable],
    jobs: Vec<(Line, Vec<String>)>,
    until: Instant,
) -> Result<Vec<Suite>> {
    let image = image_with_tests(emulator, programs)?;
    // one after the other: they share apt's lists
    let jobs: Vec<_> = jobs
        .into_iter()
        .map(|(line, filter)| (line, line.fetch(), filter))
        .collect();
    let side_by_side = thread::available_parallelism().map_or(1, |n| n.get().min(AT_ONCE));
    let rounds_left = AtomicUsize::new(jobs.len());
    let suites: Vec<Mutex<Option<Suite>>> = jobs.iter().map(|_| Mutex::default()).collect();
    let queue = Mutex::new(jobs.iter().zip(&suites));
    thread::scope(|scope| {
        for _ in 0..side_by_side {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(((line, kernel, filter), place)) = next else {
                        break;
                    };
                    // an equal share of what is left, for those that come after it, too
                    let waiting = rounds_left.fetch_sub(1, Ordering::Relaxed);
                    let rounds = u32::try_from(waiting.div_ceil(side_by_side)).unwrap_or(1);
                    let left = until.saturating_duration_since(Instant::now()) / rounds.max(1);
                    let suite = test_one(emulator, &image, (line.name, kernel), filter, left);
                    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(suite);
                }
            });
        }
    });
    Ok(suites
        .into_iter()
        .filter_map(|suite| suite.into_inner().unwrap_or_else(PoisonError::into_inner))
        .collect())
}

/// Runs behaviour tests in one kernel.
fn test_one(
    emulator: &Emulator,
    image: &Image,
    (line, kernel): (&str, &Result<Kernel>),
    filter: &[String],
    left: Duration,
) -> Suite {
    let started = Instant::now();
    let mut outcome = Outcome::default();
    let mut name = format!("in a guest: Linux {line}");
    if left < SHORTEST {
        outcome.skip(format!("nothing was tested in Linux {line}: no time left"));
        return Suite {
            name,
            outcome,
            seconds: 0.0,
        };
    }
    match kernel {
        Err(error) => outcome.skip(format!("{error:#}")),
        Ok(kernel) => {
            name = format!("in a guest: Linux {}", kernel.version);
            eprintln!("xtask: {name}");
            let env = surroundings(left);
            let names = filter.join(" ");
            let job = Job {
                script: &format!(
                    "cd /tmp; {} {names}; kernel=$?; /usr/bin/behaviour {names}; exit $((kernel | $?))",
                    verifier::PROGRAM
                ),
                env: &env,
                limit: left + GRACE,
            };
            let ended = guest::run(emulator, kernel, image, job, &mut |said| {
                suites::show(&format!("[{line}] {said}"), said);
                outcome.read(said);
            });
            match ended {
                Ok(ended) => {
                    outcome.close(ended.status == 0, format!("exit status {}", ended.status));
                    if ended.boots > 1 {
                        let remark = format!("it took {} boots", ended.boots);
                        outcome.remarks.push(remark);
                    }
                }
                Err(error) => outcome.fail(format!("{error:#}")),
            }
        }
    }
    Suite {
        name,
        outcome,
        seconds: started.elapsed().as_secs_f64(),
    }
}

/// The test program of this name.
fn test_program<'a>(programs: &'a [Executable], name: &str) -> Result<&'a Executable> {
    programs
        .iter()
        .find(|program| program.target == name && program.is_test)
        .with_context(|| format!("cargo built no test program `{name}`"))
}

/// A guest with `tracer` and the fixture programs that cargo builds.
fn image_of(emulator: &Emulator, programs: &[Executable]) -> Result<Image> {
    let mut image = Image::new(&emulator.busybox);
    image.add_stripped(&build::find(programs, "tracer")?, "/usr/bin/tracer")?;
    for program in programs {
        if program.package == "tests" && program.kind == "bin" && !program.is_test {
            image.add_program(&program.path, &format!("/fixtures/{}", program.target))?;
        }
    }
    Ok(image)
}

/// A guest with `tracer`, the behaviour tests and all their fixture programs.
fn image_with_tests(emulator: &Emulator, programs: &[Executable]) -> Result<Image> {
    let tests = &test_program(programs, "behaviour")?.path;
    let folder = work_dir().join("fixtures");
    // of an earlier build
    let _ = fs::remove_dir_all(&folder);
    let mut build = sh::command(tests);
    build.arg("--build-fixtures").arg(&folder).arg("--go");
    step("building the fixture programs for guests", || {
        sh::quiet(&mut build)
    })?;
    let mut image = image_of(emulator, programs)?;
    image.add_stripped(tests, "/usr/bin/behaviour")?;
    image.add_stripped(&test_program(programs, "kernel")?.path, verifier::PROGRAM)?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
            image.add_program(&path, &format!("/fixtures/{name}"))?;
        }
    }
    let go = sh::root().join(GO_FIXTURES);
    image.add_tree(&go, &go.to_string_lossy())?;
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
    image.add_program(&program, &format!("/usr/bin/{version}"))?;
    image.add_link("/usr/bin/python3", version);
    Ok(())
}

fn work_dir() -> PathBuf {
    sh::cache_dir().join("vm")
}
