//! Every connection has the best name that there is for it, says what it was taken from, and why from
//! nothing better.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tracer_tests::{
    daemon::Daemon,
    fixtures,
    host::{self, seconds},
    program::Program,
    runner::NotApplicable,
    tests, wait,
};

tests![
    each_connection_has_its_best_name,
    an_address_has_the_name_that_was_resolved,
];

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
            && row["transaction"] == expected["transaction"]
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

fn an_address_has_the_name_that_was_resolved() -> Result<()> {
    host::require_root()?;
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    if !symbols.contains("__traceiter_sock_recv_length") {
        let why = "without the tracepoint sock_recv_length nothing of UDP is seen";
        bail!(NotApplicable(why.to_owned()));
    }
    let (interpreter, path) = fixtures::python("resolves.py")?;
    let mut program = Program::start(Command::new(interpreter).arg(path))?;
    program.line("READY", seconds(20))?;
    let daemon = Daemon::start(&[program.pid()], &[])?;
    program.write("go\n")?;
    program.line("OPEN", seconds(20))?;
    let mut row = Value::Null;
    let named = wait::until("the name", seconds(20), || {
        let (rows, _) = daemon.connections(1000)?;
        let is_it = |row: &&Value| row["remote"] == "127.0.0.9:7000";
        row = rows.iter().find(is_it).cloned().unwrap_or_default();
        Ok(row["named_by"] == "dns" && row["host"] == "queue.shop.test:7000")
    });
    ensure!(named.is_ok(), "{row:#}");
    ensure!(
        row["url"].is_null() && row["not_higher_because"].is_string(),
        "{row:#}"
    );
    Ok(())
}
