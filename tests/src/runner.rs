//! A small test runner: libtest cannot say "skipped, because", and a test that could not run must
//! never look like one that passed.

use std::{
    any::Any,
    env, fmt,
    io::{self, Write},
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::Result;

/// One test.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// `crate::file::function`, as [`module_path!`] gives it.
    pub name: &'static str,
    /// Fails with an error or a panic; skips with [`Skip`].
    pub run: fn() -> Result<()>,
}

impl Test {
    /// `file::function`.
    fn short(&self) -> &'static str {
        self.name
            .split_once("::")
            .map_or(self.name, |(_, rest)| rest)
    }
}

/// Lists the test functions of a file as `pub const TESTS`.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// The tests of this file.
        pub const TESTS: &[$crate::runner::Test] = &[
            $($crate::runner::Test {
                name: concat!(module_path!(), "::", stringify!($name)),
                run: $name,
            }),*
        ];
    };
}

/// Not a failure: the test could not run here, and why.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// What became of a test.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// What the command line asks for.
struct Options {
    filters: Vec<String>,
    exact: bool,
    list: bool,
    jobs: usize,
}

impl Options {
    /// Takes libtest's own options as far as they mean something here, and ignores the others, so
    /// that `cargo test -- --nocapture` does not fail.
    fn parse(arguments: impl Iterator<Item = String>) -> Options {
        let mut options = Options {
            filters: Vec::new(),
            exact: false,
            list: false,
            jobs: env::var("TRACER_TEST_JOBS")
                .ok()
                .and_then(|n| n.parse().ok())
                .unwrap_or(3),
        };
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--exact" => options.exact = true,
                "--list" => options.list = true,
                "--jobs" | "--test-threads" => {
                    if let Some(n) = arguments.next().and_then(|n| n.parse().ok()) {
                        options.jobs = n;
                    }
                }
                flag if flag.starts_with('-') => {}
                filter => options.filters.push(filter.to_owned()),
            }
        }
        options.jobs = options.jobs.max(1);
        options
    }

    fn wants(&self, test: &Test) -> bool {
        self.filters.is_empty()
            || self.filters.iter().any(|filter| {
                if self.exact {
                    test.short() == filter
                } else {
                    test.short().contains(filter.as_str())
                }
            })
    }
}

/// Runs the tests that the command line names, a few at a time, and prints a line for each.
///
/// The last line is `N passed, N failed, N skipped`.
pub fn main(groups: &[&[Test]]) -> ExitCode {
    let options = Options::parse(env::args().skip(1));
    let wanted: Vec<Test> = groups
        .iter()
        .copied()
        .flatten()
        .copied()
        .filter(|test| options.wants(test))
        .collect();
    if options.list {
        for test in &wanted {
            println!("{}: test", test.short());
        }
        return ExitCode::SUCCESS;
    }
    println!("running {} tests", wanted.len());
    let (passed, failed, skipped) = run_all(&wanted, options.jobs);
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    ExitCode::from(u8::from(failed > 0))
}

/// Runs `tests` with `jobs` threads and returns how many passed, failed and were skipped.
fn run_all(tests: &[Test], jobs: usize) -> (usize, usize, usize) {
    let queue = Mutex::new(tests.iter());
    let counts = Mutex::new((0, 0, 0));
    // The workers live until the last test has ended: a fixture dies with the thread that started it.
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(test) = next else { break };
                    let begun = Instant::now();
                    let outcome = run_one(test);
                    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                    let text = match outcome {
                        Outcome::Passed => {
                            counts.0 += 1;
                            "ok".to_owned()
                        }
                        Outcome::Failed(why) => {
                            counts.1 += 1;
                            format!("FAILED\n    {}", why.trim_end().replace('\n', "\n    "))
                        }
                        Outcome::Skipped(why) => {
                            counts.2 += 1;
                            format!("skipped ({why})")
                        }
                    };
                    let seconds = begun.elapsed().as_secs_f64();
                    println!("test {} ({seconds:.1} s) ... {text}", test.short());
                    // A closed pipe is the reader's affair.
                    let _ = io::stdout().flush();
                }
            });
        }
    });
    counts.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one test; a panic is a failure.
fn run_one(test: &Test) -> Outcome {
    match panic::catch_unwind(AssertUnwindSafe(test.run)) {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(error)) => match error.downcast_ref::<Skip>() {
            Some(skip) => Outcome::Skipped(skip.0.clone()),
            None => Outcome::Failed(format!("{error:#}")),
        },
        Err(panic) => Outcome::Failed(panic_text(panic.as_ref())),
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::{Options, Skip, Test, run_all};

    fn passes() -> anyhow::Result<()> {
        Ok(())
    }

    fn fails() -> anyhow::Result<()> {
        bail!("wrong")
    }

    fn panics() -> anyhow::Result<()> {
        panic!("out of luck")
    }

    fn skips() -> anyhow::Result<()> {
        bail!(Skip("no such thing here".to_owned()))
    }

    const ALL: &[Test] = &[
        Test {
            name: "behaviour::a::passes",
            run: passes,
        },
        Test {
            name: "behaviour::a::fails",
            run: fails,
        },
        Test {
            name: "behaviour::b::panics",
            run: panics,
        },
        Test {
            name: "behaviour::b::skips",
            run: skips,
        },
    ];

    #[test]
    fn each_outcome_is_counted_as_what_it_is() {
        assert_eq!(run_all(ALL, 2), (1, 2, 1));
    }

    #[test]
    fn filters_name_files_and_functions() {
        let options = |text: &str| Options::parse(text.split_whitespace().map(str::to_owned));
        let count = |text: &str| ALL.iter().filter(|test| options(text).wants(test)).count();
        assert_eq!(count(""), 4);
        assert_eq!(count("b::"), 2);
        assert_eq!(count("passes skips --nocapture"), 2);
        assert_eq!(count("a::passes --exact"), 1);
        assert_eq!(count("passes --exact"), 0);
        assert_eq!(options("--test-threads 7").jobs, 7);
    }
}
