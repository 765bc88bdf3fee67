//! `cargo xtask vm --report`: what verifying each program takes in each kernel, kept in
//! `docs/verifier.md` and compared with what it was.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};

use super::{Image, Job, Line, guest, surroundings};
use crate::{
    setup::Emulator,
    sh::{self, step},
};

const PAGE: &str = "docs/verifier.md";
/// Where the test of the programs against the kernel is in a guest.
pub const PROGRAM: &str = "/usr/bin/kernel";
/// The test that prints the numbers.
const TEST: &str = "programs_stay";

/// Instructions by program and kernel.
type Table = BTreeMap<String, BTreeMap<String, u64>>;

/// Measures on this machine and in the guests, says what grew, and writes the page.
pub fn report(
    emulator: &Emulator,
    image: &Image,
    lines: &[Line],
    native: &Path,
    limit: Duration,
) -> Result<()> {
    let page = sh::root().join(PAGE);
    let before = fs::read_to_string(&page).map_or_else(|_| Table::new(), |text| parse(&text));
    let mut table = before.clone();
    let said = sh::capture(sh::as_root(native).arg(TEST))?;
    let own = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    take(&mut table, &format!("{} here", short(&own)), said.lines());
    for line in lines {
        let kernel = match line.fetch() {
            Ok(kernel) => kernel,
            Err(error) => {
                eprintln!("xtask: not measured: {error:#}");
                continue;
            }
        };
        let env = surroundings(limit);
        let script = format!("{PROGRAM} {TEST}");
        let job = Job {
            script: &script,
            env: &env,
            limit,
        };
        let mut said = Vec::new();
        let ended = step(
            &format!("loading every program in {}", kernel.version),
            || {
                guest::run(emulator, &kernel, image, job, &mut |line| {
                    said.push(line.to_owned());
                })
            },
        )?;
        anyhow::ensure!(ended.status == 0, "in {}: {}", line.name, said.join("\n"));
        let column = short(&kernel.version);
        take(&mut table, column, said.iter().map(String::as_str));
        // at once: the next guest may take long
        write(&page, &table)?;
    }
    for change in changes(&before, &table) {
        println!("{change}");
    }
    write(&page, &table)?;
    println!("{}", page.display());
    Ok(())
}

fn write(page: &Path, table: &Table) -> Result<()> {
    fs::write(page, render(table)).with_context(|| format!("cannot write {}", page.display()))
}

/// `6.12` of `6.12.117+deb12-cloud-amd64`.
fn short(version: &str) -> &str {
    let second = version.match_indices(|c: char| !c.is_ascii_digit()).nth(1);
    second.map_or(version.trim(), |(at, _)| &version[..at])
}

/// Takes over the lines `verifier PROGRAM INSTRUCTIONS` as the column of a kernel.
fn take<'a>(table: &mut Table, kernel: &str, lines: impl Iterator<Item = &'a str>) {
    for row in table.values_mut() {
        row.remove(kernel);
    }
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["verifier", program, number] = words[..]
            && let Ok(number) = number.parse()
        {
            let row = table.entry(program.to_owned()).or_default();
            row.insert(kernel.to_owned(), number);
        }
    }
    table.retain(|_, row| !row.is_empty());
}

/// Sentences about what differs by more than a tenth.
fn changes(before: &Table, now: &Table) -> Vec<String> {
    let mut told = Vec::new();
    for (program, row) in now {
        for (kernel, number) in row {
            let Some(then) = before.get(program).and_then(|row| row.get(kernel)) else {
                continue;
            };
            if number.abs_diff(*then) * 10 > *then {
                told.push(format!("{program} on {kernel}: {then} → {number}"));
            }
        }
    }
    if told.is_empty() && !before.is_empty() {
        told.push("no program changed by more than a tenth".to_owned());
    }
    told
}

/// The kernels, oldest first; this machine's own last.
fn kernels(table: &Table) -> Vec<String> {
    let mut kernels: Vec<String> = table.values().flat_map(BTreeMap::keys).cloned().collect();
    let number = |name: &String| -> (bool, Vec<u32>) {
        let numbers = name.split(['.', ' ']).filter_map(|n| n.parse().ok());
        (name.ends_with("here"), numbers.collect())
    };
    kernels.sort_by_key(number);
    kernels.dedup();
    kernels
}

fn render(table: &Table) -> String {
    let kernels = kernels(table);
    let mut text = "# What verifying takes\n\n\
        Instructions that the kernel's verifier processes before it accepts each program (names cut to 15\n\
        letters, as the kernel keeps them). It gives up at 1,000,000, and the tests fail from a quarter of that.\n\
        A dash: not loaded there, because another program does it. `cargo xtask vm --report` measures anew,\n\
        says what grew, and rewrites this page.\n\n"
        .to_owned();
    text += &format!("| program | {} |\n", kernels.join(" | "));
    text += &format!("| --- |{}\n", " ---: |".repeat(kernels.len()));
    for (program, row) in table {
        let cells: Vec<String> = kernels
            .iter()
            .map(|kernel| row.get(kernel).map_or("-".to_owned(), u64::to_string))
            .collect();
        text += &format!("| `{program}` | {} |\n", cells.join(" | "));
    }
    text
}

/// Reads what [`render`] wrote.
fn parse(text: &str) -> Table {
    let mut rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").collect::<Vec<_>>());
    let kernels: Vec<&str> = rows.next().unwrap_or_default().split_off(1);
    let mut table = Table::new();
    for row in rows {
        let Some((program, cells)) = row.split_first() else {
            continue;
        };
        let known: BTreeMap<String, u64> = kernels
            .iter()
            .zip(cells)
            .filter_map(|(kernel, cell)| Some(((*kernel).to_owned(), cell.parse().ok()?)))
            .collect();
        if !known.is_empty() {
            table.insert(program.trim_matches('`').to_owned(), known);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{Table, changes, parse, render, short, take};

    #[test]
    fn the_page_is_read_as_it_was_written() {
        let mut table = Table::new();
        take(
            &mut table,
            "6.12",
            ["running 1 tests", "verifier sent 60000", "verifier k 2"].into_iter(),
        );
        take(&mut table, "5.10", ["verifier tcp_sent 70000"].into_iter());
        let page = render(&table);
        assert!(page.contains("| program | 5.10 | 6.12 |\n"), "{page}");
        assert_eq!(parse(&page), table);
        let mut now = table.clone();
        take(
            &mut now,
            "6.12",
            ["verifier sent 67000", "verifier k 2"].into_iter(),
        );
        assert_eq!(changes(&table, &now), ["sent on 6.12: 60000 → 67000"]);
    }

    #[test]
    fn a_version_is_known_by_two_numbers() {
        assert_eq!(short("6.12.117+deb12-cloud-amd64"), "6.12");
        assert_eq!(short("7.2-cloud\n"), "7.2");
    }
}
