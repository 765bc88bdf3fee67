//! The daemon's page, as a person uses it in Chromium.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Result, bail};
use tracer_tests::{
    host::{self, seconds},
    languages,
    page::{self, Page},
    runner::Skip,
    tests,
};

use crate::{
    daemon,
    scenes::{self, Scene},
};

tests![
    clicks_and_keys,
    nothing_in_the_way_of_anybody,
    goes_on_when_the_daemon_is_back,
    names_of_programs_are_text,
    works_below_any_path,
    without_tokens_says_so,
];

/// Of axe-core, which knows what keeps people from using a page.
const AXE: &str = "4.14.1";
/// The scripts that use the page.
const SCRIPT: &str = "tests.mjs";

/// The page of a daemon that watches a leaky client, and the client.
fn served() -> Result<(Page, Scene)> {
    host::require_root()?;
    for program in ["chromium", "node"] {
        host::tool(program)?;
    }
    let scene = scenes::client("client", "fetch", 8, 3000, "leak")?;
    Ok((Page::serve(&[scene.pid()])?, scene))
}

fn test(name: &str) -> Result<()> {
    let (page, _scene) = served()?;
    let script = page.script::<&str>(SCRIPT, &[name], &[])?;
    page::finish(script, seconds(300))
}

fn clicks_and_keys() -> Result<()> {
    test("clicks")
}

fn nothing_in_the_way_of_anybody() -> Result<()> {
    let (page, _scene) = served()?;
    let script = page.script(SCRIPT, &["axe"], &[axe()?])?;
    page::finish(script, seconds(300))
}

/// The script of axe-core, from npm.
fn axe() -> Result<PathBuf> {
    let place = host::cache()?.join(format!("axe-core-{AXE}"));
    let script = place.join("node_modules/axe-core/axe.min.js");
    if script.exists() {
        return Ok(script);
    }
    fs::create_dir_all(&place)?;
    let mut npm = Command::new(host::tool("npm")?);
    npm.args(["install", "--silent", "--no-save", "--prefix"])
        .arg(&place)
        .arg(format!("axe-core@{AXE}"));
    match languages::run(&mut npm) {
        Ok(()) => Ok(script),
        Err(error) => bail!(Skip(format!("npm has no axe-core: {error:#}"))),
    }
}

fn goes_on_when_the_daemon_is_back() -> Result<()> {
    let (mut page, _scene) = served()?;
    let mut script = page.script::<&str>(SCRIPT, &["restart"], &[])?;
    script.line("SHOWN", seconds(90))?;
    page.stop()?;
    script.write("stopped\n")?;
    script.line("AWAY", seconds(60))?;
    page.start()?;
    script.write("started\n")?;
    script.line("BACK", seconds(120))?;
    page::finish(script, seconds(30))
}

fn names_of_programs_are_text() -> Result<()> {
    test("hostile")
}

fn works_below_any_path() -> Result<()> {
    test("proxied")
}

fn without_tokens_says_so() -> Result<()> {
    host::tool("chromium")?;
    let watched = daemon::watched()?;
    let script = page::start_script::<&str>(SCRIPT, &["closed"], watched.tcp(), &[])?;
    page::finish(script, seconds(120))
}
