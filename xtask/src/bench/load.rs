//! The load generator, driven line by line.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::Bench;

/// A load, waiting to be told to run. It ends with this value.
pub struct Load {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// One measured time under load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// Connections, requests or calls in the measured time.
    pub units: f64,
    /// CPU time of the load in it, nanoseconds. Loopback's work in softirq context is in it: it is
    /// done on behalf of the sender.
    pub cpu_ns: f64,
    /// Its length, nanoseconds.
    pub wall_ns: f64,
    /// Units since the load was started, warm-ups included.
    pub total: u64,
}

impl Load {
    /// Starts the load with these arguments and waits until it is ready.
    pub fn start(bench: &Bench, arguments: &[&str]) -> Result<Self> {
        Ok(Self::of(&bench.load, arguments)?.0)
    }

    /// The same of another program; also the line by which it says that it is ready.
    pub fn of(program: &Path, arguments: &[&str]) -> Result<(Self, String)> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the load")?;
        let input = child.stdin.take();
        let output = child.stdout.take().context("a load without stdout")?;
        let mut load = Self {
            child,
            input,
            output: BufReader::new(output),
        };
        let ready = load.answer()?;
        Ok((load, ready))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it run, and measures for so long after its warm-up.
    pub fn run(&mut self, time: Duration) -> Result<Run> {
        self.begin(time)?;
        self.end()
    }

    /// Lets it run without waiting for the end.
    pub fn begin(&mut self, time: Duration) -> Result<()> {
        self.tell(&format!("run {}", time.as_millis()))
    }

    /// Waits for the end of what was begun.
    pub fn end(&mut self) -> Result<Run> {
        let line = self.answer()?;
        parse(&line).with_context(|| format!("the load said {line:?}"))
    }

    /// Writes a line to it.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("the load's input is closed")?;
        writeln!(input, "{line}").context("the load has ended")
    }

    /// Waits for a line from it.
    pub fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            bail!("the load has ended");
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.input.take());
        // it may be gone already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Option<Run> {
    let mut words = line.split_whitespace();
    let mut next = || words.next()?.parse::<u64>().ok();
    let run = Run {
        units: next()? as f64,
        cpu_ns: next()? as f64,
        wall_ns: next()? as f64,
        total: next()?,
    };
    (run.units > 0.0).then_some(run)
}

#[cfg(test)]
mod tests {
    use super::{Run, parse};

    #[test]
    fn a_run_is_four_numbers() {
        let run = Run {
            units: 5.0,
            cpu_ns: 60.0,
            wall_ns: 70.0,
            total: 8,
        };
        assert_eq!(parse("5 60 70 8"), Some(run));
        assert_eq!(parse("0 60 70 8"), None, "nothing can be said of no units");
        assert_eq!(parse("5 60 70"), None);
    }
}
