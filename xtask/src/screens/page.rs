//! The pictures of the daemon's page: `tests/src/bin/page-screens.rs` takes them in Chromium.

use anyhow::Result;

use super::Studio;
use crate::sh;

/// Takes them.
pub fn take(studio: &Studio) -> Result<()> {
    let mut command = sh::as_root(&studio.program("page-screens")?);
    command
        .arg(studio.folder())
        .env("TRACER_BIN", studio.program("tracer")?);
    sh::run(&mut command)
}
