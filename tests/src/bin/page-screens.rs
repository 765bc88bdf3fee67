//! Takes the pictures of the daemon's page in `docs/screens`: in Chromium, of a shop of which some
//! programs leak, at three widths, light and dark.
//!
//! `page-screens FOLDER`; as root, with `TRACER_BIN` set or tracer beside it.

use std::{env, fs, process::ExitCode, thread};

use anyhow::{Result, bail};
use tracer_tests::{
    host::{self, seconds},
    page::{self, Page},
    shop::Shop,
};

/// What is watched this long has something to draw.
const WATCHED_SECONDS: u64 = 60;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("page-screens: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Some(folder) = env::args().nth(1) else {
        bail!("usage: page-screens FOLDER");
    };
    host::require_root()?;
    fs::create_dir_all(&folder)?;
    let shop = Shop::open()?;
    let page = Page::serve(&shop.pids())?;
    shop.found(page.daemon()?)?;
    // asked now and then, a daemon has more points of a timeline
    for _ in 0..WATCHED_SECONDS / 3 {
        thread::sleep(seconds(3));
        page.daemon()?.report()?;
    }
    let script = page.script("screens.mjs", &[], &[folder])?;
    page::finish(script, seconds(300))
}
