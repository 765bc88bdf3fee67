//! Names and lines from a stripped program's own tables.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use tracer::testing::{GoBinary, Image, dwarf, offsets};
use tracer_tests::go::{self, Variant};

use crate::versions;

tracer_tests::tests![names_and_lines_agree_with_dwarf, offsets_agree_with_dwarf,];

/// The table of offsets is what the DWARF of each version says, and so reading the DWARF of a
/// version that is not in the table gives the right ones.
fn offsets_agree_with_dwarf() -> Result<()> {
    for version in versions() {
        let elf = Image::open(fs::File::open(go::build(version, Variant::Plain)?)?)?;
        let types = dwarf::read(&elf).with_context(|| format!("{version}: no DWARF"))?;
        let minor = version.split('.').nth(1).and_then(|m| m.parse().ok());
        let (members, layout) = (offsets::members(minor), offsets::layout(minor));
        // Begun with those of a version that differs.
        let other = if minor < Some(24) { None } else { Some(21) };
        let (mut read_members, mut read_layout) = (offsets::members(other), offsets::layout(other));
        dwarf::apply(&types, &mut read_members, &mut read_layout);
        ensure!(
            read_members == members && read_layout == layout,
            "{version}: {read_members:?} {read_layout:?} against {members:?} {layout:?}"
        );
        println!("{version}: the offsets of {} types agree", types.len());
    }
    Ok(())
}

/// Name without type arguments, which DWARF spells out and Go's table does not.
fn plain(name: &str) -> String {
    let mut depth = 0;
    let mut out = String::new();
    for c in name.chars() {
        depth += i32::from(c == '[');
        if depth == 0 {
            out.push(c);
        }
        depth -= i32::from(c == ']');
    }
    out
}

/// What a stripped program's own table says, against what `llvm-symbolizer` reads from the DWARF of
/// the same program. (`addr2line` names inlined calls after their caller.)
fn names_and_lines_agree_with_dwarf() -> Result<()> {
    const SAMPLES: usize = 11_000;
    let symbolizer = tracer_tests::host::tool("llvm-symbolizer")
        .or_else(|_| tracer_tests::host::tool("llvm-symbolizer-22"))?;
    for version in versions() {
        let with_dwarf = go::build(version, Variant::Plain)?;
        let stripped = fs::read(go::build(version, Variant::Stripped)?)?;
        let binary = GoBinary::parse(stripped.into())?;
        let table = binary.table();
        let image = binary.image();
        let functions: Vec<_> = (0..table.len())
            .filter_map(|i| table.function(image, i))
            .collect();
        let (first, last) = match (functions.first(), functions.last()) {
            (Some(first), Some(last)) => (first.entry, last.end),
            _ => bail!("no functions"),
        };
        let step = (last - first) / SAMPLES as u64;
        let addresses: Vec<u64> = (0..SAMPLES as u64).map(|i| first + i * step).collect();
        let directory = tempfile::tempdir()?;
        let list = directory.path().join("addresses");
        let text: Vec<String> = addresses.iter().map(|a| format!("{a:#x}")).collect();
        fs::write(&list, text.join("\n"))?;
        let output = std::process::Command::new(&symbolizer)
            .args(["--addresses", "--inlines", "--obj"])
            .arg(&with_dwarf)
            .stdin(fs::File::open(&list)?)
            .output()?;
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let (mut known, mut same_function, mut same_lines) = (0u32, 0u32, 0u32);
        // An address, then a name and a place for each frame, innermost first.
        for block in output.split("\n\n").filter(|b| !b.trim().is_empty()) {
            let mut lines = block.trim().trim_start_matches("0x").lines();
            let address = u64::from_str_radix(lines.next().unwrap_or(""), 16)?;
            let lines: Vec<&str> = lines.collect();
            let dwarf: Vec<(String, u32)> = lines
                .chunks_exact(2)
                .map(|pair| {
                    // file:line:column
                    let line = pair[1].rsplit(':').nth(1).and_then(|l| l.parse().ok());
                    let name = pair[0].trim_end_matches(".abi0");
                    (plain(name), line.unwrap_or(0))
                })
                .collect();
            // Padding between functions and assembly have no DWARF to compare with.
            let go: Vec<(String, u32)> = binary
                .positions(address)
                .iter()
                .map(|p| (plain(&p.function), p.line.unwrap_or(0)))
                .collect();
            if go.is_empty() || dwarf.iter().any(|(name, line)| name == "??" || *line == 0) {
                continue;
            }
            known += 1;
            let outermost = go.last().map(|f| &f.0) == dwarf.last().map(|f| &f.0);
            same_function += u32::from(outermost);
            same_lines += u32::from(go == dwarf);
            if go != dwarf && known - same_lines < 4 {
                println!("{version} {address:#x}: {go:?} against {dwarf:?}");
            }
        }
        let share = |n: u32| f64::from(n) / f64::from(known);
        println!(
            "{version}: of {known} addresses {:.2} % agree in the function, {:.2} % in every line and inlined call",
            share(same_function) * 100.0,
            share(same_lines) * 100.0
        );
        ensure!(
            known as usize > SAMPLES / 2,
            "only {known} could be compared"
        );
        ensure!(share(same_function) >= 0.999 && share(same_lines) >= 0.99);
    }
    Ok(())
}
