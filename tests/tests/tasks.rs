//! The five tasks of docs/tasks.md are done with their two commands at most, and each is answered on
//! one screen.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tracer_tests::{daemon::Daemon, fixtures::line_of, host, tasks, tests, wait};

use crate::scenes;

tests![
    which_client_leaks,
    my_pool_is_healthy,
    my_fix_worked,
    who_holds_this_socket,
    how_long_until_it_breaks,
];

/// Does a task; the words that its last screen must have, beside the line that was typed.
fn done(
    title: &str,
    values: &[(&str, &str)],
    daemon: Option<&Daemon>,
    words: &[&str],
) -> Result<()> {
    let folder = TempDir::new()?;
    let mut shown = String::new();
    for line in tasks::lines(title)? {
        let endpoint = daemon.map(Daemon::socket);
        shown = tasks::screen(&line, values, folder.path(), endpoint)?.contents();
    }
    ensure!(
        shown.starts_with("$ tracer "),
        "{title}: more than a screen:\n{shown}"
    );
    for word in words {
        ensure!(
            shown.contains(word),
            "{title}: no {word:?} on the screen:\n{shown}"
        );
    }
    Ok(())
}

fn which_client_leaks() -> Result<()> {
    host::require_root()?;
    let scene = scenes::client("client", "fetch", 8, 800, "leak")?;
    let line = line_of(include_str!("../fixtures/c/client.c"), "fetch_price")?;
    let pid = scene.pid().to_string();
    let words = [
        "LEAK  1 finding",
        "client_per_request",
        "fetch_price",
        &format!("client.c:{line}"),
        "http://prices.test/v1/prices/{}",
        "do      Create one client",
        "e.g.    if (fd < 0)",
        "close(fd);",
    ];
    done("Which client leaks?", &[("PID", &pid)], None, &words)
}

fn my_pool_is_healthy() -> Result<()> {
    host::require_root()?;
    let scene = scenes::client("client", "pool", 8, 800, "close")?;
    let pid = scene.pid().to_string();
    let words = [
        "CLEAN  no findings",
        "Healthy",
        "prices.test",
        "pool of 4, used ",
    ];
    done("Is my pool healthy?", &[("PID", &pid)], None, &words)
}

fn my_fix_worked() -> Result<()> {
    host::require_root()?;
    let before = scenes::client("client", "fetch", 8, 800, "leak")?;
    let after = scenes::client("client", "fetch", 8, 800, "close")?;
    let (before, after) = (before.pid().to_string(), after.pid().to_string());
    let pids = [("BEFORE", &*before), ("AFTER", &*after)];
    let words = ["CLEAN  no findings", "Against before.json", "gone "];
    done("Did my fix work?", &pids, None, &words)
}

fn who_holds_this_socket() -> Result<()> {
    host::require_root()?;
    let scene = scenes::inherit(2, 6, "leak")?;
    let daemon = Daemon::start(&[scene.pid()], &[])?;
    let holder = wait::for_value("a helper that holds a socket", host::seconds(60), || {
        let (rows, _) = daemon.connections(100)?;
        let held = rows.iter().find_map(|row| row["holder_pid"].as_u64());
        Ok(held.map(|pid| pid.to_string()))
    })?;
    ensure!(
        Path::new("/proc").join(&holder).exists(),
        "no process {holder}"
    );
    let opener = scene.pid().to_string();
    let words = ["HOLDER", &holder, &opener, "start_helper", "jobs.test"];
    let values = [("ADDRESS", &*scene.address)];
    done("Who holds this socket?", &values, Some(&daemon), &words)
}

fn how_long_until_it_breaks() -> Result<()> {
    host::require_root()?;
    let scene = scenes::client("client", "fetch", 8, 800, "leak")?;
    let pid = scene.pid().to_string();
    let words = [
        "until   descriptors (",
        " used) run out in ",
        " at this growth",
    ];
    done("How long until it breaks?", &[("PID", &pid)], None, &words)
        .context("the client of prices")
}
