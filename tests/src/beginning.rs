//! Programs that tracer starts itself, and so sees from their beginning.

use std::{fs, path::Path, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    host,
    tracer::{self, Report},
};

/// What was seen of them.
#[derive(Debug)]
pub struct Seen {
    /// The report about all of them.
    pub report: Report,
    /// Each program, in their order.
    pub programs: Vec<Written>,
}

/// One of them.
#[derive(Debug)]
pub struct Written {
    /// Its process.
    pub pid: u32,
    /// What it wrote on standard output.
    pub stdout: String,
    /// What it wrote on standard error.
    pub stderr: String,
}

/// Lets one `tracer check` start all these commands and watch them for this many seconds; they end
/// then. Of a command its program, arguments and the variables that it sets are taken.
///
/// # Errors
/// When tracer fails, or a program does not start.
pub fn watch(commands: &[Command], seconds: u64) -> Result<Seen> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report.json");
    let duration = format!("{}s", host::seconds(seconds).as_secs());
    let mut all: Vec<String> = ["check", "-o", "json", "--duration", &duration, "--report"]
        .map(str::to_owned)
        .to_vec();
    all.push(report.to_string_lossy().into_owned());
    let script = script(commands, folder.path())?;
    all.extend(["--", "/bin/sh", "-c", &script].map(str::to_owned));
    let mut check = tracer::start(&all)?;
    check.line("READY", host::seconds(60))?;
    // The report is made before the commands end.
    thread::sleep(host::seconds(seconds) + Duration::from_secs(2));
    check.close_stdin();
    let ended = check.end(host::seconds(60))?;
    let report = Report::read(&report).with_context(|| ended.stderr)?;
    let programs = (0..commands.len()).map(|number| written(folder.path(), number));
    Ok(Seen {
        report,
        programs: programs.collect::<Result<_>>()?,
    })
}

/// A shell's commands: each program has its standard input from the shell, and ends with it, which
/// ends with its own.
fn script(commands: &[Command], folder: &Path) -> Result<String> {
    let with_parent = host::tool("setpriv")?;
    let mut text = "exec 3<&0\necho READY\n".to_owned();
    for (number, command) in commands.iter().enumerate() {
        text += &quoted(&with_parent.to_string_lossy());
        text += " --pdeathsig KILL env";
        for (name, value) in command.get_envs() {
            let value = value.context("a variable is removed")?.to_string_lossy();
            text += &format!(
                " {}",
                quoted(&format!("{}={value}", name.to_string_lossy()))
            );
        }
        for word in std::iter::once(command.get_program()).chain(command.get_args()) {
            text += &format!(" {}", quoted(&word.to_string_lossy()));
        }
        let file = quoted(&folder.join(number.to_string()).to_string_lossy());
        text += &format!(" <&3 >{file}.out 2>{file}.err &\necho $! >{file}.pid\n");
    }
    Ok(text + "read line\n")
}

/// As the shell takes it for one word.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn written(folder: &Path, number: usize) -> Result<Written> {
    let read = |end: &str| fs::read_to_string(folder.join(format!("{number}.{end}")));
    Ok(Written {
        pid: read("pid")?.trim().parse()?,
        stdout: read("out")?,
        stderr: read("err")?,
    })
}
