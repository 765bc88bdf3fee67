//! What each target has had of a CPU's time without a finding, summed over runs.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result};

/// What a run took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// CPU time in seconds.
    pub seconds: u64,
    /// Inputs tried.
    pub inputs: u64,
}

/// The sums and the file that keeps them: a line `target,cpu_seconds,inputs` each.
#[derive(Debug)]
pub struct Sums {
    file: PathBuf,
    of: BTreeMap<String, Spent>,
}

const HEADER: &str = "target,cpu_seconds,inputs";

impl Sums {
    /// What the file has, or nothing where there is none.
    ///
    /// # Errors
    ///
    /// Lines that are none of ours.
    pub fn read(file: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let lines = text.lines().skip(1).filter(|line| !line.is_empty());
        let of = lines
            .map(|line| parsed(line).with_context(|| format!("{}: {line}", file.display())))
            .collect::<Result<_>>()?;
        Ok(Self { file, of })
    }

    /// CPU time of a target in seconds.
    pub fn seconds(&self, name: &str) -> u64 {
        self.of.get(name).map_or(0, |spent| spent.seconds)
    }

    /// Adds a run and writes the file; one that found something begins the sum anew.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub fn add(&mut self, name: &str, run: Option<Spent>) -> Result<()> {
        let sum = self.of.entry(name.to_owned()).or_default();
        *sum = run.map_or(Spent::default(), |run| Spent {
            seconds: sum.seconds + run.seconds,
            inputs: sum.inputs + run.inputs,
        });
        let mut text = format!("{HEADER}\n");
        for (name, Spent { seconds, inputs }) in &self.of {
            writeln!(text, "{name},{seconds},{inputs}")?;
        }
        fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.file.display()))
    }

    /// The sums of some targets beside what each is to have.
    pub fn table(&self, names: &[String], goal: impl Fn(&str) -> u64) -> String {
        let mut text = format!(
            "{:<12} {:>8} {:>8} {:>14}\n",
            "target", "CPU s", "of", "inputs"
        );
        for name in names {
            let Spent { seconds, inputs } = self.of.get(name).copied().unwrap_or_default();
            let _ = writeln!(
                text,
                "{name:<12} {seconds:>8} {:>8} {inputs:>14}",
                goal(name)
            );
        }
        text
    }
}

fn parsed(line: &str) -> Option<(String, Spent)> {
    let [name, seconds, inputs] = line.split(',').collect::<Vec<_>>().try_into().ok()?;
    let spent = Spent {
        seconds: seconds.parse().ok()?,
        inputs: inputs.parse().ok()?,
    };
    Some((name.to_owned(), spent))
}

/// What a run took: by the shell's `times`, whose second line is of its children, and by the
/// statistics that libFuzzer prints when it ends.
pub fn spent(times: &str, statistics: &str) -> Option<Spent> {
    let children = times.lines().last()?;
    let seconds = children
        .split_whitespace()
        .map(|time| {
            let (minutes, seconds) = time.strip_suffix('s')?.split_once('m')?;
            let whole = seconds.split(['.', ',']).next()?;
            Some(minutes.parse::<u64>().ok()? * 60 + whole.parse::<u64>().ok()?)
        })
        .sum::<Option<u64>>()?;
    let inputs = statistics
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))?;
    Some(Spent {
        seconds,
        inputs: inputs.trim().parse().ok()?,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::{Spent, Sums, spent};

    #[test]
    fn a_run_tells_what_it_took() {
        let times = "0m0.001s 0m0.002s\n1m2.90s 0m3.10s\n";
        let statistics = "Done\nstat::number_of_executed_units: 4711\nstat::peak_rss_mb: 90\n";
        let (seconds, inputs) = (65, 4711);
        assert_eq!(spent(times, statistics), Some(Spent { seconds, inputs }));
        assert_eq!(spent(times, "killed"), None);
    }

    #[test]
    fn sums_are_kept_until_something_is_found() {
        let file = std::env::temp_dir().join(format!("tracer-sums-{}", std::process::id()));
        let run = |seconds| {
            Some(Spent {
                seconds,
                inputs: 10,
            })
        };
        let mut sums = Sums::read(file.clone()).unwrap();
        sums.add("elf", run(20)).unwrap();
        sums.add("elf", run(30)).unwrap();
        let mut again = Sums::read(file.clone()).unwrap();
        assert_eq!(again.seconds("elf"), 50);
        again.add("elf", None).unwrap();
        assert_eq!(Sums::read(file.clone()).unwrap().seconds("elf"), 0);
        std::fs::remove_file(file).unwrap();
    }
}
