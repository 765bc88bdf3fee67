//! Packages of Debian that are unpacked below the cache instead of installed: nothing of them starts
//! by itself, and nothing of the machine changes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};

use crate::{host, languages::run};

/// The folder that stands for `/` in which these packages are unpacked, made at the first use.
///
/// # Errors
/// When they can't be downloaded or unpacked; [`crate::runner::Skip`] on another distribution.
pub fn unpacked(base: &Path, folder: &str, packages: &[&str]) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _held = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    host::tool("apt-get")?;
    fs::create_dir_all(base).with_context(|| format!("creating {}", base.display()))?;
    let root = base.join(folder);
    let done = |package: &str| root.join(format!(".{package}"));
    let missing = packages.iter().filter(|package| !done(package).is_file());
    let missing: Vec<&str> = missing.copied().collect();
    if missing.is_empty() {
        return Ok(root);
    }
    let work = tempfile::Builder::new()
        .prefix("download-")
        .tempdir_in(base)?;
    let download = || {
        run(Command::new("apt-get")
            .args(["-o", "APT::Sandbox::User=root", "-qq", "download"])
            .args(&missing)
            .current_dir(work.path()))
    };
    // The list of packages may be missing, or older than the mirror.
    download().or_else(|_| {
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        download()
    })?;
    for file in fs::read_dir(work.path())?.filter_map(Result::ok) {
        run(Command::new("dpkg-deb")
            .arg("-x")
            .arg(file.path())
            .arg(&root))?;
    }
    for package in missing {
        fs::write(done(package), "")?;
    }
    Ok(root)
}
