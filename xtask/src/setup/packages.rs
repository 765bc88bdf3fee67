//! Debian packages: installed only where missing, and never at the price of another package.

use std::{
    fs,
    io::{BufRead as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::sh::{self, step};

/// Installs those of `names` that are missing; `purpose` tells the user why.
pub fn install(names: &[&str], purpose: &str, yes: bool) -> Result<()> {
    if !sh::has_program("dpkg-query") {
        // another distribution: the programs may be there under other package names
        return Ok(());
    }
    let missing: Vec<&str> = names.iter().copied().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    let by_hand = format!("sudo apt-get install --no-install-recommends {list}");
    let removed = match simulate(&missing) {
        Ok(removed) => removed,
        Err(_) => {
            update()?;
            simulate(&missing)
                .with_context(|| format!("{purpose}: apt knows no way to install {list}"))?
        }
    };
    if !removed.is_empty() {
        bail!(
            "{purpose}: installing {list} would remove {}; if that is fine, run `{by_hand}` and try again",
            removed.join(" ")
        );
    }
    if !agreed(&format!("install {list} ({purpose})"), yes)? {
        bail!("{purpose}: `{by_hand}` is needed first");
    }
    step(
        &format!("installing {list}: {purpose} (up to a minute)"),
        || {
            let install = || {
                sh::quiet(
                    sh::as_root("env")
                        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
                        .args(["install", "-y", "--no-install-recommends", "--no-remove"])
                        .args(["-o", "DPkg::Lock::Timeout=600"])
                        .args(&missing),
                )
            };
            // an old package list names files that are gone from the mirror
            install()
                .or_else(|_| update().and_then(|()| install()))
                .with_context(|| format!("by hand: `{by_hand}`"))
        },
    )
}

/// Downloads package `name` and unpacks it in the cache, without installing it; returns the
/// folder that stands for `/`.
pub fn unpack(name: &str) -> Result<PathBuf> {
    let folder = sh::cache_dir().join("packages").join(name);
    if folder.join("usr").is_dir() {
        return Ok(folder);
    }
    step(
        &format!(
            "unpacking {name} below {} (a few seconds)",
            folder.display()
        ),
        || {
            let download = folder.with_extension("download");
            fetch(name, &download, &[])
                .or_else(|_| update().and_then(|()| fetch(name, &download, &[])))?;
            extract(&download, &folder)
        },
    )?;
    Ok(folder)
}

/// Downloads package `name` with everything it depends on that is not installed, and unpacks all
/// of it in one folder of the cache; returns the folder, which stands for `/`.
///
/// For what need not, or must not, be installed: QEMU of one version would push out the tools of
/// another.
pub fn unpack_with_dependencies(name: &str, purpose: &str) -> Result<PathBuf> {
    let folder = sh::cache_dir()
        .join("packages")
        .join(format!("{name}-and-dependencies"));
    if folder.join("usr").is_dir() {
        return Ok(folder);
    }
    step(
        &format!("unpacking {name} and what it needs: {purpose} (up to a minute)"),
        || {
            let download = folder.with_extension("download");
            let fetch_all = || {
                let needed = needed(&[name], &[])?;
                let names: Vec<&str> = needed.iter().map(String::as_str).collect();
                fetch_several(&names, &download, &[])
            };
            // an old package list names files that are gone from the mirror
            fetch_all().or_else(|_| update().and_then(|()| fetch_all()))?;
            extract(&download, &folder)
        },
    )
    .with_context(|| format!("{purpose}: {name} can't be had from apt"))?;
    Ok(folder)
}

/// The packages that have to be there for these, and are not, with further options for apt-get.
pub fn needed(names: &[&str], options: &[String]) -> Result<Vec<String>> {
    let plan = sh::capture(
        sh::command("apt-get")
            .args(options)
            .args(["install", "-s", "-q", "--no-install-recommends"])
            .args(names),
    )?;
    Ok(installed(&plan))
}

/// The packages that a simulated `apt-get install` would install.
fn installed(plan: &str) -> Vec<String> {
    plan.lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// The first package that `name` depends on and whose name begins with `prefix`.
pub fn dependency(name: &str, prefix: &str) -> Option<String> {
    let list = sh::capture(sh::command("apt-cache").args(["depends", name])).ok()?;
    depends(&list, prefix).map(str::to_owned)
}

fn depends<'a>(list: &'a str, prefix: &str) -> Option<&'a str> {
    list.lines()
        .filter_map(|line| {
            line.trim_start()
                .trim_start_matches("Pre")
                .strip_prefix("Depends: ")
        })
        .find(|package| package.starts_with(prefix))
}

/// Downloads package `name` into the empty folder `to`, with further options for apt-get.
pub fn fetch(name: &str, to: &Path, options: &[String]) -> Result<()> {
    fetch_several(&[name], to, options)
}

/// Several packages at once.
pub fn fetch_several(names: &[&str], to: &Path, options: &[String]) -> Result<()> {
    // left over from an attempt that was interrupted
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    sh::quiet(
        sh::command("apt-get")
            .args(options)
            // the folder need not be readable for apt's own user
            .args(["-o", "APT::Sandbox::User=root", "download"])
            .args(names)
            .current_dir(to),
    )
}

/// Unpacks the packages in `download` and puts the whole result at `folder`.
pub fn extract(download: &Path, folder: &Path) -> Result<()> {
    let packages: Vec<PathBuf> = fs::read_dir(download)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ext| ext == "deb"))
        .collect();
    if packages.is_empty() {
        bail!("apt-get left no package in {}", download.display());
    }
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    for package in packages {
        sh::quiet(
            sh::command("dpkg-deb")
                .arg("-x")
                .arg(&package)
                .arg(&partial),
        )?;
    }
    fs::rename(&partial, folder)
        .with_context(|| format!("cannot put {} in place", folder.display()))?;
    // only a leftover in the cache if it fails
    let _ = fs::remove_dir_all(download);
    Ok(())
}

/// Whether package `name` is installed.
pub fn has(name: &str) -> bool {
    sh::capture(sh::command("dpkg-query").args(["-W", "-f", "${db:Status-Status}", name]))
        .is_ok_and(|status| status == "installed")
}

fn update() -> Result<()> {
    step("refreshing apt's package lists (10 to 30 s)", || {
        sh::quiet(sh::as_root("apt-get").args(["-q", "update", "-o", "DPkg::Lock::Timeout=600"]))
    })
}

fn simulate(names: &[&str]) -> Result<Vec<String>> {
    let plan = sh::capture(
        sh::command("apt-get")
            .args(["install", "-s", "-q", "--no-install-recommends"])
            .args(names),
    )?;
    Ok(removals(&plan))
}

/// The packages that a simulated `apt-get install` would remove.
fn removals(plan: &str) -> Vec<String> {
    plan.lines()
        .filter_map(|line| line.strip_prefix("Remv "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// Asks before the machine is changed, if there is someone who can answer and has not been
/// asked already by becoming root.
fn agreed(what: &str, yes: bool) -> Result<bool> {
    if yes || sh::is_root() || std::env::var_os("CI").is_some() || !sh::has_terminal() {
        return Ok(true);
    }
    eprint!("xtask: {what}? [Y/n] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(!answer.trim_start().starts_with(['n', 'N']))
}

#[cfg(test)]
mod tests {
    use super::{depends, installed, removals};

    #[test]
    fn a_dependency_is_found_by_its_beginning() {
        let list = "python3-minimal\n  Depends: dpkg\n  Suggests: python3.9\n  PreDepends: python3.11-minimal\n";
        assert_eq!(depends(list, "python3."), Some("python3.11-minimal"));
        assert_eq!(depends(list, "perl"), None);
    }

    #[test]
    fn only_removals_are_listed() {
        let plan = "Reading state…\nRemv rustup [1.25]\nRemv cargo [0.66] []\nInst rustc-web (1.96 Debian)\nConf rustc-web\n";
        assert_eq!(removals(plan), ["rustup", "cargo"]);
        assert!(removals("Inst a\nConf a\n").is_empty());
        assert_eq!(installed(plan), ["rustc-web"]);
    }
}
