//! The screens of the terminal, at three widths: `tests/src/bin/screens.rs` takes them.

use anyhow::Result;

use super::Studio;
use crate::sh;

/// Takes them, as text and as pictures.
pub fn take(studio: &Studio) -> Result<()> {
    let mut command = sh::as_root(&studio.program("screens")?);
    command
        .arg(studio.folder())
        .env("TRACER_BIN", studio.program("tracer")?);
    sh::run(&mut command)
}
