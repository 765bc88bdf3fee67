//! Files that are given to commands of tracer and are not what they should be.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::{Entry, Made, Shows, noise};

const fn command(name: &'static str, made: fn(&Path) -> Result<Vec<String>>) -> Entry {
    Entry {
        name,
        items: &[2, 13],
        made: Made::Command(made),
        shows: Shows::Nothing,
    }
}

/// All of this file.
pub const ALL: &[Entry] = &[
    command("a recording that is noise", |d| {
        replay(d, "noise", noise(29, 1 << 20))
    }),
    command("a recording that is empty", |d| {
        replay(d, "empty", Vec::new())
    }),
    command("a recording with the right beginning and noise", |d| {
        replay(
            d,
            "begun",
            [b"tracer recording".to_vec(), noise(31, 1 << 16)].concat(),
        )
    }),
    command("a recording that is a device without end", |_| {
        Ok(["replay", "/dev/zero"].map(str::to_owned).to_vec())
    }),
    command("a baseline with very many brackets", |d| {
        let path = kept(d, "brackets", "[".repeat(1 << 20).into_bytes())?;
        Ok(check(&["--baseline", &path]))
    }),
    command("a baseline that is another document", |d| {
        let path = kept(d, "document", b"{\"schema\": 1, \"findings\": 7}".to_vec())?;
        Ok(check(&["--baseline", &path]))
    }),
    command("a configuration that is noise", |d| {
        let path = kept(d, "noise.toml", noise(37, 1 << 16))?;
        Ok(["daemon", "--config", &path].map(str::to_owned).to_vec())
    }),
    command("a configuration that says a thing a thousand times", |d| {
        let path = kept(d, "deep.toml", "a = [".repeat(100_000).into_bytes())?;
        Ok(["daemon", "--config", &path].map(str::to_owned).to_vec())
    }),
    command("a token file that is a device without end", |d| {
        let socket = d.join("token.sock").to_string_lossy().into_owned();
        let all = ["daemon", "--listen", "127.0.0.1:0", "--socket", &socket];
        Ok([&all[..], &["--token-file", "/dev/zero"]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect())
    }),
];

fn kept(directory: &Path, name: &str, bytes: Vec<u8>) -> Result<String> {
    let path: PathBuf = directory.join(name);
    fs::write(&path, bytes)?;
    Ok(path.to_string_lossy().into_owned())
}

fn replay(directory: &Path, name: &str, bytes: Vec<u8>) -> Result<Vec<String>> {
    let path = kept(directory, name, bytes)?;
    Ok(vec!["replay".to_owned(), path])
}

/// A check of this very process, which would not take long.
fn check(more: &[&str]) -> Vec<String> {
    let own = std::process::id().to_string();
    let all = ["check", "--pid", &own, "--duration", "1s"];
    [&all[..], more]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
}
