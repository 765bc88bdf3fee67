//! What may be put before a daemon to hurt it: files, programs, clients, and what is left for it to
//! read. Each is made by the tests, is about an item of the audit that it belongs to, and says what the
//! daemon is to say of it.

mod clients;
mod elf;
mod executables;
mod leftovers;
mod libraries;
mod perf_maps;
mod programs;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub use clients::Door;
pub use perf_maps::Kept;

/// Items of the audit.
pub const ITEMS: u8 = 14;

/// What the daemon is to say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// It is refused: what, and why, as in `coverage.refused`.
    Refused(&'static str, &'static str),
    /// Something is lost for this cause, as in `coverage.losses`.
    Lost(&'static str),
    /// Nothing: it is read like any other, or nobody looks at it.
    Nothing,
}

/// How it is made.
#[derive(Debug, Clone, Copy)]
pub enum Made {
    /// Files in a folder, by a function; a program maps them as code, and opens connections by way of
    /// that code.
    Files(fn(&Path) -> Result<Vec<PathBuf>>),
    /// What a program without files for its code leaves at the place of its perf map.
    PerfMap(fn(&Path, &Path) -> Result<Kept>),
    /// A function of `fixtures/python/hostile.py`.
    Program(&'static str),
    /// A client of the daemon, which does what it does and goes.
    Client(fn(&Door) -> Result<()>),
    /// Arguments of a command of tracer, which is to end by itself and to fail.
    Command(fn(&Path) -> Result<Vec<String>>),
    /// It is about no input of a daemon's; this holds it.
    Elsewhere,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// A clause.
    pub name: &'static str,
    /// Items of the audit that it is about.
    pub items: &'static [u8],
    /// How it is made.
    pub made: Made,
    /// What the daemon is to say.
    pub shows: Shows,
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    [
        executables::ALL,
        libraries::ALL,
        perf_maps::ALL,
        programs::ALL,
        clients::ALL,
        leftovers::ALL,
        ELSEWHERE,
    ]
    .into_iter()
    .flatten()
}

/// Files that a program maps as code.
const fn file(
    name: &'static str,
    items: &'static [u8],
    shows: Shows,
    made: fn(&Path) -> Result<Vec<PathBuf>>,
) -> Entry {
    Entry {
        name,
        items,
        made: Made::Files(made),
        shows,
    }
}

const fn elsewhere(name: &'static str, items: &'static [u8]) -> Entry {
    Entry {
        name,
        items,
        made: Made::Elsewhere,
        shows: Shows::Nothing,
    }
}

/// What is held by another check.
const ELSEWHERE: &[Entry] = &[
    elsewhere("few descriptors: hostile::no_descriptors_left", &[5]),
    elsewhere("secrets in pinned maps: secrets::", &[9]),
    elsewhere("each capability removed: capabilities::", &[10]),
    elsewhere("corrupted pins: bpffs:: and restart::", &[13]),
    elsewhere("licences and sources: cargo xtask check", &[14]),
    elsewhere("inputs of 16 MiB: cargo xtask fuzz --all", &[14]),
];

/// Numbers that look random, the same each time (Marsaglia's xorshift32).
fn noise(seed: u32, bytes: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..bytes).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{ITEMS, Made, all};

    #[test]
    fn at_least_forty_are_made_and_each_item_of_the_audit_has_one() {
        let made = all().filter(|entry| !matches!(entry.made, Made::Elsewhere));
        assert!(made.count() >= 40);
        let names: BTreeSet<&str> = all().map(|entry| entry.name).collect();
        assert_eq!(names.len(), all().count(), "two have one name");
        for item in 1..=ITEMS {
            let about = all().any(|entry| entry.items.contains(&item));
            assert!(about, "nothing is about item {item}");
        }
        let known = |entry: &super::Entry| entry.items.iter().all(|i| (1..=ITEMS).contains(i));
        assert!(all().all(|entry| known(entry) && !entry.items.is_empty()));
    }
}
