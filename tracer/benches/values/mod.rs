//! What the benchmarks beside this file print and measure alike.

use std::fs;

use anyhow::{Context as _, Result};

/// One value, as `cargo xtask bench` reads it.
pub fn line(name: &str, unit: &str, value: f64) {
    println!("{name}\t{unit}\t{value}");
}

/// Memory that no file backs.
pub fn anonymous_bytes() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kib: u64 = line
        .and_then(|l| l.split_ascii_whitespace().next())
        .context("no RssAnon")?
        .parse()?;
    Ok(kib << 10)
}
