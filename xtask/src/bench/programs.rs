//! Values that a program of `tracer/benches` prints, one in a line: name, unit and number, with tabs.

use anyhow::{Context as _, Result};

use super::{Bar, Bench, Row};
use crate::sh;

const UNITS: [&str; 4] = ["µs", "ms", "ns", "MiB"];

/// Runs it in rounds; `bars` go by the name of the value.
pub fn run(bench: &Bench, name: &str, rounds: usize, bars: &[(&str, f64)]) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for _ in 0..bench.rounds(rounds) {
        let mut cargo = sh::cargo();
        cargo.args(["bench", "--quiet", "--package", "tracer", "--bench", name]);
        if let Some(toolchain) = &bench.ready.ebpf_toolchain {
            cargo.env("TRACER_EBPF_TOOLCHAIN", toolchain);
        }
        for line in sh::capture(&mut cargo)?.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [name, unit, value] = fields[..] else {
                continue;
            };
            let value: f64 = value.parse().with_context(|| line.to_owned())?;
            match rows.iter_mut().find(|row| row.name == name) {
                Some(row) => row.samples.push(value),
                None => {
                    let unit = UNITS.into_iter().find(|known| *known == unit);
                    let row = Row::new(name, unit.unwrap_or_default(), vec![value]);
                    let bar = bars.iter().find(|(of, _)| *of == name);
                    rows.push(match bar {
                        Some((_, most)) => row.bar(Bar::AtMost(*most)),
                        None => row,
                    });
                }
            }
        }
    }
    Ok(rows)
}
