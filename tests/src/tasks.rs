//! The tasks of `docs/tasks.md`: their very command lines, run on a terminal of one screen.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    host::{self, seconds},
    runner::Skip,
    terminal::{Session, Terminal},
    tracer,
};

/// Columns and rows of the screen that an answer must fit.
pub const SCREEN: (u16, u16) = (100, 30);
/// Command lines that a task may take.
const LINES_MAX: usize = 2;

/// The command lines below a heading of `docs/tasks.md`, without `sudo`.
///
/// # Errors
/// [`Skip`] where there is no checkout; an error where there is no such task, or it takes more
/// than two lines.
pub fn lines(title: &str) -> Result<Vec<String>> {
    let path = host::repository("docs/tasks.md");
    if !path.exists() {
        bail!(Skip("no checkout here".to_owned()));
    }
    let text = fs::read_to_string(path)?;
    let heading = format!("\n## {title}\n");
    let (_, task) = text
        .split_once(&heading)
        .with_context(|| format!("no task {title:?}"))?;
    let task = task.split("\n## ").next().unwrap_or(task);
    let code = task
        .split("```sh\n")
        .nth(1)
        .and_then(|code| code.split("```").next());
    let code = code.with_context(|| format!("{title}: no command lines"))?;
    let lines: Vec<String> = code
        .lines()
        .map(|line| line.trim_start_matches("sudo ").to_owned())
        .collect();
    ensure!(
        (1..=LINES_MAX).contains(&lines.len()),
        "{title}: {} command lines",
        lines.len()
    );
    Ok(lines)
}

/// Types a command line, with each of `values` in place of its word, into a terminal in `folder`;
/// returns the screen that it leaves. `endpoint` is the daemon that it asks.
///
/// # Errors
/// When it does not end, or can't be started.
pub fn screen(
    line: &str,
    values: &[(&str, &str)],
    folder: &Path,
    endpoint: Option<&str>,
) -> Result<vt100::Screen> {
    let words: Vec<&str> = line
        .split(' ')
        .map(|word| {
            let mut known = values.iter();
            known
                .find_map(|(name, value)| (*name == word).then_some(*value))
                .unwrap_or(word)
        })
        .collect();
    let line = words.join(" ");
    let rest = line
        .strip_prefix("tracer ")
        .with_context(|| format!("not tracer's: {line}"))?;
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("printf '$ %s\\n' \"$1\"; \"$0\" {rest}")])
        .arg(tracer::binary()?)
        .arg(&line)
        .current_dir(folder)
        .env_remove("NO_COLOR")
        .env_remove("TRACER_ENDPOINT");
    if let Some(endpoint) = endpoint {
        command.env("TRACER_ENDPOINT", endpoint);
    }
    Terminal::start(&mut command, SCREEN, Session::Own)?.left(seconds(120))
}
