//! Waiting for a condition rather than for a time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::host;

/// Calls `probe` until it gives a value; in a guest the limit is several times as long.
///
/// # Errors
/// When `limit` has passed without one; the message names `what` was awaited.
pub fn for_value<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let limit = limit * host::patience();
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("{what}: not within {limit:?}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Calls `probe` until it is true.
///
/// # Errors
/// As [`for_value`].
pub fn until(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    for_value(what, limit, || Ok(probe()?.then_some(())))
}
