//! Every connection has the best name that there is for it, says what it was taken from, and why from
//! nothing better.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tracer_tests::{
    daemon::Daemon,
    fixtures,
    host::{self, seconds},
    program::Program,
    tests, wait,
};

tests![each_connection_has_its_best_name];

/// The program with a connection of each protocol, which waits for its secret.
pub fn protocols() -> Result<Program> {
    host::require_root()?;
    let (interpreter, path) = fixtures::python("protocols.py")?;
    let mut program = Program::start(Command::new(interpreter).arg(path))?;
    program.line("READY", seconds(20))?;
    Ok(program)
}

/// Opens the connections; what each is to be named.
pub fn open(program: &mut Program, secret: &str) -> Result<Vec<Value>> {
    program.write(&format!("{secret}\n"))?;
    let line = program.line("OPEN", seconds(30))?;
    let told = line.strip_prefix("OPEN").unwrap_or(&line);
    let told: Value = serde_json::from_str(told).with_context(|| line.clone())?;
    Ok(told.as_array().context("a list")?.clone())
}

/// The rows of a daemon against what was opened; the first that is named otherwise.
pub fn misnamed(rows: &[Value], opened: &[Value]) -> Option<String> {
    opened.iter().find_map(|expected| {
        let remote = match expected["port"].as_u64() {
            Some(port) => format!("127.0.0.1:{port}"),
            None => expected["path"].as_str()?.to_owned(),
        };
        let is_it = |row: &&Value| row["role"] == "client" && row["remote"] == remote;
        let Some(row) = rows.iter().find(is_it) else {
            return Some(format!("no row for {expected}"));
        };
        let right = row["named_by"] == expected["named_by"]
            && row["url"] == expected["url"]
            && row["not_higher_because"].is_string() == (row["named_by"] != "url")
            && (expected["pid"].is_null() || row["peer"]["pid"] == expected["pid"]);
        (!right).then(|| format!("{expected} is {row:#}"))
    })
}

fn each_connection_has_its_best_name() -> Result<()> {
    let mut program = protocols()?;
    let daemon = Daemon::start(&[program.pid()], &[])?;
    let opened = open(&mut program, "0123456789abcdefghijklmn")?;
    ensure!(opened.len() > 16, "{opened:?}");
    let mut last = None;
    let named = wait::until("all connections to be named", seconds(20), || {
        let (rows, _) = daemon.connections(1000)?;
        last = misnamed(&rows, &opened);
        Ok(last.is_none())
    });
    ensure!(named.is_ok(), "{}", last.unwrap_or_default());
    Ok(())
}
