//! The corpus: programs that leak and programs that only look so, and how tracer judges them.

pub mod approved;
pub mod judge;
pub mod subjects;
pub mod table;

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    daemon::Daemon,
    go::{self, Variant},
    host, languages,
    program::Program,
    runner::Skip,
    tracer,
};
use judge::Cell;
use subjects::Subject;

/// Programs are ready within this time, however busy the machine.
const START_WITHIN: Duration = Duration::from_secs(90);
/// An inconclusive report may ask for this many seconds at most.
const SETTLE_MAX: u64 = 300;
/// Programs of each compiled language.
const STEMS: [&str; 3] = ["leaks", "healthy", "more"];
/// Version of Go that the corpus uses.
const GO: &str = "1.27.3";

/// What became of one subject.
#[derive(Debug)]
pub enum Outcome {
    /// It was watched.
    Seen {
        /// What was right.
        cells: Vec<Cell>,
        /// The report.
        report: Value,
        /// Seconds after which a daemon that watched another run, and was asked every second, had a
        /// finding of at least medium confidence.
        found_after: Option<f64>,
        /// Of an inconclusive one: the seconds that it asked for in all, and the verdict after them.
        settled: Option<(u64, String)>,
    },
    /// Its language is not on this machine.
    Skipped(String),
    /// It could not be run, or tracer failed.
    Failed(String),
}

impl Outcome {
    /// One word or a reason, for a line of progress.
    #[must_use]
    pub fn in_short(&self) -> &str {
        match self {
            Outcome::Seen { cells, .. } if cells.iter().all(|c| c.right) => "right",
            Outcome::Seen { .. } => "wrong",
            Outcome::Skipped(why) | Outcome::Failed(why) => why,
        }
    }
}

/// The programs, built.
#[derive(Debug)]
pub struct Programs {
    directory: TempDir,
    /// Languages that can't be had, and why.
    missing: HashMap<String, String>,
    go: Option<PathBuf>,
    /// Interpreters and programs that call servers of gRPC, with their first arguments, by language.
    grpc: HashMap<String, Vec<PathBuf>>,
}

impl Programs {
    /// Builds what the subjects need.
    ///
    /// # Errors
    /// When a compiler that is there fails.
    pub fn build<'a>(subjects: impl Iterator<Item = &'a Subject>) -> Result<Programs> {
        let subjects: Vec<&Subject> = subjects.collect();
        let languages: BTreeSet<String> =
            subjects.iter().map(|s| s.language().to_owned()).collect();
        let mut programs = Programs {
            directory: TempDir::new().context("a folder for the programs")?,
            missing: HashMap::new(),
            go: None,
            grpc: HashMap::new(),
        };
        for subject in subjects.into_iter().filter(|subject| subject.grpc) {
            if !programs.grpc.contains_key(subject.language()) {
                let program = match subject.language() {
                    "go" => vec![go::build_with_grpc(GO)?],
                    _ => vec![languages::python_with_grpc()?, subject.source()?],
                };
                programs.grpc.insert(subject.language().to_owned(), program);
            }
        }
        for language in languages {
            match programs.build_language(&language) {
                Ok(()) => {}
                Err(error) if error.is::<Skip>() => {
                    programs.missing.insert(language, error.to_string());
                }
                Err(error) => {
                    return Err(error.context(format!("building the {language} programs")));
                }
            }
        }
        Ok(programs)
    }

    fn build_language(&mut self, language: &str) -> Result<()> {
        let source = subjects::directory().join(language);
        let out = |name: &str| self.directory.path().join(format!("{language}-{name}"));
        let need = |tool: &str| {
            host::tool(tool).map_err(|_| anyhow::Error::from(Skip(format!("skipped, no {tool}"))))
        };
        match language {
            "python" => need("python3").map(drop),
            "shell" => need("bash").and_then(|_| need("curl")).map(drop),
            "node" | "ruby" | "php" => need(language).map(drop),
            "c" => {
                for name in STEMS {
                    let file = source.join(format!("{name}.c"));
                    let flags = ["-O1", "-g", "-Wall", "-D_GNU_SOURCE", "-pthread", "-o"];
                    let mut gcc = Command::new(need("gcc")?);
                    quietly(gcc.args(flags).arg(out(name)).arg(file))?;
                }
                Ok(())
            }
            "rust" => {
                for name in STEMS {
                    let file = source.join(format!("{name}.rs"));
                    let mut rustc = Command::new(need("rustc")?);
                    quietly(
                        rustc
                            .args(["--edition=2021", "-g", "-o"])
                            .arg(out(name))
                            .arg(file),
                    )?;
                }
                Ok(())
            }
            "java" => {
                need("java")?;
                let mut javac = Command::new(need("javac")?);
                javac
                    .arg("-nowarn")
                    .arg("-d")
                    .arg(self.directory.path().join("java"));
                quietly(
                    javac.args(["Leaks.java", "Healthy.java", "More.java"].map(|f| source.join(f))),
                )
            }
            "go" => {
                self.go = Some(go::build(GO, Variant::Plain)?);
                Ok(())
            }
            other => bail!("no language {other}"),
        }
    }

    /// Runs one subject and has it watched for `seconds`; `again` also runs it until it is found, or
    /// for as long as an inconclusive report asks for.
    #[must_use]
    pub fn watch(&self, subject: &Subject, seconds: u64, again: bool) -> Outcome {
        if let Some(why) = self.missing.get(subject.language()) {
            return Outcome::Skipped(why.clone());
        }
        match self.seen(subject, seconds, again) {
            Ok(seen) => seen,
            Err(error) => Outcome::Failed(format!("failed: {error:#}")),
        }
    }

    fn seen(&self, subject: &Subject, seconds: u64, again: bool) -> Result<Outcome> {
        let lines = subject.lines()?;
        let report = self.report(subject, |pid| checked(pid, seconds))?;
        let mut cells = judge::judge(subject, &lines, &report);
        cells.extend(approved::cell(subject, &report)?);
        let (mut found_after, mut settled) = (None, None);
        if again && subject.leaks() && report["verdict"] == "leak" {
            found_after = self.report(subject, |pid| time_to_leak(pid, seconds))?;
        }
        if again && report["verdict"] == "inconclusive" {
            settled = Some(match report["settle_seconds"].as_f64() {
                None => (0, "names no time".to_owned()),
                Some(more) => {
                    let longer = (seconds + more.ceil() as u64).min(SETTLE_MAX);
                    let report = self.report(subject, |pid| checked(pid, longer))?;
                    let verdict = report["verdict"].as_str().unwrap_or_default();
                    (longer, verdict.to_owned())
                }
            });
        }
        Ok(Outcome::Seen {
            cells,
            report,
            found_after,
            settled,
        })
    }

    fn report<T>(&self, subject: &Subject, check: impl FnOnce(u32) -> Result<T>) -> Result<T> {
        let folder = TempDir::new()?;
        let (mut server, ports) = self.server(subject, folder.path())?;
        let mut program = self.start(subject, &ports)?;
        if subject.grpc {
            program.line("READY", START_WITHIN)?;
            program.write("go\n")?;
        }
        let word = if subject.language() == "go" {
            "READY"
        } else {
            "ready"
        };
        let port = match subject.grpc {
            true => String::new(),
            false => program.line(word, START_WITHIN)?,
        };
        let mut driver = match &subject.drive {
            None => None,
            Some(manner) => Some(Program::start(
                Command::new(host::tool("python3")?)
                    .arg(subjects::directory().join("drive.py"))
                    .args([manner, port.trim()]),
            )?),
        };
        let seen = check(program.pid());
        ensure!(
            program.runs()?,
            "the program ended early: {}",
            program.stderr()
        );
        ensure!(
            server.runs()?,
            "the server ended early: {}",
            server.stderr()
        );
        if let Some(driver) = &mut driver {
            ensure!(
                driver.runs()?,
                "the client ended early: {}",
                driver.stderr()
            );
        }
        seen
    }

    /// The other end, and its ports as it told them.
    fn server(&self, subject: &Subject, folder: &Path) -> Result<(Program, String)> {
        let (mut command, word) = match &self.go {
            _ if subject.grpc => {
                let mut command = self.calling(subject)?;
                command.arg("serve");
                (command, "READY")
            }
            Some(program) if subject.language() == "go" => {
                let mut command = Command::new(program);
                command.args(["serve", "-dir"]).arg(folder);
                (command, "READY")
            }
            _ => {
                let mut command = Command::new(host::tool("python3")?);
                command
                    .arg(subjects::directory().join("server.py"))
                    .arg(folder.join("http"));
                (command, "{")
            }
        };
        let mut server = Program::start(&mut command)?;
        let rest = server.line(word, START_WITHIN)?;
        let ports = if word == "{" {
            format!("{{{rest}")
        } else {
            rest
        };
        Ok((server, ports.trim().to_owned()))
    }

    /// The program of a subject that calls a server of gRPC, and that server.
    fn calling(&self, subject: &Subject) -> Result<Command> {
        let program = self.grpc.get(subject.language()).map(Vec::as_slice);
        let Some([program, first @ ..]) = program else {
            bail!("no program of {}", subject.name);
        };
        let mut command = Command::new(program);
        command.args(first);
        Ok(command)
    }

    fn start(&self, subject: &Subject, ports: &str) -> Result<Program> {
        let name = subject.program();
        let built = subject.stem();
        let mut command = match subject.language() {
            _ if subject.grpc => {
                let mut command = self.calling(subject)?;
                let address = ports.split_whitespace().next().unwrap_or_default();
                command.args([subject.mode(), address]);
                command
            }
            "go" => {
                let program = self.go.as_ref().context("no Go program")?;
                let mut command = Command::new(program);
                command.args([name, "-servers", ports, "-n", "100000", "-every", "700ms"]);
                command
            }
            "c" | "rust" | "java" => {
                let ports: Value = serde_json::from_str(ports)?;
                let port = |name: &str| ports[name].to_string();
                let language = subject.language();
                let mut command = match language {
                    "java" => {
                        let mut java = Command::new(host::tool("java")?);
                        java.arg("-cp")
                            .arg(self.directory.path().join("java"))
                            .arg(subject.class());
                        java
                    }
                    _ => Command::new(self.directory.path().join(format!("{language}-{built}"))),
                };
                let unix = ports["unix"].as_str().unwrap_or_default();
                command.args([name, &port("http"), &port("lines"), unix]);
                command
            }
            language => {
                let tool = match language {
                    "python" => "python3",
                    "shell" => "bash",
                    other => other,
                };
                let mut command = Command::new(host::tool(tool)?);
                command
                    .arg(subject.source()?)
                    .arg(name)
                    .env("CORPUS", ports);
                command
            }
        };
        Program::start(&mut command)
    }
}

fn checked(pid: u32, seconds: u64) -> Result<Value> {
    Ok(tracer::check(pid, seconds)?.report()?.0)
}

/// Seconds until a daemon that is asked every second says that the process leaks.
fn time_to_leak(pid: u32, seconds: u64) -> Result<Option<f64>> {
    let daemon = Daemon::start(&[pid], &[])?;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) {
        if daemon.report()?.verdict() == "leak" {
            return Ok(Some(began.elapsed().as_secs_f64()));
        }
        thread::sleep(Duration::from_secs(1));
    }
    Ok(None)
}

fn quietly(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{:?}: {}",
        command.get_program(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
