//! A small test runner: libtest cannot say "skipped, because", and a test that could not run must
//! never look like one that passed.

use std::{
    any::Any,
    cell::Cell,
    env, fmt,
    io::{self, Write},
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::tracer;

thread_local! {
    /// The backend that the test of this thread is about.
    static BACKEND: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// The backend that every tracer of the running test is forced to; `None`: its own choice.
#[must_use]
pub fn backend() -> Option<&'static str> {
    BACKEND.get()
}

/// One test.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// `crate::file::function`, as [`module_path!`] gives it.
    pub name: &'static str,
    /// Fails with an error or a panic; skips with [`Skip`].
    pub run: fn() -> Result<()>,
    /// Run with this backend forced; `None`: with the one that tracer chooses.
    pub backend: Option<&'static str>,
}

impl Test {
    /// `file::function`, with `@backend` where one is forced.
    fn short(&self) -> String {
        let short = self
            .name
            .split_once("::")
            .map_or(self.name, |(_, rest)| rest);
        match self.backend {
            Some(backend) => format!("{short}@{backend}"),
            None => short.to_owned(),
        }
    }
}

/// These tests once more for each backend.
#[must_use]
pub fn by_backend(tests: &[Test]) -> Vec<Test> {
    tracer::BACKENDS
        .iter()
        .flat_map(|&backend| {
            tests.iter().map(move |test| Test {
                backend: Some(backend),
                ..*test
            })
        })
        .collect()
}

/// Lists the test functions of a file as `pub const TESTS`, or under another name.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        $crate::tests!(TESTS: $($name),*);
    };
    ($list:ident: $($name:ident),* $(,)?) => {
        /// Tests of this file.
        pub const $list: &[$crate::runner::Test] = &[
            $($crate::runner::Test {
                name: concat!(module_path!(), "::", stringify!($name)),
                run: $name,
                backend: None,
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

/// Neither passed nor skipped: what is tested does not exist on this kernel, or is tested
/// elsewhere, and why.
#[derive(Debug)]
pub struct NotApplicable(pub String);

impl fmt::Display for NotApplicable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotApplicable {}

/// What became of a test.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
    NotApplicable(String),
}

/// What the command line asks for.
struct Options {
    filters: Vec<String>,
    exact: bool,
    list: bool,
    jobs: usize,
    /// Tests that have not begun by then are skipped.
    until: Option<Instant>,
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
            until: env::var("TRACER_TEST_WITHIN")
                .ok()
                .and_then(|seconds| seconds.parse().ok())
                .map(|seconds| Instant::now() + Duration::from_secs(seconds)),
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
                    test.short() == *filter
                } else {
                    // a backend's variants only where they are meant
                    test.short().contains(filter.as_str())
                        && (test.backend.is_none() || filter.contains('@'))
                }
            })
    }
}

/// Runs the tests that the command line names, a few at a time, and prints a line for each.
///
/// The last line is `N passed, N failed, N skipped`; a line `N not applicable` may stand before it.
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
    let Counts {
        passed,
        failed,
        skipped,
        not_applicable,
    } = run_all(&wanted, options.jobs, options.until);
    if not_applicable > 0 {
        println!("{not_applicable} not applicable");
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    ExitCode::from(u8::from(failed > 0))
}

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
    not_applicable: usize,
}

/// Runs `tests` with `jobs` threads; what has not begun by `until` is skipped.
fn run_all(tests: &[Test], jobs: usize, until: Option<Instant>) -> Counts {
    let queue = Mutex::new(tests.iter());
    let counts = Mutex::new(Counts::default());
    // The workers live until the last test has ended: a fixture dies with the thread that started it.
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(test) = next else { break };
                    let begun = Instant::now();
                    let outcome = if until.is_some_and(|until| begun >= until) {
                        Outcome::Skipped("no time left (TRACER_TEST_WITHIN)".to_owned())
                    } else {
                        run_one(test)
                    };
                    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                    let text = match outcome {
                        Outcome::Passed => {
                            counts.passed += 1;
                            "ok".to_owned()
                        }
                        Outcome::Failed(why) => {
                            counts.failed += 1;
                            format!("FAILED\n    {}", why.trim_end().replace('\n', "\n    "))
                        }
                        Outcome::Skipped(why) => {
                            counts.skipped += 1;
                            format!("skipped ({why})")
                        }
                        Outcome::NotApplicable(why) => {
                            counts.not_applicable += 1;
                            format!("not applicable ({why})")
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
    let run = || {
        if let Some(backend) = test.backend {
            tracer::need_backend(backend)?;
        }
        BACKEND.set(test.backend);
        (test.run)()
    };
    match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(error)) => {
            if let Some(skip) = error.downcast_ref::<Skip>() {
                Outcome::Skipped(skip.0.clone())
            } else if let Some(reason) = error.downcast_ref::<NotApplicable>() {
                Outcome::NotApplicable(reason.0.clone())
            } else {
                Outcome::Failed(format!("{error:#}"))
            }
        }
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
    use std::time::Instant;

    use anyhow::bail;

    use super::{Counts, NotApplicable, Options, Skip, Test, run_all};

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

    fn elsewhere() -> anyhow::Result<()> {
        bail!(NotApplicable("no such thing in this kernel".to_owned()))
    }

    const ALL: &[Test] = &[
        Test {
            name: "behaviour::a::passes",
            run: passes,
            backend: None,
        },
        Test {
            name: "behaviour::a::fails",
            run: fails,
            backend: None,
        },
        Test {
            name: "behaviour::b::panics",
            run: panics,
            backend: None,
        },
        Test {
            name: "behaviour::b::skips",
            run: skips,
            backend: None,
        },
        Test {
            name: "behaviour::b::elsewhere",
            run: elsewhere,
            backend: None,
        },
    ];

    #[test]
    fn each_outcome_is_counted_as_what_it_is() {
        let expected = Counts {
            passed: 1,
            failed: 2,
            skipped: 1,
            not_applicable: 1,
        };
        assert_eq!(run_all(ALL, 2, None), expected);
        let late = Counts {
            skipped: 5,
            ..Counts::default()
        };
        assert_eq!(run_all(ALL, 2, Some(Instant::now())), late);
    }

    #[test]
    fn filters_name_files_and_functions() {
        let options = |text: &str| Options::parse(text.split_whitespace().map(str::to_owned));
        let count = |text: &str| ALL.iter().filter(|test| options(text).wants(test)).count();
        assert_eq!(count(""), 5);
        assert_eq!(count("b::"), 3);
        assert_eq!(count("passes skips --nocapture"), 2);
        assert_eq!(count("a::passes --exact"), 1);
        assert_eq!(count("passes --exact"), 0);
        assert_eq!(options("--test-threads 7").jobs, 7);
        let forced = Test {
            backend: Some("kprobe"),
            ..ALL[0]
        };
        assert_eq!(forced.short(), "a::passes@kprobe");
        for (text, wanted) in [("", true), ("a::", false), ("@kprobe", true), ("s@", true)] {
            assert_eq!(options(text).wants(&forced), wanted, "{text}");
        }
    }
}
