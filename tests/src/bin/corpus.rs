//! Runs the corpus (`tests/corpus`) under `tracer check` and says how often tracer was right.
//!
//! `corpus [PART-OF-A-NAME…] [--seconds 45] [--jobs 2] [--save FILE] [--once] [--approve]`; as root.

use std::{
    collections::VecDeque,
    env, fs,
    path::PathBuf,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result, bail};
use tracer_tests::corpus::{
    self, Outcome, approved,
    subjects::{self, Subject},
    table,
};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("corpus: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    names: Vec<String>,
    seconds: u64,
    jobs: usize,
    save: Option<PathBuf>,
    /// Keep the sentences said, which somebody is about to read.
    approve: bool,
    /// Neither measure the time to a verdict nor settle what is inconclusive.
    once: bool,
}

fn options() -> Result<Options> {
    let mut options = Options {
        names: Vec::new(),
        seconds: 45,
        jobs: 2,
        save: None,
        approve: false,
        once: false,
    };
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} what?"))
        };
        match argument.as_str() {
            "--seconds" => options.seconds = value()?.parse().context("--seconds")?,
            "--jobs" => options.jobs = value()?.parse().context("--jobs")?,
            "--approve" => options.approve = true,
            "--once" => options.once = true,
            "--save" => options.save = Some(value()?.into()),
            flag if flag.starts_with('-') => bail!("no such option: {flag}"),
            _ => options.names.push(argument),
        }
    }
    Ok(options)
}

fn run() -> Result<bool> {
    let options = options()?;
    let chosen: VecDeque<Subject> = subjects::all()?
        .into_iter()
        .filter(|s| options.names.is_empty() || options.names.iter().any(|n| s.name.contains(n)))
        .collect();
    if chosen.is_empty() {
        bail!("no subject has such a name");
    }
    let programs = corpus::Programs::build(chosen.iter())?;
    let waiting = Mutex::new(chosen);
    let rows: Mutex<Vec<(Subject, Outcome)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = waiting
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    let Some(subject) = next else { return };
                    let outcome = programs.watch(&subject, options.seconds, !options.once);
                    eprintln!("{}: {}", subject.name, outcome.in_short());
                    if options.approve
                        && let Outcome::Seen { report, .. } = &outcome
                        && let Err(error) = approved::approve(&subject, report)
                    {
                        eprintln!("{}: not approved: {error:#}", subject.name);
                    }
                    rows.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((subject, outcome));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    print!("{}", table::rows(&rows));
    let score = table::Score::of(&rows);
    print!("{score}");
    if let Some(path) = &options.save {
        let saved = serde_json::to_vec_pretty(&table::answers(&rows))?;
        fs::write(path, saved).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(score.meets_the_bars())
}
